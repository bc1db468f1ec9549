"""The contract of drivers (volumes/contract.py), held against each of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.volume import UUID, make_volume, read_tree
from voltool.errors import RefusedError, SpaceError, UsageError, VoltoolError
from voltool.model import VolumeRecord
from voltool.origins import original
from voltool.volumes import records
from voltool.volumes.btrfs_ioctl import create_subvolume
from voltool.volumes.contract import Changes, Driver
from voltool.volumes.registry import detect, driver_named, driver_names

Make = Callable[..., LoopFilesystem]


class Case:
    """A volume of one driver, with one file in it."""

    def __init__(self, name: str, volume: VolumeRecord, state: bytes) -> None:
        self.driver: Driver = driver_named(name)
        self.volume = volume
        self.state = state
        self.root = Path(os.fsdecode(volume.path))
        (self.root / "file").write_bytes(b"first")

    @property
    def clones(self) -> Path:
        return Path(os.fsdecode(records.area_of(self.volume.path, UUID))) / "clones"


@pytest.fixture(
    params=[
        ("directory", "ext4"),
        ("directory", "btrfs"),
        ("directory", "tmpfs"),
        ("btrfs", "btrfs"),
        ("reflink", "xfs"),
        ("reflink", "btrfs"),
        ("zfs", "zfs"),
    ]
)
def case(request: pytest.FixtureRequest, make_filesystem: Make, tmp_path: Path) -> Case:
    driver, kind = request.param
    volume = make_volume(make_filesystem(kind).path, driver, tmp_path / "state")
    return Case(driver, volume, bytes(tmp_path / "state"))


@pytest.fixture
def snapshots(make_filesystem: Make, tmp_path: Path) -> Case:
    volume = make_volume(make_filesystem("btrfs").path, "btrfs", tmp_path / "state")
    return Case("btrfs", volume, bytes(tmp_path / "state"))


def read(driver: Driver, clone: object, name: str = "file") -> bytes:
    root = driver.open(clone)  # type: ignore[arg-type]
    try:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=root)
        with open(descriptor, "rb") as file:
            return file.read()
    finally:
        os.close(root)


def test_every_driver_is_tested(request: pytest.FixtureRequest) -> None:
    assert driver_names() == ["btrfs", "directory", "reflink", "zfs"]
    assert [driver_named(name).name for name in driver_names()] == driver_names()
    with pytest.raises(UsageError, match="nonsense"):
        driver_named("nonsense")


def test_a_clone_is_what_the_volume_was(case: Case) -> None:
    before = time.time_ns()
    clone = case.driver.clone(case.volume, "dump1")
    assert before <= clone.time_ns <= time.time_ns()
    assert clone.label == "dump1"
    (case.root / "file").write_bytes(b"second")
    assert read(case.driver, clone) == (b"second" if clone.live else b"first")
    assert clone.consistency.value == ("live" if clone.live else "snapshot")


def test_a_frozen_clone_is_found_again_and_dropped(case: Case) -> None:
    clone = case.driver.clone(case.volume, "dump1")
    fresh = driver_named(case.driver.name)
    if clone.live:
        assert fresh.find(case.volume, "dump1") is None
        assert fresh.clones(case.volume) == []
    else:
        assert fresh.find(case.volume, "dump1") == clone
        other = fresh.clone(case.volume, "dump2")
        assert fresh.clones(case.volume) == [clone, other]
    assert fresh.find(case.volume, "no such") is None
    for _twice in range(2):
        fresh.drop(case.volume, clone)
        assert fresh.find(case.volume, "dump1") is None
    assert (case.root / "file").read_bytes() == b"first"


def test_changes_are_complete_or_none(case: Case) -> None:
    (case.root / "blocks").write_bytes(bytes(8192))
    base = case.driver.clone(case.volume, "base")
    (case.root / "dir").mkdir()
    (case.root / "dir/new").write_bytes(b"x")
    clone = case.driver.clone(case.volume, "next")
    changes = case.driver.changes(case.volume, base, clone)
    ranges = case.driver.changed_ranges(base, clone, b"blocks")
    assert ranges == ([] if case.driver.name in ("btrfs", "reflink") else None)
    if case.driver.name == "btrfs":
        assert isinstance(changes, Changes)
        old, new = read_tree(base.path), read_tree(clone.path)
        differing = {inode for inode in new if inode not in old or old[inode][0] != new[inode][0]}
        assert differing <= {inode for inode, _path in changes.inodes}
    else:
        assert changes is None


def test_what_a_clone_says_of_inodes_is_what_the_volume_says(case: Case) -> None:
    (case.root / "link").hardlink_to(case.root / "file")
    case.driver.prepare(case.volume)
    clone = case.driver.clone(case.volume, "dump1")
    origins = case.driver.origins(clone)
    for name in ("", "file", "link"):
        own = os.lstat(os.path.join(clone.path, os.fsencode(name)))
        live = (case.root / name).lstat()
        seen = original(origins, own)
        assert (seen.st_ino, seen.st_ctime_ns, seen.st_nlink) == (live.st_ino, live.st_ctime_ns, live.st_nlink)


def test_adopting_touches_nothing(case: Case) -> None:
    before = read_tree(case.volume.path)
    for _twice in range(2):
        case.driver.adopt(case.volume.path)
    assert read_tree(case.volume.path) == before


def test_errors_are_ours(case: Case) -> None:
    missing = VolumeRecord(UUID, "vol", case.volume.path + b"x", case.driver.name, case.volume.epoch, 0)
    with pytest.raises(VoltoolError):
        case.driver.adopt(missing.path)
    with pytest.raises(VoltoolError):
        case.driver.clone(missing, "dump1")
    assert case.driver.find(missing, "dump1") is None
    assert case.driver.clones(missing) == []


# ------------------------------------------------------------------------------------------------------ snapshots


def test_auto_prefers_snapshots(snapshots: Case) -> None:
    assert detect(snapshots.volume.path) == "btrfs"
    (snapshots.root / "dir").mkdir()
    assert detect(bytes(snapshots.root / "dir")) == "directory"
    assert detect(b"/proc") == "directory"


def test_a_snapshot_cannot_be_written_to(snapshots: Case) -> None:
    clone = snapshots.driver.clone(snapshots.volume, "dump1")
    with pytest.raises(OSError, match="Read-only"):
        Path(os.fsdecode(clone.path), "file").write_bytes(b"x")


def test_a_label_is_used_once_and_is_a_name(snapshots: Case) -> None:
    snapshots.driver.clone(snapshots.volume, "dump1")
    with pytest.raises(RefusedError, match="exists"):
        snapshots.driver.clone(snapshots.volume, "dump1")
    for label in ("", "..", "a/b", "/etc", ".hidden"):
        with pytest.raises(RefusedError, match="label"):
            snapshots.driver.clone(snapshots.volume, label)


def test_nested_subvolumes_are_refused_by_name(snapshots: Case) -> None:
    (snapshots.root / "dir").mkdir()
    descriptor = os.open(snapshots.root / "dir", os.O_RDONLY)
    create_subvolume(descriptor, b"inner")
    os.close(descriptor)
    for act in (
        lambda: snapshots.driver.adopt(snapshots.volume.path),
        lambda: snapshots.driver.clone(snapshots.volume, "dump1"),
    ):
        with pytest.raises(RefusedError, match="dir/inner"):
            act()
    assert not (snapshots.clones / "dump1").exists()
    assert not (snapshots.clones / "dump1.json").exists()


def test_an_active_swap_file_is_named(snapshots: Case) -> None:
    swap = snapshots.root / "swap"
    swap.touch()
    subprocess.run(["chattr", "+C", swap], check=True)
    swap.write_bytes(bytes(32 << 20))
    swap.chmod(0o600)
    subprocess.run(["mkswap", swap], check=True, capture_output=True)
    done = subprocess.run(["swapon", swap], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this machine cannot swap: {done.stderr.strip()}")
    try:
        with pytest.raises(RefusedError, match="swap file"):
            snapshots.driver.clone(snapshots.volume, "dump1")
    finally:
        subprocess.run(["swapoff", swap], check=True)
    assert snapshots.driver.clone(snapshots.volume, "dump1").label == "dump1"


def test_a_directory_that_is_no_subvolume_is_refused(snapshots: Case) -> None:
    (snapshots.root / "dir").mkdir()
    with pytest.raises(RefusedError, match="not a btrfs subvolume"):
        snapshots.driver.adopt(bytes(snapshots.root / "dir"))


_CRASH = """
import os, sys
from voltool.volumes import btrfs, records
from voltool.volumes.registry import driver_named
state, path, where = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), sys.argv[3]
volume = records.open_home(state, sys.argv[4], path).record
driver = driver_named("btrfs")
def die(*_): os._exit(9)
if where == "before": btrfs.btrfs.create_snapshot = die
elif where == "after": btrfs._info = die
else:
    clone = driver.clone(volume, "dump1")
    btrfs.durable.remove_file = die
    driver.drop(volume, clone)
driver.clone(volume, "dump1")
"""


@pytest.mark.parametrize("where", ["before", "after", "drop"])
def test_after_a_crash_the_clone_is_there_whole_or_not_at_all(snapshots: Case, where: str) -> None:
    arguments = [os.fsdecode(snapshots.state), str(snapshots.root), where, UUID]
    assert subprocess.run([sys.executable, "-c", _CRASH, *arguments], check=False).returncode == 9
    assert (snapshots.clones / "dump1.json").exists()
    found = snapshots.driver.find(snapshots.volume, "dump1")
    if where == "after":
        assert found is not None
        assert found.uuid
        assert read(snapshots.driver, found) == b"first"
        assert json.loads((snapshots.clones / "dump1.json").read_bytes())["uuid"] == found.uuid
        snapshots.driver.drop(snapshots.volume, found)
    else:
        assert found is None
    assert snapshots.driver.clones(snapshots.volume) == []
    clone = snapshots.driver.clone(snapshots.volume, "dump1")
    snapshots.driver.drop(snapshots.volume, clone)
    assert list(snapshots.clones.iterdir()) == []


def test_a_full_file_system_is_a_space_error_and_leaves_nothing(make_filesystem: Make, tmp_path: Path) -> None:
    filesystem = make_filesystem("btrfs", size=120 << 20)
    volume = make_volume(filesystem.path, "btrfs", tmp_path / "state")
    case = Case("btrfs", volume, bytes(tmp_path / "state"))
    case.driver.drop(volume, case.driver.clone(volume, "first"))
    filler = filesystem.fill()
    made = 0
    try:
        for number in range(3000):
            (case.root / str(number)).write_bytes(bytes(2000))
        pytest.fail("the file system did not fill up")
    except OSError:
        pass
    try:
        case.driver.clone(volume, "dump1")
        made = 1
    except SpaceError:
        assert not (case.clones / "dump1").exists()
    filler.unlink()
    assert len(case.driver.clones(volume)) == made
