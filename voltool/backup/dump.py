"""The dump job: choose the base, hold space, take the agent's bytes into the store, publish, confirm.

Order, so that nothing is lost wherever it stops: the base is pinned against prune; the bytes go to an unfinished file;
when every frame and the trailer have been checked and the base is still there, the file is published; then the catalog
and the host learn of it. A dump that was published and not confirmed is recognised by its state id the next time.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from voltool.backup.discover import volume_dumps
from voltool.backup.manifest import chain_manifest
from voltool.backup.ports import World
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.frames import FrameDecoder
from voltool.dumpfile.reader import DumpReader
from voltool.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    AgentError,
    IntegrityError,
    NotFoundError,
    SpaceError,
    VoltoolError,
)
from voltool.events import Notice
from voltool.model import NO_HOOKS, DumpResult, DumpTotals, FileProblem, Hooks, KnownVolume, Problem, StoredDump
from voltool.policy.chain import Lineage, recency
from voltool.policy.superseded import in_words, later_home
from voltool.stores.contract import Store, StoreWriter
from voltool.stores.naming import format_name
from voltool.wire import messages
from voltool.wire.conversation import Conversation

T = TypeVar("T")

#: Held in the store beyond what the scan found: manifest, frame headers, index (bytes an entry, and in all).
_OVERHEAD_PER_ENTRY = 200
_OVERHEAD = 1 << 20


@dataclass(frozen=True)
class DumpOptions:
    """What a user can choose; ``bandwidth`` in bytes/s (0: unlimited), ``min_free_percent`` of the store's file system."""

    level: int = 0
    store: str = ""
    codec: str = "lz4"
    bandwidth: int = 0
    nice: int = 0
    idle_io: bool = False
    dry_run: bool = False
    workers: int = 0
    unstable_ok: tuple[bytes, ...] = ()
    min_free_percent: float = 5.0
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class DumpOutcome:
    """``dump`` is None after a dry run; ``exit_code`` 3 when files could not be read or never settled, and when the dump is of a
    home that has been replaced."""

    dump: StoredDump | None
    totals: messages.ScanTotals | None
    exit_code: int


def dump_volume(world: World, volume: KnownVolume, options: DumpOptions) -> DumpOutcome:
    """Dump ``volume`` at ``options.level`` into ``options.store``. Raises VoltoolError; nothing half-made stays."""
    store = world.stores.open(options.store)
    store.sweep(volume.name)
    with contextlib.ExitStack() as stack:
        chain = _choose_base(world, store, volume, options.level)
        for base in chain:
            stack.enter_context(store.pin(base.file, f"base of a dump of {volume.name}"))
        conversation = stack.enter_context(world.hosts.connect(volume.host))
        job = _Job(world, volume, options, store, chain, conversation)
        return job.run()


def _choose_base(world: World, store: Store, volume: KnownVolume, level: int) -> tuple[StoredDump, ...]:
    """The chain to build on, base last; empty for a full dump. The base: highest sequence, level below, same store."""
    if level == 0:
        return ()
    dumps = [dump for dump in volume_dumps(world, [store.url], volume) if dump.store == store.url]
    lineage = Lineage(dumps)
    candidates = [dump for dump in dumps if dump.header.level < level]
    for base in sorted(candidates, key=recency, reverse=True):
        chain = lineage.chain_of(base)
        if chain[0].header.level == 0 and all(is_there(store, dump) for dump in chain):
            return chain
        message = f"{volume.name}: dump {base.header.dump_id[:12]} cannot be a base: part of its chain is missing"
        world.reporter.report(Notice("warning", message))
    message = f"{volume.name}: no dump below level {level} in {store.url}: making a full dump, level 0"
    world.reporter.report(Notice("warning", message))
    return ()


def is_there(store: Store, dump: StoredDump) -> bool:
    """Whether the dump's file is in the store, at its full length."""
    try:
        reader = store.open(dump.file)
    except NotFoundError:
        return False
    try:
        return reader.size == dump.totals.stored_bytes
    finally:
        reader.close()


class _Job:
    """One dump."""

    def __init__(
        self,
        world: World,
        volume: KnownVolume,
        options: DumpOptions,
        store: Store,
        chain: Sequence[StoredDump],
        conversation: Conversation,
    ) -> None:
        self._world = world
        self._volume = volume
        self._options = options
        self._store = store
        self._chain = chain
        self._base = chain[-1] if chain else None
        self._conversation = conversation
        self._dump_id = uuid.uuid4().hex

    def run(self) -> DumpOutcome:
        """The whole conversation with the agent."""
        started = time.monotonic()
        self._conversation.send(self._request())
        received = self._conversation.receive()
        if isinstance(received, messages.NeedManifest):
            self._send_manifest()
            received = self._conversation.receive()
        totals = self._expect(received, messages.ScanTotals)
        if self._options.dry_run:
            self._expect(self._conversation.receive(), messages.Done)
            return DumpOutcome(None, totals, EXIT_DONE)
        self._hold_space(totals)
        self._conversation.send(messages.Proceed())
        result, file = self._take()
        dump = StoredDump(
            header=result.header,
            totals=result.totals,
            store=self._store.url,
            file=file,
            seconds=time.monotonic() - started,
            problems=result.problems,
        )
        self._world.catalog.add_dump(dump)
        self._confirm(result)
        code = EXIT_PARTIAL if self._tell_superseded(dump) else self._exit_code(result.problems)
        return DumpOutcome(dump, totals, code)

    def _tell_superseded(self, dump: StoredDump) -> bool:
        """Whether the home was not the volume's any more, as far as store and catalog can tell; then it is said. The dump stays:
        what it has may be nowhere else."""
        try:
            others = volume_dumps(self._world, [self._store.url], self._volume)
        except VoltoolError as error:
            self._world.reporter.report(Notice("warning", f"{self._volume.name}: dumped, but: {error}"))
            others = self._world.catalog.dumps(self._volume.uuid)
        later = later_home(dump, (other for other in others if other.header.dump_id != dump.header.dump_id))
        if later is None:
            return False
        text = f"{self._volume.name}: dump {dump.header.dump_id[:12]} is kept, but {in_words(dump, later)}"
        remedy = f"voltool volume set {self._volume.name} --host HOST, with the host that is {later.host}; then voltool doctor"
        self._world.reporter.report(Notice("warning", f"{text}. Try: {remedy}"))
        return True

    def _request(self) -> messages.StartDump:
        base, options = self._base, self._options
        return messages.StartDump(
            uuid=self._volume.uuid,
            path=self._volume.path,
            dump_id=self._dump_id,
            level=options.level if base else 0,
            base_state_id=base.totals.state_id if base else None,
            base_dump_id=base.header.dump_id if base else None,
            codec=options.codec,
            workers=options.workers,
            bandwidth=options.bandwidth,
            nice=options.nice,
            idle_io=options.idle_io,
            dry_run=options.dry_run,
            hooks=options.hooks,
        )

    def _expect(self, received: object, kind: type[T]) -> T:
        if not isinstance(received, kind):
            raise AgentError(f"the agent on {self._volume.host} answered something unexpected")
        return received

    def _send_manifest(self) -> None:
        readers = []
        with contextlib.ExitStack() as stack:
            for dump in self._chain:
                source = self._store.open(dump.file)
                stack.callback(source.close)
                readers.append(DumpReader(source, dump.file))
            for data in chain_manifest(Chain(readers)):
                self._conversation.send_data(data)
        self._conversation.send(messages.EndOfData())

    def _hold_space(self, totals: messages.ScanTotals) -> None:
        space = self._store.space()
        if space is None:
            return
        needed = totals.bytes + totals.files * _OVERHEAD_PER_ENTRY + _OVERHEAD
        if not self._base:
            needed += totals.entries * _OVERHEAD_PER_ENTRY
        available = space.free - int(space.total * self._options.min_free_percent / 100)
        if needed > available:
            raise SpaceError(
                f"{self._volume.name} may not fit into the store",
                where=self._store.url,
                why=f"up to {needed:,} bytes are needed and {max(0, available):,} may be used",
                remedy="free some space, another store (--store), or a smaller min_free in the configuration",
            )

    def _take(self) -> tuple[DumpResult, str]:
        """Bytes to an unfinished file, checked on the way; published when all is well."""
        writer: StoreWriter | None = None
        decoder = FrameDecoder(f"the dump of {self._volume.name} from {self._volume.host}")
        file = format_name(self._volume.name, time.time_ns(), self._request().level, self._dump_id)
        try:
            writer = self._store.create(file)
            self._receive(writer, decoder)
            decoder.finish()
            result = self._expect(self._conversation.receive(), messages.DumpReply).result
            totals = self._check(decoder, result)
            writer.publish()
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        return replace(result, totals=totals), file

    def _check(self, decoder: FrameDecoder, result: DumpResult) -> DumpTotals:
        """The trailer says what the agent said, and the base is still there."""
        totals = decoder.totals
        if totals is None or totals.state_id != result.totals.state_id:
            raise IntegrityError("the dump's trailer is not what the agent reported", where=self._volume.host)
        for base in self._chain:
            if not is_there(self._store, base):
                raise VoltoolError(
                    "the base of the dump has gone meanwhile",
                    where=f"{self._store.url}/{base.file}",
                    remedy="dump again: another base is chosen, or a full dump is made",
                )
        return totals

    def _receive(self, writer: StoreWriter, decoder: FrameDecoder) -> None:
        while True:
            received = self._conversation.receive()
            if isinstance(received, messages.EndOfData):
                return
            if not isinstance(received, bytes):
                raise AgentError(f"the agent on {self._volume.host} answered something unexpected")
            decoder.feed(received)
            writer.write(received)

    def _confirm(self, result: DumpResult) -> None:
        """The dump is safe; what the host keeps for the next level is a matter of speed."""
        request = messages.KeepState(
            self._volume.uuid, self._volume.path, result.totals.state_id, result.header.level, self._dump_id
        )
        try:
            self._conversation.send(request)
            self._expect(self._conversation.receive(), messages.Done)
        except VoltoolError as error:
            self._world.reporter.report(Notice("warning", f"{self._volume.name}: dumped, but: {error}"))

    def _exit_code(self, problems: Sequence[FileProblem]) -> int:
        counted = [problem for problem in problems if not self._is_expected(problem)]
        return EXIT_PARTIAL if counted else EXIT_DONE

    def _is_expected(self, problem: FileProblem) -> bool:
        if problem.problem is not Problem.UNSTABLE:
            return False
        path = os.fsdecode(problem.path)
        return any(
            fnmatch.fnmatchcase(path, os.fsdecode(glob))
            or fnmatch.fnmatchcase(os.path.basename(path), os.fsdecode(glob))
            for glob in self._options.unstable_ok
        )
