"""What the btrfs driver says has changed, judged by reading both snapshots in full."""

from __future__ import annotations

import filecmp
import itertools
import mmap
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.mutations import Mutator
from tests.volumes.volume import make_volume, read_tree
from voltool.dumpfile import format as fmt
from voltool.durable import RENAME_EXCHANGE, rename_with_flags
from voltool.inodes import set_flags
from voltool.model import VolumeRecord
from voltool.volumes import delta
from voltool.volumes.btrfs import BtrfsDriver, is_as_cloned
from voltool.volumes.btrfs_ioctl import create_snapshot, destroy_subvolume
from voltool.volumes.contract import Changes, Clone
from voltool.volumes.labels import clones_directory

Make = Callable[..., LoopFilesystem]
#: No copy on write (chattr +C), linux/fs.h.
FS_NOCOW_FL = 0x00800000
#: chattr +d.
FS_NODUMP_FL = 0x00000040


class Judge:
    """Two clones of a volume and the comparison of the driver's word with the trees."""

    def __init__(self, volume: VolumeRecord) -> None:
        self.volume = volume
        self.driver = BtrfsDriver()
        self.root = Path(os.fsdecode(volume.path))
        self._number = 0

    def clone(self) -> Clone:
        self._number += 1
        return self.driver.clone(self.volume, f"clone{self._number}")

    def check(self, base: Clone, clone: Clone) -> Changes:
        """Every inode that differs must be in the changes, with a path that is its own; ranges must hold all bytes."""
        changes = self.driver.changes(self.volume, base, clone)
        assert changes is not None
        said = dict(changes.inodes)
        assert len(said) == len(changes.inodes)
        old, new = read_tree(base.path), read_tree(clone.path)
        for inode, (picture, path) in new.items():
            if inode not in old or old[inode][0] != picture:
                assert inode in said, (path, picture, old.get(inode))
        assert changes.timed <= said.keys()
        with self.driver.same_bytes(base, clone) as same:
            assert same is not None
            for inode, (picture, path) in new.items():
                if stat.S_ISREG(picture.mode) and inode in old and stat.S_ISREG(old[inode][0].mode):
                    equal = same_file(base, old[inode][1], clone, path)
                    assert equal or not same(inode) or picture.size != old[inode][0].size, path
                    assert equal or inode not in changes.timed, path
                    assert inode in said or same(inode), path
        for inode, path in said.items():
            assert os.lstat(os.path.join(clone.path, path) if path else clone.path).st_ino == inode
        for inode, (picture, path) in new.items():
            if stat.S_ISREG(picture.mode) and inode in old and stat.S_ISREG(old[inode][0].mode):
                self.check_ranges(base, clone, old[inode][1], path)
        return changes

    def check_ranges(self, base: Clone, clone: Clone, old_path: bytes, new_path: bytes) -> None:
        ranges = self.driver.changed_ranges(base, clone, new_path)
        old = Path(os.fsdecode(os.path.join(base.path, old_path))).read_bytes()
        new = Path(os.fsdecode(os.path.join(clone.path, new_path))).read_bytes()
        if ranges is None:
            return
        patched = bytearray(old[: len(new)] + bytes(max(0, len(new) - len(old))))
        end = -1
        for part in ranges:
            assert part.offset > end
            end = part.offset + part.length
            assert part.length > 0
            assert end <= len(new)
            patched[part.offset : end] = new[part.offset : end]
        assert bytes(patched) == new, (new_path, ranges)


def same_file(base: Clone, old_path: bytes, clone: Clone, new_path: bytes) -> bool:
    return filecmp.cmp(os.path.join(base.path, old_path), os.path.join(clone.path, new_path), shallow=False)


@pytest.fixture
def judge(make_filesystem: Make, tmp_path: Path) -> Judge:
    filesystem = make_filesystem("btrfs", size=1 << 30)
    return Judge(make_volume(filesystem.path, "btrfs", tmp_path / "state"))


@pytest.mark.parametrize("seed", range(12))
def test_random_operations_between_two_snapshots(judge: Judge, seed: int) -> None:
    mutator = Mutator(judge.root, seed)
    mutator.run(150)
    base = judge.clone()
    for round_ in range(5):
        mutator.run(2 + 20 * round_)
        clone = judge.clone()
        judge.check(base, clone)
        if round_ % 2:
            base = clone


def test_the_mutator_does_what_it_should(judge: Judge) -> None:
    mutator = Mutator(judge.root, 1)
    mutator.run(1500)
    missing = {operation for operation in dir(Mutator) if operation in mutator.done}
    assert len(missing) == len(set(mutator.done)) >= 24, set(mutator.done)


def test_nothing_changed_is_nothing(judge: Judge) -> None:
    (judge.root / "file").write_bytes(b"x")
    base, clone = judge.clone(), judge.clone()
    assert judge.check(base, clone) == Changes(())


def test_a_subvolume_is_as_cloned_until_anything_changes(judge: Judge) -> None:
    """Also when it has been exchanged with a directory, as a move does; never after any one operation, and nothing is left of the
    comparison."""
    mutator = Mutator(judge.root, 7)
    mutator.run(100)
    clones, away = clones_directory(judge.volume), judge.volume.path + b"-away"
    for turn in range(20):
        clone = judge.clone()
        os.mkdir(away)
        rename_with_flags(judge.volume.path, away, RENAME_EXCHANGE)
        assert is_as_cloned(clones, clone.label, away)
        rename_with_flags(away, judge.volume.path, RENAME_EXCHANGE)
        os.rmdir(away)
        before = read_tree(judge.volume.path)
        while read_tree(judge.volume.path) == before:
            mutator.run(1)
        assert not is_as_cloned(clones, clone.label, judge.volume.path), mutator.done[-1]
        assert sorted(os.listdir(clones)) == sorted(
            f"clone{number}{end}".encode() for number in range(1, turn + 2) for end in ("", ".json")
        )
    assert not is_as_cloned(clones, "another", judge.volume.path)


def test_the_traps(judge: Judge) -> None:
    """Each change alone, whose object alone (and perhaps its directory) must be named."""
    root = judge.root
    for name in ("flags", "allocated", "mapped", "nocow", "linked", "times"):
        descriptor = os.open(root / name, os.O_CREAT | os.O_RDWR)
        if name == "nocow":
            set_flags(descriptor, fmt.FLAG_NOCOW, fmt.FLAG_NOCOW)
        os.write(descriptor, os.urandom(1 << 16))
        os.close(descriptor)
    os.link(root / "linked", root / "link2")

    def mapped(path: Path) -> None:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            mapping[40000] ^= 1

    def nocow(path: Path) -> None:
        with open(path, "r+b") as file:
            file.seek(12345)
            file.write(b"in place")

    acts: dict[str, Callable[[Path], object]] = {
        "flags": lambda path: subprocess.run(["chattr", "+d", path], check=True),
        "allocated": lambda path: subprocess.run(["fallocate", "-n", "-o", "1M", "-l", "1M", path], check=True),
        "mapped": mapped,
        "nocow": nocow,
        "linked": lambda path: path.unlink(),
        "times": lambda path: os.utime(path, (1, 1)),
    }
    for name, act in acts.items():
        base = judge.clone()
        inode = (root / name).stat().st_ino
        act(root / name)
        changes = dict(judge.check(base, judge.clone()).inodes)
        assert inode in changes, name
        assert len(changes) <= 2, name
    assert changes[inode] == b"times"


def test_a_linked_file_that_lost_the_name_the_stream_speaks_of(judge: Judge) -> None:
    (judge.root / "a").write_bytes(b"x")
    os.link(judge.root / "a", judge.root / "b")
    base = judge.clone()
    (judge.root / "a").unlink()
    assert (judge.root.joinpath("b").stat().st_ino, b"b") in judge.check(base, judge.clone()).inodes


def test_a_thousand_links(judge: Judge) -> None:
    """More links than fit into one reference item: some are kept in another kind of item."""
    (judge.root / "file").write_bytes(b"x")
    for number in range(1000):
        os.link(judge.root / "file", judge.root / f"{number:04}{'n' * 200}")
    base = judge.clone()
    inode = (judge.root / "file").stat().st_ino
    (judge.root / "file").unlink()
    for number in range(900):
        (judge.root / f"{number:04}{'n' * 200}").unlink()
    assert inode in dict(judge.check(base, judge.clone()).inodes)


def test_an_exchange_of_two_directories(judge: Judge) -> None:
    for name in ("one", "two"):
        (judge.root / name / "sub").mkdir(parents=True)
        (judge.root / name / "sub" / "file").write_bytes(name.encode())
    base = judge.clone()
    rename_with_flags(bytes(judge.root / "one"), bytes(judge.root / "two"), RENAME_EXCHANGE)
    (judge.root / "one/sub/file").write_bytes(b"changed in what was two")
    changes = dict(judge.check(base, judge.clone()).inodes)
    assert changes[(judge.root / "one/sub/file").stat().st_ino] == b"one/sub/file"


def test_ranges_are_small(judge: Judge) -> None:
    path = judge.root / "large"
    path.write_bytes(os.urandom(8 << 20))
    base = judge.clone()
    with open(path, "r+b") as file:
        for block in (0, 100, 101, 2000):
            file.seek(block * 4096 + 7)
            file.write(b"changed")
    clone = judge.clone()
    judge.check(base, clone)
    ranges = judge.driver.changed_ranges(base, clone, b"large")
    assert ranges is not None
    assert [(part.offset // 4096, part.length // 4096) for part in ranges] == [(0, 1), (100, 2), (2000, 1)]
    assert BtrfsDriver().changed_ranges(base, clone, b"large") == ranges


def test_what_is_in_voltools_own_directory_is_not_named(make_filesystem: Make, tmp_path: Path) -> None:
    """A volume that is a mount point keeps its clones inside itself."""
    filesystem = make_filesystem("btrfs")
    record = make_volume(filesystem.path, "btrfs", tmp_path / "s")
    filesystem.unmount()
    subprocess.run(["mount", "-o", "loop,subvol=vol", filesystem.image, filesystem.path], check=True)
    judge = Judge(VolumeRecord(record.uuid, "vol", bytes(filesystem.path), "btrfs", record.epoch, 0))
    base = judge.clone()
    assert base.path.startswith(bytes(filesystem.path) + b"/.voltool/")
    (judge.root / "file").write_bytes(b"x")
    (judge.root / ".voltool/other").write_bytes(b"y")
    changes = dict(judge.check(base, judge.clone()).inodes)
    assert sorted(changes.values()) == [b"", b"file"]


def test_a_parent_that_is_not_ours_is_refused(judge: Judge) -> None:
    base, clone = judge.clone(), judge.clone()
    directory, name = os.path.split(base.path)
    descriptor = os.open(directory, os.O_RDONLY)
    volume = os.open(judge.volume.path, os.O_RDONLY)
    destroy_subvolume(descriptor, name)
    create_snapshot(descriptor, name, volume)
    os.close(volume)
    os.close(descriptor)
    assert judge.driver.changes(judge.volume, base, clone) is None
    assert judge.driver.changed_ranges(base, clone, b"file") is None
    assert judge.driver.find(judge.volume, "clone1") is None


def test_a_parent_that_somebody_wrote_to_is_refused(judge: Judge) -> None:
    base = judge.clone()
    for value in ("false", "true"):
        subprocess.run(["btrfs", "property", "set", base.path, "ro", value], check=True)
        if value == "false":
            Path(os.fsdecode(base.path), "intruder").write_bytes(b"x")
            os.sync()
    assert judge.driver.changes(judge.volume, base, judge.clone()) is None


def test_too_many_changes_are_left_to_the_scan(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    base = judge.clone()
    for number in range(30):
        (judge.root / str(number)).write_bytes(b"x")
    clone = judge.clone()
    judge.check(base, clone)
    monkeypatch.setattr(delta, "MAX_NODES", 20)
    assert BtrfsDriver().changes(judge.volume, base, clone) is None


def test_what_was_only_read(judge: Judge) -> None:
    """Only times are said to have been set of it; where that is so of many, nothing is said. Flags look like that too."""
    for name in ("small", "large", "flagged", "written"):
        (judge.root / name).write_bytes(b"x" * (4 * 4096 if name == "large" else 10))
    base = judge.clone()
    inode = {name: (judge.root / name).stat().st_ino for name in os.listdir(judge.root)}
    for name in inode:
        (judge.root / name).read_bytes()
    with open(judge.root / "flagged", "rb") as file:
        set_flags(file.fileno(), FS_NODUMP_FL, FS_NODUMP_FL)
    (judge.root / "written").write_bytes(b"y" * 10)
    clone = judge.clone()
    changes = judge.check(base, clone)
    assert {name for name, number in inode.items() if number in changes.timed} == {"small", "large", "flagged"}
    assert BtrfsDriver().changes(judge.volume, base, clone, most_timed=2) is None


def test_what_is_on_its_way_is_listed_when_it_lands(judge: Judge) -> None:
    """Clones in the middle of long writes of every kind: whoever has read the older one needs no stamp to know what differs."""
    size = 12 << 20
    names = ["written", "without copies", "direct", "mapped"]
    for name in names:
        (judge.root / name).touch()
    with open(judge.root / "without copies", "rb") as file:
        set_flags(file.fileno(), FS_NOCOW_FL, FS_NOCOW_FL)
    for name in names:
        (judge.root / name).write_bytes(bytes(size))
    over = threading.Event()
    writers = [threading.Thread(target=_write_all_the_time, args=(judge.root / name, size, over)) for name in names]
    for writer in writers:
        writer.start()
    clones, read = [], []
    for _each in range(4):
        clones.append(judge.clone())
        read.append(read_tree(clones[-1].path))
    over.set()
    for writer in writers:
        writer.join()
    assert [read_tree(clone.path) for clone in clones] == read, "nothing has come into a clone since"
    for base, clone in itertools.pairwise([*clones, judge.clone()]):
        judge.check(base, clone)


def _write_all_the_time(path: Path, size: int, over: threading.Event) -> None:
    descriptor = os.open(path, os.O_RDWR | (os.O_DIRECT if path.name == "direct" else 0))
    with mmap.mmap(-1, size) as buffer, mmap.mmap(descriptor, size) as mapped:
        while not over.is_set():
            buffer[:] = os.urandom(1) * size
            if path.name == "mapped":
                mapped[:] = buffer[:]
            else:
                os.pwrite(descriptor, buffer, 0)
    os.close(descriptor)
