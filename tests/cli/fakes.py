"""A world without hosts, for tests of the command line alone: a real catalog and store, jobs that are made up."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import make_dump
from voltool.backup.ports import World
from voltool.catalog.sqlite import SqliteCatalog
from voltool.cli.invocation import Invocation
from voltool.cli.main import main
from voltool.config.paths import catalog_path
from voltool.dumpfile.format import NO_HASH, ObjectRecord
from voltool.errors import UnreachableError
from voltool.events import Reporter
from voltool.machine import Machine
from voltool.model import CloneInfo, Consistency, Epoch, FileProblem, Hooks, KnownVolume, StoredDump, VolumeRecord
from voltool.stores.opening import StoreOpener
from voltool.wire import messages, moving, replicas


@dataclass(frozen=True)
class DumpOptions:
    level: int
    store: str
    codec: str
    bandwidth: int
    nice: int
    idle_io: bool
    dry_run: bool
    workers: int
    unstable_ok: tuple[bytes, ...]
    min_free_percent: float
    hooks: Hooks


@dataclass(frozen=True)
class Outcome:
    """Stands for the outcome of every job."""

    dump: StoredDump | None = None
    totals: messages.ScanTotals | None = None
    dump_ids: tuple[str, ...] = ()
    target: str = ""
    entries: int = 0
    bytes: int = 0
    seconds: float = 0.0
    problems: tuple[FileProblem, ...] = ()
    exit_code: int = 0


@dataclass(frozen=True)
class ListedEntry:
    name: bytes
    record: ObjectRecord
    target: bytes


def make_record(mode: int, size: int = 0) -> ObjectRecord:
    return ObjectRecord(2, mode, 0, 0, size, 1, 5, 0, 0, 0, NO_HASH, b"", b"")


class FakeAgent:
    """Answers as an agent would that adopts whatever it is told to; ``sent`` is what it was asked."""

    def __init__(self, hosts: FakeHosts) -> None:
        self._hosts = hosts
        self._reply: Any = None

    def send(self, message: messages.Message) -> None:
        self._hosts.sent.append(message)
        records = self._hosts.records
        if isinstance(message, messages.ListVolumes):
            self._reply = messages.VolumesReply(tuple(records.values()))
        elif isinstance(message, messages.AdoptVolume):
            driver = "directory" if message.driver == "auto" else message.driver
            epoch = Epoch(1, "token", "hostA")
            record = VolumeRecord(
                message.uuid, message.name, message.path, driver, epoch, message.sequence, message.excludes
            )
            records[message.uuid] = record
            self._reply = messages.VolumeReply(record, ())
        elif isinstance(message, messages.ShowVolume):
            self._reply = messages.VolumeReply(records[message.uuid], ("f" * 64,))
        elif isinstance(message, messages.ForgetVolume):
            records.pop(message.uuid)
            self._reply = messages.ForgetReply((b"/srv/.voltool/\xff",))
        elif isinstance(message, messages.MakeClone | messages.ListClones | messages.DropClone):
            clone = CloneInfo("12ab", b"/srv/.voltool/\xff", 1, Consistency.SNAPSHOT, "user")
            self._reply = messages.ClonesReply((clone,))
        elif isinstance(message, messages.LockVolume):
            self._reply = messages.LockReply(until=1_800_000_000, unexamined=1, leaseless=0)
        elif isinstance(message, messages.UnlockVolume):
            self._reply = messages.UnlockReply("somebody")
        elif isinstance(message, messages.CheckHost):
            facts = (
                messages.HostFact("python", ok=True, value="3.11"),
                messages.HostFact("lz4", ok=False, value="", remedy="apt install liblz4-1"),
            )
            self._reply = messages.HostReport(facts)
        elif isinstance(message, messages.CleanHost):
            self._reply = messages.CleanReply((b"/var/lib/voltool",))
        else:
            self._reply = {
                replicas.ListReplicas: self._hosts.replied,
                moving.ListMoves: moving.MovesReply((), ()),
                messages.Examine: messages.ExamineReply(()),
            }.get(type(message))

    def receive(self) -> Any:
        return self._reply


@dataclass
class FakeHosts:
    """One agent for all hosts; ``dead`` hosts cannot be reached."""

    sent: list[Any] = field(default_factory=list)
    records: dict[str, VolumeRecord] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    replied: replicas.ReplicasReply = field(default_factory=lambda: replicas.ReplicasReply((), ()))

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[Any]:
        if host in self.dead:
            raise UnreachableError("the host cannot be reached", where=host, why="no route", remedy="turn it on")
        yield FakeAgent(self)

    def apart(self, _reporter: Reporter) -> FakeHosts:
        return self


@dataclass
class Result:
    """What a call of voltool left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def result(self) -> dict[str, Any]:
        last = self.lines[-1]
        assert last["event"] == "result"
        assert [line["event"] for line in self.lines].count("result") == 1
        assert last["exit"] == self.code
        return last


#: The jobs' own modules.
_REAL: dict[str, types.ModuleType] = {}


class Console:
    """Runs voltool in this process with a world that a test can set up; ``jobs`` replaces functions of jobs."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.hosts = FakeHosts()
        self.machine = Machine("here", "1" * 32)
        self.store = StoreOpener(0.0).open(str(state / "store"))
        self._monkeypatch = monkeypatch
        #: Dumps that were given to the index of names: made-up ones have no names.
        self.learned: list[StoredDump] = []
        monkeypatch.setattr(Invocation, "learn", lambda _invocation, dump: self.learned.append(dump))
        self.job("dump", dump_volume=lambda *_: pytest.fail("no job"), DumpOptions=DumpOptions)

    def job(self, module: str, **functions: Any) -> None:
        """Replace the module of a job."""
        fake = types.ModuleType(f"voltool.backup.{module}")
        real = _REAL.setdefault(module, importlib.import_module(fake.__name__))  # others need its types
        vars(fake).update({**vars(real), **functions})
        if module == "dump":
            vars(fake)["DumpOptions"] = DumpOptions
        self._monkeypatch.setitem(sys.modules, fake.__name__, fake)

    @contextlib.contextmanager
    def catalog(self) -> Iterator[SqliteCatalog]:
        catalog = SqliteCatalog(catalog_path(str(self.state)))
        yield catalog
        catalog.close()

    def add_volume(self, volume: KnownVolume) -> None:
        with self.catalog() as catalog:
            catalog.put_volume(volume)

    def add_dump(self, number: int, **values: Any) -> StoredDump:
        """A dump that the catalog knows and that (as an empty file) lies in the store."""
        dump = make_dump(number, store=self.store.url, **values)
        writer = self.store.create(dump.file)
        writer.publish()
        with self.catalog() as catalog:
            catalog.add_dump(dump)
        return dump

    def world(self, invocation: Invocation) -> World:
        _ = invocation.settings
        catalog = SqliteCatalog(catalog_path(str(self.state)), self.machine)
        invocation.closing.callback(catalog.close)
        return World(self.hosts, StoreOpener(0.0), catalog, invocation.output, "tester", self.machine)

    def __call__(self, *arguments: str) -> Result:
        out, err = _Text(), _Text()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(arguments), make_world=self.world)
        return Result(code, out.value(), err.value())


class _Text(io.TextIOWrapper):
    """A stdout or stderr that is no terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def value(self) -> str:
        self.flush()
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode("utf-8", "surrogateescape")


Runner = Callable[..., Result]
