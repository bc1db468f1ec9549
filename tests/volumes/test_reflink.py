"""The reflink driver on real XFS and btrfs: what a clone is while the volume is in use, after a crash, when there is no room."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.volume import UUID, make_volume, read_tree
from voltool.errors import RefusedError, SpaceError
from voltool.model import Consistency
from voltool.volumes import reflink_copy, removal
from voltool.volumes.contract import Clone
from voltool.volumes.reflink import ReflinkDriver
from voltool.volumes.reflink_index import CloneIndex
from voltool.volumes.reflink_passes import Pass, PassMaker

Make = Callable[..., LoopFilesystem]


class Ground:
    """A volume with some of everything in it."""

    def __init__(self, filesystem: LoopFilesystem, state: Path) -> None:
        self.filesystem = filesystem.path
        self.record = make_volume(filesystem.path, "reflink", state)
        self.root = filesystem.path / "vol"
        self.clones = filesystem.path / ".voltool" / UUID / "clones"
        self.driver = ReflinkDriver()
        (self.root / "d/sub").mkdir(parents=True)
        (self.root / "d/file").write_bytes(b"first" * 2000)
        (self.root / "d/other name").hardlink_to(self.root / "d/file")
        (self.root / "d/sub/link").symlink_to("../file")
        os.mkfifo(self.root / "d/sub/fifo")
        os.mknod(self.root / "d/sub/device", 0o60640, os.makedev(7, 9))
        (self.root / "sealed").write_bytes(b"sealed")
        (self.root / "sealed too").hardlink_to(self.root / "sealed")
        (self.root / "sealed directory").mkdir()
        (self.root / "sealed directory/inside").write_bytes(b"x")
        with (self.root / "holes").open("wb") as file:
            file.truncate(1 << 20)
            file.seek(3 << 20)
            file.write(os.urandom(1 << 20))
        self.seal("+i")
        time.sleep(0.05)

    def seal(self, how: str) -> None:
        subprocess.run(["chattr", how, self.root / "sealed", self.root / "sealed directory"], check=True)

    def clone(self, label: str) -> Clone:
        return self.driver.clone(self.record, label)

    def left(self) -> list[str]:
        """What is in the directory of clones."""
        return sorted(os.listdir(self.clones))


@pytest.fixture(params=["xfs", "btrfs"])
def ground(request: pytest.FixtureRequest, make_filesystem: Make, tmp_path: Path) -> Ground:
    return Ground(make_filesystem(request.param), tmp_path / "state")


@pytest.fixture
def xfs(make_filesystem: Make, tmp_path: Path) -> Ground:
    return Ground(make_filesystem("xfs"), tmp_path / "state")


def tree(root: bytes | Path) -> dict[bytes, tuple[object, ...]]:
    """All of a tree by path, inode numbers left out; a directory by its names alone, hard links as groups of paths."""
    root = os.fsencode(root)
    inodes = read_tree(root)
    found: dict[bytes, tuple[object, ...]] = {}
    groups: dict[int, list[bytes]] = {}
    for directory, directories, files in os.walk(root):
        for name in [b".", *directories, *files]:
            path = os.path.relpath(os.path.join(directory, name), root)
            status = os.lstat(os.path.join(directory, name))
            groups.setdefault(status.st_ino, []).append(path)
            inode = inodes[status.st_ino][0]
            if os.path.isdir(os.path.join(directory, name)) and not os.path.islink(os.path.join(directory, name)):
                names = sorted(os.listdir(os.path.join(directory, name)))
                found[path] = (*inode._replace(content=b""), *names)
            else:
                found[path] = tuple(inode._replace(links=0))
    return {
        path: (*rest, tuple(sorted(set(next(g for g in groups.values() if path in g))))) for path, rest in found.items()
    }


def test_a_clone_is_all_of_the_volume(ground: Ground) -> None:
    clone = ground.clone("one")
    assert tree(clone.path) == tree(ground.root)
    assert clone.consistency is Consistency.SNAPSHOT
    assert ground.left() == ["one", "one.index"]
    ground.driver.drop(ground.record, clone)
    assert ground.left() == []
    assert (ground.root / "sealed").read_bytes() == b"sealed"


def test_what_is_unchanged_is_shared_with_the_clone_before(ground: Ground) -> None:
    first = Path(os.fsdecode(ground.clone("one").path))
    (ground.root / "d/file").write_bytes(b"second" * 2000)
    ground.seal("-i")
    (ground.root / "sealed directory/inside").unlink()
    (ground.root / "d/sub").rename(ground.root / "moved")
    time.sleep(0.05)
    clone = ground.clone("two")
    second = Path(os.fsdecode(clone.path))
    assert tree(clone.path) == tree(ground.root)
    assert (second / "holes").stat().st_ino == (first / "holes").stat().st_ino
    assert (second / "d/file").stat().st_ino != (first / "d/file").stat().st_ino
    assert (first / "d/file").read_bytes() == b"first" * 2000
    ground.driver.drop(ground.record, ground.driver.find(ground.record, "one"))  # type: ignore[arg-type]
    assert tree(clone.path) == tree(ground.root)


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    passes: list[None] = []
    run = PassMaker.run

    def counted(maker: PassMaker, known: CloneIndex | None) -> Pass:
        passes.append(None)
        return run(maker, known)

    monkeypatch.setattr(PassMaker, "run", counted)
    return passes


def test_a_file_that_is_open_for_writing_makes_no_snapshot(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    with (ground.root / "d/file").open("r+b"):
        clone = ground.clone("one")
    assert clone.consistency is Consistency.LIVE
    index = CloneIndex(clone.path + b".index")
    assert not index.settled((ground.root / "d/file").stat().st_ino)
    assert index.settled((ground.root / "holes").stat().st_ino)
    with (ground.root / "d/file").open("r+b", buffering=0) as file:
        assert ground.clone("opened, not written").consistency is Consistency.LIVE
        file.write(b"written")
        time.sleep(0.05)
        passes = count_passes(monkeypatch)
        assert ground.clone("again").consistency is Consistency.LIVE
        assert len(passes) == 2, "more of them would not make it rest"
    assert ground.clone("two").consistency is Consistency.SNAPSHOT


def test_ranges_are_known_of_the_same_file_alone(ground: Ground) -> None:
    base = ground.clone("one")
    with (ground.root / "holes").open("r+b") as file:
        file.seek((3 << 20) + 8192)
        file.write(os.urandom(4096))
    os.replace(ground.root / "d/other name", ground.root / "d/replaced")
    clone = ground.clone("two")
    ranges = ground.driver.changed_ranges(base, clone, b"holes")
    assert ranges is not None
    changed = {block for part in ranges for block in range(part.offset, part.offset + part.length)}
    assert set(range((3 << 20) + 8192, (3 << 20) + 8192 + 4096)) <= changed
    assert len(changed) <= 64 << 10
    (ground.root / "new").write_bytes((ground.root / "holes").read_bytes())
    os.replace(ground.root / "new", ground.root / "holes")
    assert ground.driver.changed_ranges(base, ground.clone("three"), b"holes") is None
    assert ground.driver.changed_ranges(base, clone, b"d/replaced") is None
    for was_something_else in (b"d/sub/fifo", b"d/sub/device", b"d/sub", b"d/sub/link"):
        assert ground.driver.changed_ranges(base, clone, was_something_else) is None


@pytest.mark.parametrize("when", ["first", "again"])
def test_what_was_prepared_is_taken_over(ground: Ground, when: str) -> None:
    if when == "again":
        ground.clone("before")
        ground.driver.prepare(ground.record)
    ground.driver.prepare(ground.record)
    assert [clone.label for clone in ground.driver.clones(ground.record)] == (["before"] if when == "again" else [])
    ready = (ground.clones / ".prepared/holes").stat().st_ino
    (ground.root / "d/file").write_bytes(b"changed since")
    ground.seal("-i")
    (ground.root / "sealed too").unlink()
    ground.seal("+i")
    time.sleep(0.05)
    clone = ground.clone("one")
    assert tree(clone.path) == tree(ground.root)
    assert Path(os.fsdecode(clone.path), "holes").stat().st_ino == ready
    assert not [name for name in ground.left() if name.startswith(".") or name.endswith(".half")]


def test_a_tree_that_never_rests_lacks_no_name_silently(xfs: Ground) -> None:
    """Directories are moved from where no pass has been to where it was, and back, for as long as the clone takes."""
    for number in range(40):
        (xfs.root / f"at{number}").mkdir()
    (xfs.root / "at0/traveller/below").mkdir(parents=True)
    (xfs.root / "at0/traveller/below/file").write_bytes(b"never lost")
    stop = threading.Event()

    def travel() -> None:
        here, chance = 0, random.Random(1)
        while not stop.is_set():
            there = chance.randrange(40)
            if there != here:
                os.rename(xfs.root / f"at{here}/traveller", xfs.root / f"at{there}/traveller")
                here = there

    thread = threading.Thread(target=travel)
    thread.start()
    try:
        for number in range(12):
            clone = xfs.clone(f"c{number}")
            index = CloneIndex(clone.path + b".index")
            found = list(Path(os.fsdecode(clone.path)).glob("at*/traveller"))
            directories = [path for path in Path(os.fsdecode(clone.path)).rglob("*") if path.is_dir()]
            sources = [index.status(path.stat()).st_ino for path in directories]
            assert len(set(sources)) == len(sources), "a directory is there once"
            if clone.consistency is Consistency.SNAPSHOT:
                assert len(found) == 1
            if not found:
                assert any(index.fuzzy(inode) for inode in sources)
    finally:
        stop.set()
        thread.join()
    clone = xfs.clone("at rest")
    assert tree(clone.path) == tree(xfs.root)
    assert clone.consistency is Consistency.SNAPSHOT


def test_a_directory_that_moves_ahead_of_a_pass_is_cloned_once(xfs: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (xfs.root / f"at{number}/traveller{number}").mkdir(parents=True)
        (xfs.root / f"at{number}/traveller{number}/file").write_bytes(b"x")
    visit = PassMaker._directory
    moves = 0

    def visit_and_move(maker: PassMaker, step: Any) -> None:
        nonlocal moves
        visit(maker, step)
        ahead = [other.path for other in maker._stack if other.path.startswith(b"at") and b"/" not in other.path]
        place = xfs.root / os.fsdecode(step.path)
        if place.name.startswith("traveller") and ahead and place.exists():
            place.rename(xfs.root / os.fsdecode(ahead[0]) / place.name)
            moves += 1

    run = PassMaker.run

    def run_with_all_at_home(maker: PassMaker, known: CloneIndex | None) -> Pass:
        for place in xfs.root.glob("at*/traveller*"):
            place.rename(xfs.root / f"at{place.name[-1]}" / place.name)
        return run(maker, known)

    monkeypatch.setattr(PassMaker, "_directory", visit_and_move)
    monkeypatch.setattr(PassMaker, "run", run_with_all_at_home)
    clone = xfs.clone("one")
    assert moves
    assert clone.consistency is Consistency.LIVE
    index = CloneIndex(clone.path + b".index")
    cloned = [index.status(path.stat()).st_ino for path in Path(os.fsdecode(clone.path)).glob("at*/traveller*")]
    assert len(set(cloned)) == len(cloned)
    monkeypatch.undo()
    assert tree(xfs.clone("two").path) == tree(xfs.root)


def test_names_of_a_file_that_changes_between_them_stay_one_file(xfs: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = PassMaker._keep
    changed = False

    def keep_and_change(
        maker: PassMaker, place: Any, name: str, status: os.stat_result, old: int, source: bytes
    ) -> bool:
        nonlocal changed
        kept = keep(maker, place, name, status, old, source)
        if kept and status.st_nlink == 2 and name in ("file", "other name") and not changed:
            changed = True
            (xfs.root / "d/file").chmod(0o755)
            time.sleep(0.05)
        return kept

    monkeypatch.setattr(PassMaker, "_keep", keep_and_change)
    clone = xfs.clone("one")
    assert changed
    assert tree(clone.path) == tree(xfs.root)


@pytest.mark.parametrize("times", [0, 1, 2, 100])
def test_a_snapshot_is_of_one_moment(xfs: Ground, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Two files are always written together. Whenever one is cloned, for so many times, both are written before the other is."""
    both = [xfs.root / "a first", xfs.root / "z second"]
    written = 0

    def write() -> None:
        for path in both:
            path.write_text(str(written))

    make_file = reflink_copy.make_file

    def made_and_written(live: int, new: int, name: str) -> reflink_copy.Made:
        nonlocal written
        made = make_file(live, new, name)
        if name in ("a first", "z second") and written < times:
            written += 1
            write()
        return made

    write()
    monkeypatch.setattr(reflink_copy, "make_file", made_and_written)
    clone = xfs.clone("one")
    seen = [Path(os.fsdecode(clone.path), path.name).read_text() for path in both]
    if times < 100:
        assert clone.consistency is Consistency.SNAPSHOT
        assert seen == [str(times)] * 2
    else:
        assert clone.consistency is Consistency.LIVE


def test_what_is_mounted_inside_is_an_empty_directory_and_named(xfs: Ground, make_filesystem: Make) -> None:
    for name in ("mounted", "bound"):
        (xfs.root / name).mkdir()
    other = make_filesystem("ext4").path
    (other / "foreign").write_bytes(b"x")
    for source, point in ((other, "mounted"), (xfs.root / "d", "bound")):
        subprocess.run(["mount", "--bind", source, xfs.root / point], check=True)
    try:
        clone = xfs.clone("one")
        origins = xfs.driver.origins(clone)
        assert origins is not None
        assert sorted(origins.skipped) == [b"bound", b"mounted"]
        for name in ("mounted", "bound"):
            place = Path(os.fsdecode(clone.path), name)
            assert list(place.iterdir()) == []
            origins.status(place.stat())
    finally:
        for point in ("mounted", "bound"):
            subprocess.run(["umount", xfs.root / point], check=True)


def test_a_file_system_without_reflinks_is_refused_with_a_remedy(make_filesystem: Make, tmp_path: Path) -> None:
    for filesystem in (make_filesystem("ext4"), make_filesystem("xfs", mkfs_options=["-m", "reflink=0"])):
        record = make_volume(filesystem.path, "reflink", tmp_path / "state")
        with pytest.raises(RefusedError, match="--driver directory"):
            ReflinkDriver().adopt(record.path)
        with pytest.raises(RefusedError, match="--driver directory"):
            ReflinkDriver().clone(record, "one")
        assert list((filesystem.path / "vol").iterdir()) == []


def test_a_full_file_system_leaves_no_half_clone(xfs: Ground) -> None:
    for number in range(3000):
        (xfs.root / f"{number}").touch()
    filler = LoopFilesystem.fill(_Place(xfs.filesystem), leave=300 << 10)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="no room"):
        clone_many(xfs)
    whole = [clone.label for clone in xfs.driver.clones(xfs.record)]
    assert xfs.left() == sorted([*whole, *(f"{label}.index" for label in whole)])
    filler.unlink()
    assert tree(xfs.clone("one").path) == tree(xfs.root)


def clone_many(ground: Ground) -> None:
    for number in range(20):
        ground.clone(f"c{number}")


class _Place:
    def __init__(self, path: Path) -> None:
        self.path = path


_CRASH = """
import os, sys
from pathlib import Path
from voltool.volumes import records, reflink, reflink_passes
state, path, where = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), sys.argv[3]
volume = records.open_home(state, sys.argv[4], path).record
driver = reflink.ReflinkDriver()
def die(*_, **__): os._exit(9)
def die_on(call, number):
    def act(*a, **k):
        act.calls += 1
        if act.calls == number: os._exit(9)
        return call(*a, **k)
    act.calls = 0
    return act
if where == "making": reflink_passes.copy.make_file = die_on(reflink_passes.copy.make_file, 2)
elif where == "second pass": reflink_passes.PassMaker.run = die_on(reflink_passes.PassMaker.run, 2)
elif where == "before whole": reflink.os.rmdir = die
elif where == "prepared":
    driver.prepare(volume)
    reflink.os.rename = die_on(os.rename, 2)
elif where == "dropping":
    clone = driver.clone(volume, "one")
    reflink.remove_tree = die
    driver.drop(volume, clone)
driver.clone(volume, "one")
os._exit(8)
"""


@pytest.mark.parametrize("where", ["making", "second pass", "before whole", "prepared", "dropping"])
def test_after_a_crash_there_is_no_clone_and_the_next_sweeps(xfs: Ground, where: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "state"), str(xfs.root), where, UUID]
    assert subprocess.run([sys.executable, "-c", _CRASH, *arguments], check=False).returncode == 9
    assert xfs.left() != []
    assert xfs.driver.find(xfs.record, "one") is None
    assert xfs.driver.clones(xfs.record) == []
    clone = xfs.clone("two")
    assert tree(clone.path) == tree(xfs.root)
    assert xfs.left() == ["two", "two.index"]


def test_clones_go_with_all_else_of_voltool(xfs: Ground) -> None:
    xfs.clone("one")
    xfs.driver.prepare(xfs.record)
    removal.remove_tree(os.fsencode(xfs.filesystem / ".voltool"))
    assert not (xfs.filesystem / ".voltool").exists()
    assert (xfs.root / "sealed").read_bytes() == b"sealed"


def test_a_lease_of_another_process_is_waited_for(xfs: Ground) -> None:
    """As Samba has on files of its clients: opening asks it back, and succeeds once it was given."""
    program = (
        "import fcntl, os, signal, sys, time\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "signal.signal(signal.SIGIO, lambda *_: (time.sleep(0.3), fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)))\n"
        "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True)\n"
        "time.sleep(1); time.sleep(60)\n"
    )
    path = xfs.root / "d/sub/leased"
    path.write_bytes(b"leased")
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        clone = xfs.clone("one")
        holder.kill()
    assert Path(os.fsdecode(clone.path), "d/sub/leased").read_bytes() == b"leased"
