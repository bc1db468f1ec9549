"""Two hosts, a lazy move between them, and agents and command lines that die at a chosen call: used by test_kills.py.

Agents and command lines are forks of the test, so that one can be killed (-9) in the midst of any step of its own; the processes
that serve and that fetch are the real ones, and so are file systems, FUSE, overlay, lock and guardian.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.core.harness import Recorder
from tests.filesystems import LoopFilesystem
from tests.jobs.test_move_faults import TwoHosts
from tests.writer import Writer, wait_until
from voltool import durable
from voltool.agent import daemon
from voltool.agent.channel import StdioChannel
from voltool.agent.daemon import list_daemons
from voltool.agent.lazymove import overlay
from voltool.agent.lazymove.home import HomeWishes, LazyHome
from voltool.backup.ports import World
from voltool.backup.volumes import VolumeWish, add_volume
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import NotFoundError, VoltoolError
from voltool.model import MOVED, RETIRED, SourceMove, TargetMove
from voltool.move.driver import MoveOptions
from voltool.move.job import MoveWish, Which, abort_move, move_volume, resume_move
from voltool.move.sessions import SessionSettings
from voltool.remote.session import AgentSession
from voltool.remote.ship import build_agent
from voltool.stores.opening import StoreOpener
from voltool.volumes import records
from voltool.volumes.moving.records import MoveBook

SETTINGS = SessionSettings(owner="a test", workers=1, fetch_timeout=5, lock_timeout=10)
#: So slow (bytes/s) that hardly anything has come while steps are killed; what a reader asks for comes at once.
SLOWLY = 20_000
OPTIONS = MoveOptions(downtime=1000.0)
SOURCE, TARGET, COMMAND = "a", "b", "command"
VICTIMS = (SOURCE, TARGET, COMMAND)
FILES = 12

#: A reader: whatever it can read at either path, by any name, has the bytes that the file always had.
_READER = """
import hashlib, json, os, sys, time
right, wrong, *places = sys.argv[1:]
right = json.loads(right)
while True:
    for root in [os.path.join(place, name) for place in places for name in os.listdir(place)]:
        for name, digest in right.items():
            try:
                with open(os.path.join(root, name), "rb") as file:
                    found = hashlib.sha256(file.read()).hexdigest()
            except OSError:
                continue
            if found != digest:
                with open(wrong, "a") as file:
                    file.write(f"{root}/{name}" + chr(10))
    time.sleep(0.2)
"""


class Countdown:
    """Calls of all agents of a host, or of a command line, counted together; whoever makes the last one dies instead."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)
        self.set(-1)

    def set(self, last: int) -> None:
        """The ``last``-th call from now on is never made, counting from 0; -1: all are."""
        self._memory[:] = struct.pack("qq", 0, last)

    @property
    def made(self) -> int:
        """So many calls there were."""
        return int(struct.unpack("qq", self._memory)[0])

    def pass_by(self) -> None:
        """One more."""
        count, last = struct.unpack("qq", self._memory)
        self._memory[:] = struct.pack("qq", count + 1, last)
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, owner: object, name: str) -> None:
        """Each call of ``owner.name`` in this process, and its forks, is counted."""
        real = getattr(owner, name)
        ours = os.getpid()

        def counted(*arguments: Any, **words: Any) -> Any:
            if os.getpid() == ours:
                self.pass_by()
            return real(*arguments, **words)

        setattr(owner, name, counted)


class MortalHosts(TwoHosts):
    """`TwoHosts`, whose agents may die before they have said a word."""

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[AgentSession]:
        """As of `TwoHosts`."""
        with contextlib.ExitStack() as stack:
            try:
                agent = stack.enter_context(super().connect(host))
            except AssertionError as error:  # how it ended
                raise error.__context__ or error from None
            yield agent


class Dying:
    """Volumes, all alike, on host a, one after the other in use (``name``, ``volume``), that move lazily to b (``target``)."""

    def __init__(self, directory: Path, here: Path, there: Path) -> None:
        self.directory = directory
        self.here, self.there = here, there
        self.countdowns = {victim: Countdown() for victim in VICTIMS}
        self._program = directory / "agent.pyz"
        self._program.write_bytes(build_agent().data)
        self.hosts = MortalHosts(directory, Recorder())
        for host in (SOURCE, TARGET):
            self.hosts.inject[host] = lambda host=host: self.be_agent(host)  # type: ignore[misc]
        self._right: dict[str, bytes] = {f"sub/f{number}": os.urandom(5000) for number in range(FILES)}
        self._right["large"] = self._right["sub/link"] = os.urandom(1_300_000)
        self._wrong = directory / "wrong"
        self.background = SLOWLY
        self.said = ""
        self.is_moved = False
        self._count = 0
        self._writers: list[Writer] = []
        self.fresh()

    def fresh(self) -> None:
        """Another volume; nothing is done with the one before any more."""
        self.stop_writers()
        self._writers = []
        if self._count:
            self.clear()
        self._count += 1
        self.name = f"vol{self._count}"
        self.volume, self.target = self.here / self.name, self.there / self.name
        fresh = self.here / "fresh" / "vol"  # whoever reads sees it whole
        (fresh / "sub").mkdir(parents=True)
        for name, content in self._right.items():
            if name != "sub/link":
                (fresh / name).write_bytes(content)
        os.link(fresh / "large", fresh / "sub/link")
        fresh.rename(self.volume)
        with self._world() as world:
            self.uuid = add_volume(
                world, VolumeWish(self.name, SOURCE, os.fsencode(self.volume), "directory", ())
            ).volume.uuid

    def be_agent(self, host: str) -> None:
        """In an agent: it ships itself, and counts what goes out and what is written down or mounted."""
        daemon._own_program = lambda: os.fsencode(self._program)
        save = LazyHome.save

        def save_slowed(home: LazyHome, wishes: HomeWishes) -> None:
            save(home, dataclasses.replace(wishes, bandwidth=self.background))

        setattr(LazyHome, "save", save_slowed)  # noqa: B010 - mypy would have it as it is
        count = self.countdowns[host]
        for owner, name in (
            (durable, "write_file"), (durable, "remove_file"), (durable, "rename_with_flags"), (overlay, "mount"),
            (StdioChannel, "send"), (daemon.Daemon, "start"), (daemon.Daemon, "remove"), (records, "forget"),
        ):  # fmt: skip
            count.before(owner, name)

    @contextlib.contextmanager
    def _world(self) -> Iterator[World]:
        catalog = SqliteCatalog(str(self.directory / "catalog.sqlite"))
        with contextlib.closing(catalog):
            yield World(self.hosts, StoreOpener(0.0), catalog, Recorder(), "a test")

    # --------------------------------------------------------------------------------------------------- command lines

    def move(self) -> bool:
        """`voltool move --lazy`; whether it did it."""
        wish = MoveWish(self.name, TARGET, os.fsencode(self.target), SETTINGS, OPTIONS, lazy=True)
        self.is_moved = self._command(lambda world: move_volume(world, wish))
        return self.is_moved

    def resume(self) -> bool:
        """`voltool move --resume`."""
        return self._command(lambda world: resume_move(world, Which(self.name), SETTINGS, OPTIONS))

    def abort(self) -> bool:
        """`voltool move --abort`."""
        return self._command(lambda world: abort_move(world, Which(self.name)))

    def _command(self, act: Callable[[World], object]) -> bool:
        """In a process of its own, which can be killed; what it says when it fails is in ``said``."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            try:
                self._be_command(act, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with open(reading, encoding="utf-8") as file:
            self.said = file.read()
        _pid, status = os.waitpid(child, 0)
        assert "Traceback" not in self.said, self.said
        return status == 0

    def _be_command(self, act: Callable[[World], object], writing: int) -> None:
        self.countdowns[COMMAND].before(AgentSession, "send")
        try:
            with self._world() as world:
                act(world)
        except VoltoolError as error:
            os.write(writing, f"{error}; {error.why}; {error.remedy}".encode())
            os._exit(2)
        except BaseException:  # noqa: BLE001 - it is told
            os.write(writing, traceback.format_exc().encode())
            os._exit(3)
        os._exit(0)

    # ----------------------------------------------------------------------------------------------------- who looks on

    @contextlib.contextmanager
    def reader(self) -> Iterator[None]:
        """Somebody reads all volumes at both places meanwhile; nothing wrong is seen."""
        right = {name: hashlib.sha256(content).hexdigest() for name, content in self._right.items()}
        words = [json.dumps(right), str(self._wrong), str(self.here), str(self.there)]
        with subprocess.Popen([sys.executable, "-c", _READER, *words], cwd="/") as process:
            try:
                yield
            finally:
                process.kill()
        assert not self._wrong.exists(), self._wrong.read_text()

    def write(self) -> None:
        """Somebody writes to the volume at its old home, unless he does already."""
        if not self._writers or self._writers[-1].refused:
            word = f"{self.name}-{len(self._writers)}"
            self._writers.append(Writer(self.volume, self.directory, word=word, pause=0.01))

    def stop_writers(self) -> None:
        """Idempotent."""
        for writer in self._writers:
            writer.stop()

    def lost(self, root: Path) -> list[tuple[str, str]]:
        """What was acknowledged to anybody, and is not in the tree at ``root``."""
        self.stop_writers()
        return [lost for writer in self._writers for lost in writer.lost(root)]

    def is_writable(self, path: Path) -> bool:
        """Whether a file can be made there."""
        try:
            (path / "probe").touch()
            (path / "probe").unlink()
        except OSError:
            return False
        return True

    def assert_right(self, root: Path) -> None:
        """Every file there has its bytes, and what was acknowledged is there."""
        assert self.lost(root) == []
        for name, content in self._right.items():
            assert (root / name).read_bytes() == content, name

    def source_move(self) -> SourceMove | None:
        return MoveBook(os.fsencode(self.directory / "state-a")).source(self.uuid)

    def target_move(self) -> TargetMove | None:
        return MoveBook(os.fsencode(self.directory / "state-b")).target(self.uuid)

    def is_committed(self) -> bool:
        move = self.source_move()
        return move is not None and move.phase in (MOVED, RETIRED)

    def has_all(self) -> bool:
        """Whether all files have come to the new home."""
        (place,) = (self.there / ".voltool").glob("replica-*")
        return (place / "next").is_dir() and not list(place.glob(".voltool/staging-*"))

    def await_quiet(self) -> None:
        """Until whoever a death has orphaned has cleaned up: the volume is in service at its old home, or it never will be."""
        wait_until(lambda: self.is_committed() or self.is_writable(self.volume))

    def assert_at_most_one_home(self) -> None:
        """Only one tree can be written to, and no two hosts have the same epoch and token."""
        writable = [path for path in (self.volume, self.target) if self.is_writable(path)]
        assert len(writable) <= 1, writable
        epochs = []
        for state in ("state-a", "state-b"):
            directory = os.fsencode(self.directory / state)
            for entry in records.list_entries(directory):
                if entry.uuid == self.uuid and not entry.forgotten:
                    with contextlib.suppress(NotFoundError):  # it died before the volume's record was there
                        epochs.append(records.open_home(directory, self.uuid, b"", moving=True).record.epoch)
        assert len({(epoch.number, epoch.token) for epoch in epochs}) == len(epochs), epochs

    def daemons(self) -> list[daemon.Daemon]:
        return [each for state in ("state-a", "state-b") for each in list_daemons(os.fsencode(self.directory / state))]

    def mounts(self) -> list[str]:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        points = [line.split()[4] for line in lines]
        return [point for point in points if point.startswith((f"{self.here}/", f"{self.there}/"))]

    def clear(self) -> None:
        for each in self.daemons():
            with contextlib.suppress(Exception):
                each.remove()
        until = time.monotonic() + 10
        while self.mounts() and time.monotonic() < until:
            for point in reversed(self.mounts()):
                subprocess.run(["umount", "-l", point], check=False, capture_output=True)
            time.sleep(0.1)
        paths = [str(path) for place in (self.here, self.there) for path in place.glob("vol*")]
        subprocess.run(["chattr", "-i", *paths], check=False, capture_output=True)


@contextlib.contextmanager
def dying_ground(directory: Path) -> Iterator[Dying]:
    with LoopFilesystem("ext4") as a, LoopFilesystem("ext4") as b:
        made = Dying(directory, a.path, b.path)
        try:
            yield made
        finally:
            made.stop_writers()
            made.clear()
