"""What the zfs tool says, as zfs-fuse 0.7.0 said it and as OpenZFS 2.x says it (zfs-list(8), zfs-get(8), libzfs_util.c);
and making and destroying datasets for real."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import zfs as pools
from tests.filesystems import LoopFilesystem
from voltool.errors import HostError, RefusedError
from voltool.volumes import zfs_command as zfs
from voltool.volumes.zfs_command import Dataset, Property, Trouble

Make = Callable[..., LoopFilesystem]

#: list -H -r -t filesystem -o name,mountpoint,mounted,canmount
FUSE_LIST = "ztest\t/srv/z\tyes\ton\nztest/kid\t/srv/z/kid\tyes\ton\nztest/c2\t/srv/c2\tno\tnoauto\n"
OPENZFS_LIST = (
    "rpool/ROOT\tnone\tno\toff\ntank/vol\t/srv/my vol\tyes\ton\ntank/old\tlegacy\tyes\ton\n"
    "tank/secret\t/srv/secret\tno\ton\n"
)
#: get -Hp -o name,property,value,source
FUSE_GET = (
    "ztest@v1\ttype\tsnapshot\t-\nztest@v1\tguid\t529435221488581613\t-\nztest@v1\tdefer_destroy\toff\t-\n"
    "ztest@v1\tvoltool:x\tinh\tinherited from ztest\nztest@v1\tvoltool:label\ta b\tlocal\nztest@v1\tvoltool:none\t-\t-\n"
)
OPENZFS_GET = (
    "tank/vol@voltool-1-a\tguid\t11871938150034410617\t-\ntank/vol@voltool-1-a\tdefer_destroy\ton\t-\n"
    "tank/vol@voltool-1-a\tvoltool:volume\t0123\treceived\ntank/vol\torigin\t-\t-\ntank/vol\tkeystatus\tavailable\t-\n"
)


def test_lists_of_both() -> None:
    assert zfs.parse_datasets(FUSE_LIST)[2] == Dataset("ztest/c2", "/srv/c2", mounted=False, may_mount=False)
    assert zfs.parse_datasets(OPENZFS_LIST) == [
        Dataset("rpool/ROOT", "none", mounted=False, may_mount=False),
        Dataset("tank/vol", "/srv/my vol", mounted=True, may_mount=True),
        Dataset("tank/old", "legacy", mounted=True, may_mount=True),
        Dataset("tank/secret", "/srv/secret", mounted=False, may_mount=True),
    ]
    assert zfs.parse_datasets("") == []


def test_properties_of_both() -> None:
    (fuse,) = zfs.parse_properties(FUSE_GET).values()
    assert fuse["voltool:label"] == Property("a b", "local")
    assert fuse["voltool:x"].source == "inherited from ztest"
    assert fuse["guid"] == Property("529435221488581613", "-")
    assert "voltool:none" not in fuse
    openzfs = zfs.parse_properties(OPENZFS_GET)
    assert openzfs["tank/vol@voltool-1-a"]["voltool:volume"].source == "received"
    assert openzfs["tank/vol@voltool-1-a"]["defer_destroy"].value == "on"
    assert set(openzfs["tank/vol"]) == {"keystatus"}


def test_a_line_of_another_shape_is_refused() -> None:
    with pytest.raises(HostError, match="unexpected"):
        zfs.parse_properties("NAME  PROPERTY  VALUE  SOURCE\n")


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        # zfs-fuse
        ("cannot open 'ztest@none': dataset does not exist\n", Trouble.MISSING),
        ("cannot destroy 'ztest/kid2': dataset is busy\n", Trouble.BUSY),
        ("umount: /srv/z: target is busy.\ncannot unmount '/srv/z': umount failed\n", Trouble.BUSY),
        ("cannot mount 'ztest': mountpoint or dataset is busy\n", Trouble.BUSY),
        ("cannot create 'ztest/kid': dataset already exists\n", Trouble.EXISTS),
        ("cannot snapshot 'ztest@a%b': invalid character % in name\n", Trouble.OTHER),
        ("connect: No such file or directory\nPlease make sure that the zfs-fuse daemon is running.\n", Trouble.OTHER),
        # OpenZFS
        ("could not find any snapshots to destroy; check snapshot names.\n", Trouble.MISSING),
        ("cannot destroy snapshot tank/vol@a: dataset is busy\n", Trouble.BUSY),
        ("cannot unmount '/srv/vol': pool or dataset is busy\n", Trouble.BUSY),
        ("cannot create snapshot 'tank/vol@a': out of space\n", Trouble.SPACE),
        ("cannot create 'tank/vol': permission denied\n", Trouble.RIGHTS),
        ("Permission denied the ZFS utilities must be run as root.\n", Trouble.RIGHTS),
        ("The ZFS modules are not loaded.\nTry running 'modprobe zfs' as root to load them.\n", Trouble.OTHER),
    ],
)
def test_complaints_of_both(text: str, trouble: Trouble) -> None:
    assert zfs.trouble_of(text) is trouble


def test_without_the_tool_nothing_is_a_dataset(monkeypatch: pytest.MonkeyPatch, make_filesystem: Make) -> None:
    path = bytes(make_filesystem("zfs").path)
    assert zfs.dataset_at(path) is not None
    monkeypatch.setattr(zfs, "_search_path", lambda: "/nowhere")
    assert zfs.dataset_at(path) is None
    assert zfs.dataset_containing(path) is None
    with pytest.raises(HostError, match="not there"):
        zfs.call("list")


def test_datasets_are_made_found_and_destroyed(make_filesystem: Make, tmp_path: Path) -> None:
    filesystem = make_filesystem("zfs")
    pool = pools.pool_name(filesystem.path.parent)
    place = filesystem.path / "a place"
    zfs.create_dataset(f"{pool}/vol", bytes(place))
    assert zfs.dataset_at(bytes(place)) == f"{pool}/vol"
    (place / "dir").mkdir()
    assert zfs.dataset_at(bytes(place / "dir")) is None
    assert zfs.dataset_containing(bytes(place / "dir")) == f"{pool}/vol"
    assert zfs.dataset_containing(bytes(filesystem.path)) == zfs.dataset_at(bytes(filesystem.path)) == pool
    assert zfs.dataset_containing(bytes(tmp_path)) is None
    with pytest.raises(RefusedError, match="exists already"):
        zfs.create_dataset(f"{pool}/vol", bytes(tmp_path / "other"))
    (place / "precious").write_bytes(b"data")
    for foreign in (f"{pool}/vol@mine", f"{pool}/vol@voltool-pretended"):
        pools.run("zfs", "snapshot", foreign)
        with pytest.raises(RefusedError, match="voltool did not make") as caught:
            zfs.destroy_dataset(f"{pool}/vol")
        assert foreign in caught.value.where
        pools.run("zfs", "destroy", foreign)
    pools.run("zfs", "create", f"{pool}/vol/child")
    with pytest.raises(RefusedError, match="voltool did not make"):
        zfs.destroy_dataset(f"{pool}/vol")
    pools.patiently("zfs", "destroy", f"{pool}/vol/child", released=f"{pool}/vol/child")
    assert (place / "precious").read_bytes() == b"data"
    for _twice in range(2):
        zfs.destroy_dataset(f"{pool}/vol")
    assert zfs.dataset_containing(bytes(filesystem.path)) == pool
    assert not (place / "precious").exists()


def test_what_cannot_be_mounted_is_not_left(make_filesystem: Make) -> None:
    filesystem = make_filesystem("zfs")
    pool = pools.pool_name(filesystem.path.parent)
    (filesystem.path / "file").write_bytes(b"no directory")
    with pytest.raises((HostError, RefusedError)):
        zfs.create_dataset(f"{pool}/vol", bytes(filesystem.path / "file"))
    assert f"{pool}/vol" not in pools.run("zfs", "list", "-H", "-o", "name")
    assert os.path.isfile(filesystem.path / "file")
    with pytest.raises(HostError):
        zfs.create_dataset(f"{pool}/no/parent", bytes(filesystem.path / "new"))
