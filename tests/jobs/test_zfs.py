"""A volume on ZFS (zfs-fuse) through the command and a real sshd: levels, clones, locks, restores from it and onto it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import judge, torture
from tests import zfs as pools
from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from tests.writer import Writer, wait_until

Make = Callable[..., LoopFilesystem]
#: An ACL that zfs-fuse keeps beside a mode that does not fit it is made to fit elsewhere.
IGNORED = ["xattrs:system.posix_acl"]


class Ground:
    """A pool with a dataset as the volume ``vol`` of ``hosta``."""

    def __init__(self, site: Site, filesystem: LoopFilesystem) -> None:
        self.site = site
        self.filesystem = filesystem
        self.pool = pools.pool_name(filesystem.path.parent)
        self.volume = filesystem.path / "vol"
        pools.run("zfs", "create", f"{self.pool}/vol")

    def datasets(self) -> list[str]:
        """All datasets and snapshots in the pool."""
        return pools.run("zfs", "list", "-H", "-r", "-t", "all", "-o", "name", self.pool).split()


@pytest.fixture
def ground(tmp_path: Path, make_filesystem: Make) -> Iterator[Ground]:
    filesystem = make_filesystem("zfs")
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        yield Ground(site, filesystem)


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_levels_come_back_on_ext4_and_on_zfs(ground: Ground, make_filesystem: Make) -> None:
    site, volume = ground.site, ground.volume
    torture.build(volume)
    (volume / "xattrs/large").unlink()  # larger than what ext4 keeps
    added = site.result("volume", "add", "vol", f"hosta:{volume}")
    assert added["volume"]["driver"] == "zfs"
    checked = site.voltool("host", "check", "hosta").stdout
    assert f"zfs: dumps read a snapshot of {ground.pool}/vol" in checked
    (first,) = site.result("dump", "vol")["dumps"]
    (volume / "sizes/text-4097").write_bytes(b"changed")
    os.rename(volume / "crowd", volume / "renamed")
    with open(volume / "sizes/random-3145745", "r+b") as file:
        file.seek(1_000_000)
        file.write(b"in the middle")
    (second,) = site.result("dump", "--level", "1", "vol")["dumps"]
    assert (first["consistency"], second["consistency"]) == ("snapshot", "snapshot")
    assert first["data_bytes"] > 50_000_000
    assert second["data_bytes"] < 100_000
    assert site.result("clones", "vol")["clones"] == []
    assert ground.datasets() == [ground.pool, f"{ground.pool}/vol"]
    elsewhere = make_filesystem("ext4").path / "target"
    pools.run("zfs", "create", f"{ground.pool}/target")
    for target in (elsewhere, ground.filesystem.path / "target"):
        site.voltool("restore", "vol", f"hosta:{target}")
        assert judge.compare(volume, target, ignore=IGNORED if target == elsewhere else ()) == [], target


def test_what_whole_seconds_cost_is_told(ground: Ground, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, moment in {"even": 10**9, "odd": 10**9 + 1, "late": 2**32 * 10**9}.items():
        (source / name).touch()
        os.utime(source / name, ns=(moment, moment))
    os.utime(source, ns=(10**9, 10**9))
    ground.site.voltool("volume", "add", "vol", f"hosta:{source}")
    ground.site.voltool("dump", "vol")
    done = ground.site.voltool("--json", "restore", "vol", f"hosta:{ground.volume}")
    told = {
        event["message"]
        for event in events(done.stdout)
        if event["event"] == "notice" and "not restored" in event["message"]
    }
    assert told == {
        "not restored: fraction of a second of the time of odd",
        "not restored: time before 1901 or after 2038 of late",
    }
    assert (ground.volume / "odd").lstat().st_mtime_ns == 10**9


def test_a_lock_locks_and_a_clone_is_frozen(ground: Ground, tmp_path: Path) -> None:
    site, volume = ground.site, ground.volume
    (volume / "file").write_bytes(b"before")
    site.voltool("volume", "add", "vol", f"hosta:{volume}")
    with open(volume / "file", "ab"):
        done = site.voltool("lock", "vol", "--lock-timeout", "0", check=False)
    assert done.returncode == 4
    assert f"{volume}/file" in done.stderr
    writer = Writer(volume, tmp_path)
    try:
        site.voltool("lock", "vol", "--lock-timeout", "60")
        wait_until(lambda: writer.refused)
    finally:
        writer.stop()
    assert writer.lost(volume) == []
    with pytest.raises(OSError, match="Read-only"):
        (volume / "new").write_bytes(b"")
    clone = site.result("clone", "vol")["clone"]
    assert clone["consistency"] == "snapshot"
    site.voltool("dump", "vol")
    site.voltool("unlock", "vol")
    (volume / "file").write_bytes(b"after")
    assert (Path(clone["path"]) / "file").read_bytes() == b"before"
    assert [one["id"] for one in site.result("clones", "vol")["clones"]] == [clone["id"]]
    site.voltool("clones", "vol", "--drop", clone["id"])
    assert ground.datasets() == [ground.pool, f"{ground.pool}/vol"]
