"""The end of a lazy move, killed at each call that changes something, the host started anew or not: what the overlay showed is
what stands at the path in the end, and nobody can write to anything that would be lost."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.core.copying import copy_tree
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.lazymove.test_folding import _tree_below, _write
from voltool.agent.host import HostState
from voltool.agent.lazymove import overlay
from voltool.agent.lazymove.ending import Ending
from voltool.agent.lazymove.home import LazyHome
from voltool.errors import BusyError
from voltool.model import PUBLISHED, Epoch, Peer, TargetMove, VolumeRecord
from voltool.volumes import records
from voltool.volumes.lock import mounting
from voltool.volumes.lock.hold import in_container
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook

pytestmark = pytest.mark.skipif(in_container(), reason="nothing is locked in a container")
UUID = "0123456789abcdef0123456789abcdef"
KILLS = int(os.environ.get("VOLTOOL_KILLS", "7"))
#: What a killed process leaves undone, by module.
_CALLS = ("rename", "link", "unlink", "mkdir", "rmdir", "setxattr", "removexattr", "utime")


class House:
    """A lazy move's new home at which all has come, and something was written."""

    def __init__(self, root: Path, state: Path) -> None:
        root.mkdir()
        path = os.fsencode(root / "vol")
        self.host = _host(os.fsencode(state))
        epoch = Epoch(2, "t", "here")
        self.move = TargetMove(
            "aabbccddeeff00112233", UUID, "vol", path, Peer("there", "", "", path), PUBLISHED, 1, epoch=epoch, lazy=True
        )
        self.home = LazyHome(self.host, self.move)
        os.mkdir(path, 0o700)
        self.home.place.make()
        lower = self.home.layers.lower
        os.mkdir(lower)
        _tree_below(lower)
        copy_tree(lower, self.home.place.next)
        MoveBook(self.host.directory).save_target(self.move)
        os.makedirs(os.path.join(os.path.dirname(path), b".voltool", UUID.encode()), 0o700)
        records.create(self.host.directory, VolumeRecord(UUID, "vol", path, "directory", epoch, 1))
        placeholder.keep(self.move)
        overlay.prepare(self.home.layers)
        self.home.show()
        _write(path)
        self.before = os.fsencode(root / "before")
        copy_tree(path, self.before)
        self.path = path

    def reboot(self) -> None:
        """All mounts are gone, and of this boot nothing is known any more."""
        for point in (self.path, self.home.place.next):
            while mounting.mounts_at(point):
                mounting.detach(point)
        for lock in Path(os.fsdecode(self.host.directory), "locks").glob("*.json"):
            lock.write_text(lock.read_text().replace(self.host.boot_id, "of the boot before"))

    def is_writable(self) -> bool:
        try:
            with open(os.path.join(self.path, b"probe"), "x"):
                pass
        except OSError:
            return False
        os.unlink(os.path.join(self.path, b"probe"))
        return True

    def end(self) -> None:
        """Until it is done: the guardian of a killed process may still have the lock."""
        until = time.monotonic() + 20
        while True:
            try:
                return Ending(self.home).run()
            except BusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        self.reboot()
        with contextlib.suppress(OSError):
            placeholder.unseal(self.path)


def _host(directory: bytes) -> HostState:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    os.makedirs(directory, exist_ok=True)
    return HostState(directory=directory, boot_id=boot, hostname="here", machine_id="m")


@pytest.fixture(scope="module")
def filesystem() -> Iterator[LoopFilesystem]:
    with LoopFilesystem("ext4") as made:
        yield made


def test_killed_anywhere(filesystem: LoopFilesystem, tmp_path: Path) -> None:
    first = House(filesystem.path / "first", tmp_path / "first")
    total = _killed_at(first, 1 << 30)
    _judge(first)
    first.close()
    assert total > 100
    for turn, number in enumerate(range(0, total, max(1, total // KILLS))):
        house = House(filesystem.path / f"killed-{number}", tmp_path / f"killed-{number}")
        try:
            _killed_at(house, number)
            begun = Ending(house.home).has_begun()
            if begun and not Ending(house.home).is_exchanged():
                assert not house.is_writable(), f"killed before call {number}"
            if turn % 2:
                house.reboot()
                if not Ending(house.home).is_exchanged():
                    assert not house.is_writable(), f"started anew after call {number}"
                    if not begun:
                        house.home.show()
            house.end()
            _judge(house)
        finally:
            house.close()


def test_a_file_that_stays_open_for_writing_is_waited_for_without_a_lock(
    filesystem: LoopFilesystem, tmp_path: Path
) -> None:
    house = House(filesystem.path / "open", tmp_path / "open")
    try:
        with open(os.path.join(house.path, b"new"), "ab") as file:
            with pytest.raises(BusyError, match="open for writing"):
                Ending(house.home).run()
            assert house.is_writable()
            file.write(b", and more")
        with open(os.path.join(house.before, b"new"), "ab") as file:
            file.write(b", and more")
        house.end()
        assert compare(house.before, house.path, ignore=("rsync", "mtime")) == []
    finally:
        house.close()


def _judge(house: House) -> None:
    assert compare(house.before, house.path, ignore=("rsync",)) == []
    assert mounting.mounts_at(house.path) == []
    assert mounting.mounts_at(house.home.place.next) == []
    assert house.is_writable()
    kept = MoveBook(house.host.directory).target(UUID)
    assert kept is not None
    assert not kept.lazy
    assert not os.path.lexists(house.home.layers.upper)
    assert not os.path.lexists(house.home.place.next)


def _killed_at(house: House, number: int) -> int:
    """End the move in a process of its own that dies before its call ``number``; how many there were."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        calls = count()
        for name in _CALLS:
            setattr(os, name, _counted(getattr(os, name), calls, number))
        mounting.detach = _counted(mounting.detach, calls, number)
        try:
            Ending(house.home).run()
            os.write(writing, b"%d" % next(calls))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as file:
        return int(file.read() or b"-1")


def _counted(real: Callable[..., Any], calls: Iterator[int], last: int) -> Callable[..., Any]:
    ours = os.getpid()

    def call(*arguments: Any, **words: Any) -> Any:
        if os.getpid() == ours and next(calls) == last:
            os._exit(9)
        return real(*arguments, **words)

    return call
