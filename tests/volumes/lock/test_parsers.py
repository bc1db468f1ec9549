"""What the kernel says of exports, swap, maps, overlays and namespaces, against recorded samples."""

from __future__ import annotations

import pytest

from voltool.volumes.lock.flight import parse_count, parse_registered
from voltool.volumes.lock.kernel import Export, parse_exports, parse_swaps
from voltool.volumes.lock.overlays import parse_upper
from voltool.volumes.lock.processes import container_of, parse_shared_maps
from voltool.volumes.lock.views import Tree, writable_mounts
from voltool.volumes.mounts import parse_mountinfo

EXPORTS = rb"""# Version 1.1
# Path Client(Flags) # IPs
/srv/data	192.168.1.0/24(rw,no_root_squash,sync,wdelay,no_subtree_check,uuid=3d1f2a6c:0b2d4a55:9d6a2f07:c1e0a1b2,sec=1)
/srv/with\040space	*(ro,root_squash,sync,wdelay,no_subtree_check)
/	*.example.org(rw,root_squash,sync,no_wdelay,fsid=0)
"""


def test_exports() -> None:
    assert parse_exports(EXPORTS) == [
        Export(b"/srv/data", b"192.168.1.0/24", writable=True),
        Export(b"/srv/with space", b"*", writable=False),
        Export(b"/", b"*.example.org", writable=True),
    ]


def test_swaps() -> None:
    text = (
        b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        b"/dev/vda2                               partition\t1048572\t\t0\t\t-2\n"
        b"/srv/vol/swap\\040file                   file\t\t1048572\t\t12\t\t-3\n"
    )
    assert parse_swaps(text) == [b"/srv/vol/swap file"]


def test_only_shared_maps_of_files_count() -> None:
    text = (
        b"55d0c8a00000-55d0c8a21000 r--p 00000000 08:01 1234                       /usr/bin/python3\n"
        b"7f10aa000000-7f10aa001000 r--s 00000000 00:2b 257                        /srv/vol/a name\n"
        b"7f10aa001000-7f10aa002000 rw-s 00000000 00:01 1                          anon_inode:[io_uring]\n"
        b"0000aa002000-0000aa003000 rw-s 00000000 00:2b 258                        /srv/vol/b (deleted)\n"
        b"7f10aa003000-7f10aa004000 rw-p 00000000 00:00 0 \n"
    )
    assert parse_shared_maps(text) == ["7f10aa000000-7f10aa001000", "aa002000-aa003000"]


@pytest.mark.parametrize(
    ("cgroup", "container"),
    [
        ("0::/system.slice/docker-" + "0123456789ab" + "c" * 52 + ".scope\n", "0123456789ab"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
    ],
)
def test_containers(cgroup: str, container: str) -> None:
    assert container_of(cgroup) == container


def test_upper_and_work_directories() -> None:
    (mount,) = parse_mountinfo(
        rb"99 1 0:50 / /merged rw,relatime - overlay overlay rw,lowerdir=/low,upperdir=/srv/a\134,b\040c,workdir=/srv/w"
    )
    assert parse_upper(mount) == [b"/srv/a,b c", b"/srv/w"]
    (mount,) = parse_mountinfo(rb"99 1 0:50 / /merged ro - overlay overlay ro,lowerdir=/low:/lower")
    assert parse_upper(mount) == []


def test_what_is_in_flight_or_registered() -> None:
    assert parse_count(b"pos:\t0\nflags:\t02000002\nmnt_id:\t10\nino:\t122049\nscm_fds: 2\n") == 2
    assert parse_count(b"pos:\t0\nflags:\t02000002\nmnt_id:\t10\nino:\t122049\n") == 0  # before Linux 5.10
    ring = b"SqWorkTime:\t0\nUserFiles:\t3\n    0: /srv/vol/a\\040b\n    2: /srv/vol\nUserBufs:\t1\n    0: 0x7f/4096\nPollList:\n"
    assert parse_count(ring) == 3
    assert parse_registered(ring) == [b"/srv/vol/a b", b"/srv/vol"]
    assert parse_registered(b"UserFiles:\t2\n    0: name\n    1: <none>\nUserBufs:\t0\n") == [b"name", b"<none>"]


TREE = Tree(b"/srv/vol", (8, 1), b"/srv/vol", (8, 9))


@pytest.mark.parametrize(
    ("mountinfo", "numbers"),
    [
        # the tree on the root's mount, uncovered
        (b"20 1 8:1 / / rw - ext4 /dev/sda1 rw", [20]),
        # covered by the lock: a writable bind made read-only, and its copy
        (b"20 1 8:1 / / rw - ext4 x rw\n30 20 8:1 /srv/vol /srv/vol ro - ext4 x rw", []),
        (
            b"20 1 8:1 / / rw - ext4 x rw\n3 20 8:1 /srv/vol /srv/vol rw - ext4 x rw\n4 3 8:1 /srv/vol /srv/vol ro - ext4 x rw",
            [],
        ),
        # a lock that covers only a part
        (b"20 1 8:1 / / rw - ext4 x rw\n30 20 8:1 /srv/vol/a /srv/vol/a ro - ext4 x rw", [20]),
        # out of sight: something else is mounted above it
        (b"20 1 8:1 / / rw - ext4 x rw\n30 20 0:40 / /srv rw - tmpfs x rw", []),
        # a container's volume
        (b"20 1 0:33 / / rw - overlay x rw\n30 20 8:1 /srv/vol/data /data rw - ext4 x rw", [30]),
        # beside it, with the same beginning of its name
        (b"20 1 0:33 / / rw - overlay x rw\n30 20 8:1 /srv/vol2 /data rw - ext4 x rw", []),
        # voltool's own area
        (b"20 1 0:33 / / rw - overlay x rw\n30 20 8:1 /srv/vol/.voltool /data rw - ext4 x rw", []),
        # another file system; a read-only superblock
        (b"20 1 8:2 / / rw - ext4 x rw", []),
        (b"20 1 8:1 / / rw - ext4 x ro", []),
        # mounted elsewhere, a level above the tree
        (b"20 1 0:33 / / rw - overlay x rw\n30 20 8:1 /srv /mnt rw - ext4 x rw", [30]),
    ],
)
def test_through_which_mounts_a_tree_can_be_written(mountinfo: bytes, numbers: list[int]) -> None:
    assert [mount.number for mount in writable_mounts(parse_mountinfo(mountinfo), TREE)] == numbers
