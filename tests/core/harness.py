"""A volume, its agent, a store and a catalog, for tests of the heart: dump, levels, merge, apply.

The jobs are the real ones and so is the agent's loop; only its start is not: instead of a shipped zipapp it is a fork of
the test, joined by a socket. So a test may change something in the agent (a fault, a moment to act in, a cure taken out)
without changing it here: see ``Rig.inject``.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from voltool.agent import main as agent_main
from voltool.agent.channel import ConnectionGone, HangUpWatch, HungUp, StdioChannel, end_children
from voltool.agent.host import HostState
from voltool.backup.dump import DumpOptions, DumpOutcome, dump_volume
from voltool.backup.ports import World
from voltool.backup.volumes import VolumeWish, add_volume
from voltool.catalog.sqlite import SqliteCatalog
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.merge import merge
from voltool.dumpfile.reader import DumpReader
from voltool.events import Event, Notice, PhaseEnded, Reporter, Silent
from voltool.model import FileProblem, KnownVolume, StoredDump
from voltool.policy.chain import chain_of
from voltool.remote.session import AgentSession
from voltool.stores.opening import StoreOpener
from voltool.tree.apply.applier import Applier, ApplySettings
from voltool.tree.apply.staging import StagingKey, open_staging
from voltool.wire.framing import FrameDecoder, WireFrame

Inject = Callable[[], object]
_PIECE = 1 << 20


class ForkStream:
    """A `voltool.ssh.stream.Stream` to a forked agent. ``peak`` is its largest resident size, workers included, bytes."""

    #: Our ends, which no other agent may hold: its own agent would not see the end. Agents are begun in threads, too.
    _ends: ClassVar[set[socket.socket]] = set()
    _forking: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, host: HostState, inject: Inject | None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.peak = 0
        with self._forking:
            ours, theirs = socket.socketpair()
            self._ends.add(ours)
            self._pid: int | None = os.fork()
            if self._pid == 0:
                for end in self._ends:
                    end.close()
                _be_the_agent(theirs, host, inject)
            theirs.close()
        self._socket = ours
        self._early: collections.deque[bytes] = collections.deque()

    def read(self, limit: int, timeout: float | None = None) -> bytes:
        if self._early:
            piece = self._early.popleft()
            if len(piece) > limit:
                self._early.appendleft(piece[limit:])
            return piece[:limit]
        if timeout is not None and not select.select([self._socket], [], [], timeout)[0]:
            raise TimeoutError
        with contextlib.suppress(ConnectionResetError):
            return self._socket.recv(limit)
        return b""

    def readable(self) -> bool:
        return bool(self._early or select.select([self._socket], [], [], 0)[0])

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            readable, writable, _ = select.select([self._socket], [self._socket], [])
            if writable:
                view = view[self._socket.send(view[:_PIECE], socket.MSG_DONTWAIT) :]
            elif readable:
                self._early.append(self._socket.recv(_PIECE))

    def try_write(self, data: bytes) -> None:
        raise AssertionError("nothing is said to this agent by the way")

    def arrived(self) -> tuple[int, int]:
        raise AssertionError("nobody listens to this agent by the way")

    def drop(self) -> None:
        raise AssertionError("this agent is never silent")

    def close(self, grace: float = 0.0) -> None:
        if self._pid is None:
            return
        self._ends.discard(self._socket)
        self._socket.close()
        pid, self._pid = self._pid, None
        _pid, status, usage = os.wait4(pid, 0)
        self.peak = usage.ru_maxrss * 1024
        assert status == 0, f"the agent ended with status {status:#x}"

    def kill(self) -> None:
        """kill -9 of the agent."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = None

    def stderr_tail(self) -> str:
        return ""

    def exit_status(self, timeout: float) -> int | None:
        return None


def _be_the_agent(sock: socket.socket, host: HostState, inject: Inject | None) -> None:
    """Never returns."""
    status = 1
    try:
        os.umask(0o077)
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        channel = StdioChannel(sock.fileno(), sock.fileno())
        watch = HangUpWatch(channel.source)
        watch.start()
        if inject is not None:
            inject()
        with contextlib.suppress(ConnectionGone, HungUp):
            channel.greet()
            agent_main.serve(channel, watch, host)
        end_children()
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it is
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


@dataclass
class ForkHosts:
    """`backup.ports.Hosts`: every name is a forked agent on this machine with the state directory ``state``."""

    state: Path
    reporter: Recorder
    inject: Inject | None = None
    peak: int = 0

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[AgentSession]:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stream = ForkStream(HostState(os.fsencode(self.state), host, "", boot_id), self.inject)
        decoder = FrameDecoder(expect_sync=True)
        frames: list[WireFrame] = []
        try:
            while not decoder.synced:
                frames += decoder.feed(stream.read(_PIECE))
            session = AgentSession(stream, decoder, frames, self.reporter, host)
            session.greet("a test")
            yield session
        finally:
            stream.close()
            self.peak = max(self.peak, stream.peak)

    def apart(self, reporter: Reporter) -> ForkHosts:
        raise NotImplementedError  # a fork of a process with threads would not do


@dataclass
class Recorder:
    """A reporter that keeps what it is told. ``after_scan`` is called when an agent has scanned and waits to go on."""

    events: list[Event] = field(default_factory=list)
    after_scan: Inject | None = None

    def report(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, PhaseEnded) and event.phase == "scan" and self.after_scan is not None:
            act, self.after_scan = self.after_scan, None
            act()

    def notices(self) -> list[str]:
        """The texts of all notices."""
        return [event.message for event in self.events if isinstance(event, Notice)]


class Rig:
    """One volume at ``path`` and everything around it, kept below ``directory`` (not in the volume). A context manager.

    ``inject`` is called in every agent that is started, before it serves.
    """

    def __init__(
        self, directory: Path, path: Path, driver: str = "directory", excludes: tuple[bytes, ...] = ()
    ) -> None:
        self.path = path
        self.driver = driver
        self.directory = directory
        self.inject: Inject | None = None
        self.reporter = Recorder()
        self.options = DumpOptions(store=str(directory / "store"), min_free_percent=0.0, workers=1)
        (directory / "store").mkdir(parents=True, exist_ok=True)
        self.hosts = ForkHosts(directory / "host", self.reporter)
        self.catalog = SqliteCatalog(str(directory / "catalog.sqlite"))
        self.world = World(self.hosts, StoreOpener(0.0), self.catalog, self.reporter, "a test")
        self.outcome: DumpOutcome | None = None
        self.volume: KnownVolume = self.adopt(excludes)

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_about: object) -> None:
        self.catalog.close()

    def adopt(self, excludes: tuple[bytes, ...] = ()) -> KnownVolume:
        """Add the volume."""
        wish = VolumeWish("vol", "local", os.fsencode(self.path), self.driver, excludes)
        return add_volume(self.world, wish).volume

    @property
    def area(self) -> Path:
        """The volume's area on its host."""
        return next(
            area
            for area in (self.path.parent / ".voltool" / self.volume.uuid, self.path / ".voltool" / self.volume.uuid)
            if area.exists()
        )

    def dump(
        self, level: int = 0, *, inject: Inject | None = None, after_scan: Inject | None = None, **options: object
    ) -> StoredDump:
        """Dump at ``level``; ``after_scan`` is done between scan and reading; ``options`` are fields of DumpOptions."""
        self.hosts.inject = inject or self.inject
        self.reporter.after_scan = after_scan
        self.outcome = dump_volume(self.world, self.volume, replace(self.options, level=level, **options))  # type: ignore[arg-type]
        assert self.outcome.dump is not None
        return self.outcome.dump

    def problems(self) -> dict[bytes, FileProblem]:
        """The problems of the last dump, by path."""
        assert self.outcome is not None
        assert self.outcome.dump is not None
        return {problem.path: problem for problem in self.outcome.dump.problems}

    def restore(self, dump: StoredDump, target: Path) -> tuple[FileProblem, ...]:
        """Restore the chain of ``dump`` to ``target``, in this process."""
        store = self.world.stores.open(dump.store)
        key = StagingKey(os.fsencode(target), dump.header.volume_uuid, dump.totals.state_id, "")
        with contextlib.ExitStack() as stack:
            readers = []
            for link in chain_of(dump, self.catalog.dumps()):
                source = store.open(link.file)
                stack.callback(source.close)
                readers.append(DumpReader(source, link.file))
            staging = open_staging(key, into_existing=False)
            stack.callback(staging.close)
            applier = Applier(staging, ApplySettings(key, numeric_owner=True, workers=0), Silent())
            stack.callback(applier.close)
            for data in merge(Chain(readers)):
                applier.feed(data)
            return applier.finish().problems

    def forget_states(self) -> None:
        """The host loses its home stamps, as a reinstalled one has."""
        for name in ("states", "bases.json"):
            path = self.area / name
            if path.is_dir():
                _remove_tree(path)
            else:
                path.unlink(missing_ok=True)

    def stored_bytes(self, dump: StoredDump) -> int:
        """The size of the dump's file."""
        return os.path.getsize(self.directory / "store" / dump.file)


def _remove_tree(path: Path) -> None:
    for child in path.iterdir():
        if child.is_dir() and not child.is_symlink():
            _remove_tree(child)
        else:
            child.unlink()
    path.rmdir()
