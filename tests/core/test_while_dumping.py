"""A live tree changes under the dump's feet: between scan and reading, between two pieces of one file, during the walk.

Each trap is shown twice: with its cure nothing is lost; with the cure taken out in the agent, the loss is there, so the
trap is a real one and the test sees it.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.core.harness import Rig
from tests.judge import compare
from voltool.leases import lease_test
from voltool.model import Problem, StoredDump
from voltool.tree import planning, smallfiles, walk
from voltool.tree.layout import data_segments
from voltool.tree.stamps import SETTLED
from voltool.tree.state import StateKeeper
from voltool.tree.walk import TICK_NS, Walker
from voltool.volumes import directory as directory_driver

MIB = 1 << 20


def rest() -> None:
    """Longer than a tick: what was written before may count as settled."""
    time.sleep(2 * TICK_NS / 1e9)


def restored(rig: Rig, dump: StoredDump) -> Path:
    target = rig.directory.parent / f"restored-{dump.header.dump_id[:8]}"
    rig.restore(dump, target)
    return target


def assert_equal(rig: Rig, dump: StoredDump) -> None:
    assert compare(rig.path, restored(rig, dump)) == []


def is_settled(rig: Rig, dump: StoredDump, path: Path) -> bool:
    state = StateKeeper(os.fsencode(rig.area / "states")).open(dump.totals.state_id)
    assert state is not None
    assert state.stamps is not None
    home = state.stamps.find(path.stat().st_ino)
    state.close()
    return home is not None and bool(home[64] & SETTLED)


# --------------------------------------------------------------------------------------- between scan and reading


def grow_small(path: Path) -> None:
    with path.open("ab") as file:
        file.write(os.urandom(2 * MIB))


def grow_large(path: Path) -> None:
    with path.open("ab") as file:
        file.write(os.urandom(MIB))


def shrink(path: Path) -> None:
    os.truncate(path, 1000)


def fill_a_hole(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(os.urandom(MIB))


@pytest.mark.parametrize(
    ("size", "change"), [(1000, grow_small), (2 * MIB, grow_large), (3 * MIB, shrink)], ids=["small", "large", "shrunk"]
)
def test_a_file_whose_size_changes_between_scan_and_reading(
    rig: Rig, size: int, change: Callable[[Path], None]
) -> None:
    """It is named unstable, and never settled: with the content of its old size under the stamp of its new one it would
    not be read again. Cures: ``grown`` in smallfiles.py; the size asked for in planning.py's ``_look``."""
    file = rig.path / "file"
    file.write_bytes(os.urandom(size))
    rest()

    def act() -> None:
        change(file)
        rest()

    first = rig.dump(0, after_scan=act)
    assert rig.problems()[b"file"].problem is Problem.UNSTABLE
    assert restored(rig, first).joinpath("file").stat().st_size == size
    assert_equal(rig, rig.dump(1))
    assert_equal(rig, rig.dump(0))


def test_a_hole_that_is_filled_after_it_was_found(rig: Rig) -> None:
    """Holes are found before the data is read: the stamp of that moment must be the stamp of all pieces. Cure:
    ``large.before`` in planning.py's ``_look``."""
    file = rig.path / "sparse"
    with file.open("wb") as opened:
        opened.write(os.urandom(MIB))
        opened.truncate(6 * MIB)
    rest()

    def fill_late() -> None:
        def late(*arguments: int) -> Iterator[tuple[int, int]]:
            found = list(data_segments(*arguments))
            fill_a_hole(file)
            rest()
            return iter(found)

        patch.object(planning, "data_segments", late).start()

    rig.dump(0, inject=fill_late)
    assert rig.problems()[b"sparse"].problem is Problem.UNSTABLE
    assert_equal(rig, rig.dump(1))


def test_a_file_that_vanishes_is_no_fault(rig: Rig) -> None:
    for name in ("old", "new"):
        (rig.path / name).write_bytes(b"content")
    big = rig.path / "big"
    big.write_bytes(os.urandom(2 * MIB))
    rig.dump(0)
    new = [rig.path / name for name in ("newer", "link", "fifo")]
    new[0].write_bytes(b"content")
    new[1].symlink_to("old")
    os.mkfifo(new[2])

    def vanish() -> None:
        for path in (*new, rig.path / "old", big):
            path.unlink()

    os.utime(rig.path / "old")
    os.utime(big)
    dump = rig.dump(1, after_scan=vanish)
    assert rig.outcome is not None
    assert rig.outcome.exit_code == 0
    assert dump.problems == ()
    target = rig.directory.parent / "vanished"
    assert rig.restore(dump, target) == ()
    assert sorted(path.name for path in target.iterdir()) == ["big", "new", "old"]
    assert_equal(rig, rig.dump(2))


def test_a_file_held_open_for_writing_is_dumped_named_and_looked_at_again(rig: Rig) -> None:
    """Cure: the lease test. Its later writes have the same stamp only if nobody looks; that nobody writes is never certain."""
    small, large = rig.path / "log", rig.path / "image"
    small.write_bytes(b"line\n")
    large.write_bytes(os.urandom(8 * MIB))
    rest()
    with small.open("r+b"), large.open("r+b") as image:
        first = rig.dump(0)
        assert rig.outcome is not None
        assert rig.outcome.exit_code == 3
        assert {path: found.problem for path, found in rig.problems().items()} == {
            b"log": Problem.UNSTABLE,
            b"image": Problem.UNSTABLE,
        }
        assert not is_settled(rig, first, small)
        assert not is_settled(rig, first, large)
        assert_equal(rig, first)
        image.seek(4 * MIB)
        image.write(b"new" * 1000)
        image.flush()
        second = rig.dump(1, unstable_ok=(b"log", b"ima*"))
        assert rig.outcome.exit_code == 0
        assert second.totals.data_bytes <= 8192, "of an open image, too, only what changed is sent"
        assert_equal(rig, second)
    third = rig.dump(2)
    assert third.problems == ()
    assert_equal(rig, third)


# ------------------------------------------------------------------------------------------------- stamps that lie


def without_leases() -> None:
    patch.object(smallfiles, "lease_test", lambda _descriptor: True).start()


def without_sync() -> None:
    patch.object(directory_driver, "synchronize", lambda _path: None).start()


def without_both() -> None:
    without_leases()
    without_sync()


@contextmanager
def dirty_mapping(path: Path) -> Iterator[mmap.mmap]:
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    yield mapped
    mapped.close()


def _dumps_around_a_second_write(rig: Rig, inject: Callable[[], None] | None) -> tuple[bytes, bool]:
    """What level 1 restores, and whether the stamp stayed the same over the second write."""
    file = rig.path / "database"
    file.write_bytes(b"0" * 8192)
    os.sync()
    rest()
    with dirty_mapping(file) as mapped:
        mapped[0:1] = b"1"
        rest()
        rig.dump(0, inject=inject)
        before = file.stat().st_ctime_ns
        mapped[0:1] = b"2"
        same = file.stat().st_ctime_ns == before
        second = rig.dump(1, inject=inject)
    return restored(rig, second).joinpath("database").read_bytes()[:1], same


@pytest.mark.parametrize(
    "inject", [None, without_leases, without_sync], ids=["cured", "by sync alone", "by lease alone"]
)
def test_a_page_dirtied_twice_through_a_mapping(rig: Rig, inject: Callable[[], None] | None) -> None:
    """Written, read by the dump, written again without a new stamp. Cures, each enough: ``synchronize`` in the directory
    driver's clone (a clean page takes a fault and a stamp); the lease test (a mapping keeps the file open for writing)."""
    assert _dumps_around_a_second_write(rig, inject)[0] == b"2"


def test_a_page_dirtied_twice_is_lost_without_the_cures(ext4: Path, make_rig: Callable[..., Rig]) -> None:
    for _ in range(5):  # the kernel may happen to write the page back in between
        found, same = _dumps_around_a_second_write(make_rig(ext4), without_both)
        if same:
            assert found == b"1"
            return
    raise AssertionError("the stamp changed each time")


def test_what_was_written_within_the_last_tick_is_not_settled(rig: Rig) -> None:
    """A second write within the tick could have the same stamp (kernels before 6.13). Cure: the age in ``settled``."""
    young, old = rig.path / "young", rig.path / "old"
    for file in (young, old):
        file.write_bytes(b"a" * 100)
    rest()

    def write_just_before_reading() -> None:
        def late(descriptor: int) -> bool | None:
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/young"):
                young.write_bytes(b"b" * 100)
            return lease_test(descriptor)

        patch.object(smallfiles, "lease_test", late).start()

    dump = rig.dump(0, inject=write_just_before_reading)
    assert is_settled(rig, dump, old)
    assert not is_settled(rig, dump, young)
    rig.dump(1)
    assert rig.outcome is not None
    assert rig.outcome.totals is not None
    assert rig.outcome.totals.files == 1, "the young file is read again, the old one is not"


@pytest.mark.parametrize("size", [5000, 2 * MIB])
def test_same_size_and_modification_time_but_other_content(rig: Rig, size: int) -> None:
    file = rig.path / "file"
    file.write_bytes(os.urandom(size))
    rest()
    rig.dump(0)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(os.urandom(100))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_equal(rig, rig.dump(1))


def test_an_inode_number_given_out_again(rig: Rig) -> None:
    """ext4 gives the number of a deleted file to the next one; size and modification time are made the same."""
    reused = 0
    rest()
    for number in range(20):
        file = rig.path / "file"
        file.write_bytes(b"%04d" % number)
        os.utime(file, ns=(0, 0))
        rest()
        rig.dump(min(number, 1))
        before = file.stat().st_ino
        file.unlink()
        other = rig.path / f"other-{number}"
        other.write_bytes(b"%04d" % (number + 1000))
        os.utime(other, ns=(0, 0))
        reused += other.stat().st_ino == before
        if reused:
            break
    assert reused, "no inode number came again"
    assert_equal(rig, rig.dump(1))


# ------------------------------------------------------------------------------------------------- moved in the walk


def move_when_listed(volume: Path) -> Callable[[], None]:
    """Of the first two directories that are listed below the root, what is in the second one moves to the first, between
    the two listings."""

    def inject() -> None:
        real = os.scandir
        listed: list[str] = []

        def scandir(where: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else ""
            if os.path.dirname(path) == str(volume) and path not in listed:
                listed.append(path)
                if len(listed) == 2:
                    for name in os.listdir(path):
                        os.rename(os.path.join(path, name), os.path.join(listed[0], name))
            return real(where)

        walk.os.scandir = scandir  # type: ignore[attr-defined]

    return inject


def two_directories(volume: Path, kind: str) -> None:
    for directory in ("a", "b"):
        (volume / directory).mkdir()
        below = volume / directory / f"from-{directory}"
        if kind == "directory":
            below.mkdir()
            below = below / "inside"
        below.write_bytes(b"content of " + directory.encode())


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("level", [0, 1])
def test_what_moves_into_a_directory_already_listed(rig: Rig, kind: str, level: int) -> None:
    """Neither listing has it, and a complete manifest would delete it. Cure: ``Walker._settle`` lists again what changed."""
    two_directories(rig.path, kind)
    rest()
    if level:
        rig.dump(0)
    assert_equal(rig, rig.dump(level, inject=move_when_listed(rig.path)))


@pytest.mark.parametrize("level", [0, 1])
def test_what_moves_is_lost_without_the_cure(rig: Rig, level: int) -> None:
    two_directories(rig.path, "file")
    rest()
    if level:
        rig.dump(0)

    def uncured() -> None:
        patch.object(Walker, "_settle", lambda _self: None).start()
        move_when_listed(rig.path)()

    dump = rig.dump(level, inject=uncured)
    lost = [line for line in compare(rig.path, restored(rig, dump)) if line.startswith("only in the first")]
    assert len(lost) == 1


def test_a_directory_that_never_becomes_quiet_keeps_its_names(rig: Rig) -> None:
    """Each listing of it changes it, and the last one misses a name: fuzzy, so that the name stays. Cure: ``fuzzy``, and
    ``_keep_names_of_fuzzy`` in classify.py."""
    busy = rig.path / "busy"
    busy.mkdir()
    for name in ("stays", "missed", "linked"):
        (busy / name).write_bytes(name.encode())
    os.link(busy / "linked", rig.path / "also")
    (busy / "below").mkdir()
    (busy / "below" / "deep").write_bytes(b"deep")
    rest()
    rig.dump(0)

    def never_quiet() -> None:
        real = os.scandir

        class Partial:
            def __init__(self, where: Any) -> None:
                self._entries = real(where)

            def __enter__(self) -> Iterator[Any]:
                return (entry for entry in self._entries if entry.name == "stays")

            def __exit__(self, *_about: object) -> None:
                self._entries.close()

        def scandir(where: Any) -> Any:
            if isinstance(where, int) and os.readlink(f"/proc/self/fd/{where}").endswith("/busy"):
                (busy / "x").touch()
                (busy / "x").unlink()
                return Partial(where)
            return real(where)

        walk.os.scandir = scandir  # type: ignore[attr-defined]

    for level in (1, 2):
        dump = rig.dump(level, inject=never_quiet)
        assert compare(rig.path, restored(rig, dump), ignore={"mtime", "rsync"}) == []
    assert_equal(rig, rig.dump(3))


def test_a_root_that_never_becomes_quiet_is_dumped_with_all_that_is_in_it(rig: Rig) -> None:
    """Files of the root are renamed all the time: it is listed again in every round, and is still the root. Cure: a root
    that is listed anew has itself as parent, in dirtable.py."""
    (rig.path / "below").mkdir()
    (rig.path / "below" / "deep").write_bytes(b"deep")
    (rig.path / "stays").write_bytes(b"stays")
    (rig.path / "a").write_bytes(b"renamed")
    done = threading.Event()

    def rename_all_the_time() -> None:
        while not done.is_set():
            (rig.path / "a").rename(rig.path / "b")
            (rig.path / "b").rename(rig.path / "a")
            time.sleep(0.001)

    writer = threading.Thread(target=rename_all_the_time)
    writer.start()
    try:
        dumps = [rig.dump(0), rig.dump(1)]
    finally:
        done.set()
        writer.join()
    for dump in dumps:
        target = restored(rig, dump)
        assert (target / "below" / "deep").read_bytes() == b"deep"
        assert (target / "stays").read_bytes() == b"stays"
    assert_equal(rig, rig.dump(2))
