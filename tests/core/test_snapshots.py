"""Traps of frozen images: what was still on its way when the snapshot was made."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.judge import compare
from voltool.events import PhaseStarted
from voltool.tree import opening, stamps
from voltool.volumes.btrfs import BtrfsDriver

MIB = 1 << 20


def rest() -> None:
    time.sleep(0.05)


def restored(rig: Rig, name: str, level: int, inject: Callable[[], None] | None = None) -> Path:
    target = rig.directory.parent / name
    rig.restore(rig.dump(level, inject=inject), target)
    return target


def compared_by_walk() -> None:
    """As where the file system does not say what changed: stamps alone decide."""
    BtrfsDriver.changes = lambda *_arguments: None  # type: ignore[method-assign]
    BtrfsDriver.changed_ranges = lambda *_arguments: None  # type: ignore[method-assign]

    BtrfsDriver.same_bytes = lambda *_arguments: contextlib.nullcontext()  # type: ignore[assignment, method-assign]


def compared_by_extents() -> None:
    """As where the times of too many files were set: stamps, and of what was young which extents it has."""
    BtrfsDriver.changes = lambda *_arguments: None  # type: ignore[method-assign]


def trusting_extents() -> None:
    compared_by_extents()
    BtrfsDriver.same_bytes = lambda *_any: contextlib.nullcontext(bool)  # type: ignore[assignment, method-assign]


def trusting_at_once() -> None:
    compared_by_walk()
    opening.FRESH_NS = -(1 << 62)


def test_what_is_young_is_read_once_where_the_clone_tells_what_came_later(
    btrfs: Path, make_rig: Callable[..., Rig]
) -> None:
    """And by stamps alone twice, for they mean nothing yet. What is on its way when a clone is made: test_btrfs_changes.py."""
    rig = make_rig(btrfs, "btrfs")
    for number in range(5):
        (rig.path / str(number)).write_bytes(b"before")
    rig.dump(0)
    (rig.path / "3").write_bytes(b"since")

    assert read(rig, 1, None) == 1
    assert read(rig, 2, None) == 0
    assert read(rig, 3, compared_by_walk) == 5


def read(rig: Rig, level: int, inject: Callable[[], None] | None) -> int:
    """How many files a dump reads."""
    rig.reporter.events.clear()
    rig.dump(level, inject=inject)
    (started,) = [event for event in rig.reporter.events if isinstance(event, PhaseStarted) and event.phase == "dump"]
    return started.total_files


@pytest.mark.parametrize("inject", [None, compared_by_extents], ids=["asked", "walked"])
def test_what_was_only_read_is_not_read_again(
    btrfs: Path, make_rig: Callable[..., Rig], inject: Callable[[], None] | None
) -> None:
    """Young or not; but what is so young that a chattr right after the clone could have its ctime."""
    rig = make_rig(btrfs, "btrfs")
    for number in range(5):
        (rig.path / str(number)).write_bytes(b"x" * (5000 * number))
    _wait_for_old(rig.path)
    (rig.path / "too young").write_bytes(b"x")
    rig.dump(0)
    for file in rig.path.iterdir():
        file.read_bytes()
    (rig.path / "3").write_bytes(b"since")
    assert read(rig, 1, inject) == 2
    assert compare(rig.path, restored(rig, "restored", 2, inject), ignore={"rsync"}) == []


def test_what_was_young_and_is_found_the_same_is_settled(btrfs: Path, make_rig: Callable[..., Rig]) -> None:
    """Then stamps are enough, as if it had been read out of the later clone."""

    def later() -> None:
        compared_by_extents()
        opening.FRESH_NS = 0

    rig = make_rig(btrfs, "btrfs")
    for number in range(5):
        (rig.path / str(number)).write_bytes(b"x")
    _wait_for_old(rig.path)
    rig.dump(0)
    assert read(rig, 1, later) == 0
    assert read(rig, 2, compared_by_walk) == 0


def _wait_for_old(directory: Path) -> None:
    """Until what is there is older than a clock's tick may be."""
    newest = max(file.stat().st_ctime_ns for file in directory.iterdir())
    while time.time_ns() < newest + stamps._TICKS + 10**8:
        rest()


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_two_snapshots_with_equal_stamps_and_different_content(
    btrfs: Path, make_rig: Callable[..., Rig], size: int
) -> None:
    """A write() sets the ctime when it begins, so two snapshots during it have one stamp and two contents. Made here
    without luck: the agent is shown the second content under the stamp of the first. Cure: in a clone, FRESH_NS in
    opening.py."""
    first_content, second_content = os.urandom(size), os.urandom(size)

    def run(inject: Callable[[], None]) -> bytes:
        rig = make_rig(btrfs, "btrfs")
        file = rig.path / "file"
        file.write_bytes(first_content)
        os.utime(file, ns=(0, 0))
        stamp = file.stat().st_ctime_ns
        restored(rig, "first", 0, inject)

        def same_stamp() -> None:
            inject()
            _pretend_ctime(stamp, b"file")

        file.write_bytes(second_content)
        os.utime(file, ns=(0, 0))
        return restored(rig, "second", 1, same_stamp).joinpath("file").read_bytes()

    assert run(compared_by_walk) == second_content
    assert run(trusting_at_once) == first_content, "the trap is real"


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_different_content_under_an_equal_stamp_is_seen_by_its_extents(
    btrfs: Path, make_rig: Callable[..., Rig], size: int
) -> None:
    """As above, of a file that is not so young that its stamp alone makes it suspect."""
    contents = os.urandom(size), os.urandom(size)

    def run(inject: Callable[[], None]) -> bytes:
        rig = make_rig(btrfs, "btrfs")
        file = rig.path / "file"
        file.write_bytes(contents[0])
        os.utime(file, ns=(0, 0))
        stamp = file.stat().st_ctime_ns
        _wait_for_old(rig.path)
        restored(rig, "first", 0, inject)

        def same_stamp() -> None:
            inject()
            _pretend_ctime(stamp, b"file")

        file.write_bytes(contents[1])
        os.utime(file, ns=(0, 0))
        return restored(rig, "second", 1, same_stamp).joinpath("file").read_bytes()

    assert run(compared_by_extents) == contents[1]
    assert run(trusting_extents) == contents[0], "the trap is real"


def _pretend_ctime(stamp: int, name: bytes) -> None:
    """In the agent, whatever has the size and type of the file is seen under the older ctime."""
    from voltool.tree import pieces, planning, smallfiles, walk

    for module in (opening, pieces, planning, smallfiles, walk):
        real = getattr(module, "encode_stamp", None)
        if real is None:
            continue

        def pretended(status: os.stat_result, real: Callable[[os.stat_result], bytes] = real) -> bytes:
            encoded = real(status)
            if status.st_mtime_ns == 0:
                seconds, nanoseconds = divmod(stamp, 10**9)
                encoded = encoded[:32] + seconds.to_bytes(8, "big") + nanoseconds.to_bytes(4, "big") + encoded[44:]
            return encoded

        module.encode_stamp = pretended  # type: ignore[attr-defined]


@pytest.mark.parametrize("inject", [None, compared_by_walk], ids=["asked", "walked"])
def test_one_long_write_during_two_snapshots(
    btrfs: Path, make_rig: Callable[..., Rig], inject: Callable[[], None] | None
) -> None:
    """500 MB in one system call, two dumps while it lasts: what is restored after it has ended is all of it. Whether a
    snapshot falls into the middle is luck; the test above leaves nothing to it."""
    rig = make_rig(btrfs, "btrfs")
    file = rig.path / "file"
    size = 500 * MIB
    with file.open("wb") as opened:
        opened.truncate(size)
    with mmap.mmap(-1, size) as buffer:
        for at in range(0, size, MIB):
            buffer[at : at + 8] = at.to_bytes(8, "big")
        descriptor = os.open(file, os.O_WRONLY)
        writer = threading.Thread(target=lambda: os.pwrite(descriptor, buffer, 0))
        # Forked agents do not mind the thread: it holds no lock, it is in the kernel.
        writer.start()
        rig.dump(0, inject=inject)
        rig.dump(1, inject=inject)
        writer.join()
        os.close(descriptor)
    target = restored(rig, "restored", 2, inject)
    assert compare(rig.path, target, ignore={"rsync"}) == []


def test_a_page_dirtied_through_a_mapping_between_two_snapshots(btrfs: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(btrfs, "btrfs")
    file = rig.path / "database"
    file.write_bytes(b"0" * 8192)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        for level, value in ((0, b"1"), (1, b"2"), (2, b"3")):
            mapped[0:1] = value
            target = restored(rig, f"restored-{level}", level)
            assert (target / "database").read_bytes()[:1] == value
