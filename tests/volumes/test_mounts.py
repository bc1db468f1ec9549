"""Parsing of mountinfo against recorded samples, and the real thing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from voltool.volumes.mounts import (
    is_mount_point,
    is_within,
    mount_of,
    nested_mounts,
    parse_mountinfo,
    read_mounts,
)
from voltool.volumes.traits import synchronize, traits_of

Make = Callable[..., LoopFilesystem]

SAMPLE = rb"""24 1 253:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
25 24 0:23 / /proc rw,nosuid,nodev,noexec,relatime shared:5 master:3 - proc proc rw
90 24 0:45 /@home /home rw,noatime - btrfs /dev/mapper/data rw,space_cache=v2,subvol=/@home
91 90 8:17 / /home/with\040space\011tab\012line\134back ro shared:9 propagate_from:2 unbindable - xfs /dev/sdb1 rw,attr2
92 24 0:51 / /mnt/a rw - fuse.sshfs user@host:/dir rw,user_id=0
93 92 0:52 / /mnt/a rw - tmpfs none rw
94 24 0:53 / /mnt/ab rw - tmpfs tmpfs rw
95 24 0:54 /\303\244 /mnt/\303\274 rw - tmpfs a\040source rw
a line that is none
96 24 x:y / /broken rw - tmpfs none rw
"""


def test_a_recorded_mountinfo() -> None:
    mounts = parse_mountinfo(SAMPLE)
    assert [mount.number for mount in mounts] == [24, 25, 90, 91, 92, 93, 94, 95]
    home, odd = mounts[2], mounts[3]
    assert (home.root, home.point, home.kind, home.device) == (b"/@home", b"/home", "btrfs", (0, 45))
    assert "subvol=/@home" in home.super_options
    assert odd.point == b"/home/with space\ttab\nline\\back"
    assert (odd.parent, odd.options, odd.source) == (90, ("ro",), b"/dev/sdb1")
    assert mounts[7].root == "/ä".encode()
    assert mounts[7].source == b"a source"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"/", 24),
        (b"/etc", 24),
        (b"/home", 90),
        (b"/home/x/y", 90),
        (b"/homes", 24),
        (b"/mnt/a/x", 93),
        (b"/mnt/ab", 94),
    ],
)
def test_the_mount_of_a_path_is_the_deepest_and_last(path: bytes, number: int) -> None:
    mount = mount_of(path, parse_mountinfo(SAMPLE))
    assert mount is not None
    assert mount.number == number


def test_nested_mounts_are_those_strictly_below() -> None:
    mounts = parse_mountinfo(SAMPLE)
    assert nested_mounts(b"/mnt", mounts) == [b"/mnt/a", b"/mnt/ab", "/mnt/ü".encode()]
    assert nested_mounts(b"/mnt/a", mounts) == []
    assert len(nested_mounts(b"/", mounts)) == 6
    assert is_mount_point(b"/mnt/a", mounts)
    assert not is_mount_point(b"/mnt", mounts)


def test_within_is_by_component() -> None:
    assert is_within(b"/a/b", b"/a")
    assert is_within(b"/a", b"/a")
    assert is_within(b"/a", b"/")
    assert not is_within(b"/ab", b"/a")
    assert not is_within(b"/a", b"/a/b")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_a_real_file_system(make_filesystem: Make, kind: str) -> None:
    path = os.fsencode(make_filesystem(kind).path)
    assert is_mount_point(path)
    mount = mount_of(path + b"/below", read_mounts())
    assert mount is not None
    assert mount.kind == kind
    traits = traits_of(path)
    assert traits.kind == kind
    assert traits.stable_inodes
    assert traits.leases == (kind != "tmpfs")
    descriptor = os.open(path, os.O_RDONLY)
    assert traits_of(descriptor) == traits
    os.close(descriptor)
    synchronize(path)


def test_a_bind_mount_of_a_directory_is_a_mount_point(make_filesystem: Make) -> None:
    path = make_filesystem("ext4").path
    (path / "dir\nwith line").mkdir()
    (path / "bound").mkdir()
    subprocess.run(["mount", "--bind", path / "dir\nwith line", path / "bound"], check=True)
    assert is_mount_point(bytes(path / "bound"))
    assert nested_mounts(bytes(path)) == [bytes(path / "bound")]


def test_file_systems_that_promise_nothing() -> None:
    assert not traits_of(b"/proc").stable_inodes
    assert not traits_of(b"/proc").leases
    with pytest.raises(FileNotFoundError):
        traits_of(bytes(Path("/no/such/place")))


def test_snapshots_that_openzfs_mounts_by_itself_are_nobodys() -> None:
    text = (
        b"60 25 0:50 / /srv/vol rw,relatime shared:30 - zfs tank/vol rw,xattr,posixacl\n"
        b"61 60 0:51 / /srv/vol/.zfs/snapshot/daily rw,relatime shared:31 - zfs tank/vol@daily ro,xattr,posixacl\n"
        b"62 60 0:52 / /srv/vol/child rw,relatime shared:32 - zfs tank/vol/child rw,xattr,posixacl\n"
    )
    assert nested_mounts(b"/srv/vol", parse_mountinfo(text)) == [b"/srv/vol/child"]
