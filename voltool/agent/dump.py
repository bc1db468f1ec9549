"""The verb StartDump: clone, scan, compare, produce. What is kept of it for the next level: `keep`.

Joins driver, tree and dump format; the order of the conversation stands in `wire.messages.StartDump`. Ships to servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from typing import Callable, FrozenSet, Iterator, List, Optional, Tuple

import voltool
from voltool import durable
from voltool.agent.bases import Base, BaseBook
from voltool.agent.dump_ground import DumpGround, VolumeGround, space_is_short
from voltool.agent.dump_mounts import tell_mounts
from voltool.agent.host import HostState
from voltool.agent.lock import assert_same_lock, lock_info
from voltool.agent.manifest import receive_manifest
from voltool.agent.pace import Pace, be_nice
from voltool.agent.path.held import data_way
from voltool.dumpfile import codec as codecs
from voltool.dumpfile.writer import DumpWriter
from voltool.errors import AgentError, SpaceError
from voltool.events import Notice, PhaseEnded, PhaseStarted
from voltool.model import Consistency, DumpHeader, DumpResult, FileProblem, VolumeRecord
from voltool.origins import Origins
from voltool.spool import SortedSpool
from voltool.tree.borrow import borrow_stamps
from voltool.tree.changes import Retimed, classify_changes
from voltool.tree.classify import Classified, Classifier
from voltool.tree.opening import CaptureSettings
from voltool.tree.produce import Produced, Producer
from voltool.tree.sharedwalk import SharedWalk
from voltool.tree.state import BaseState, StateKeeper, StateWriter
from voltool.tree.vouched import Vouched
from voltool.tree.walk import WalkResult
from voltool.volumes.contract import MOST_TIMED, Clone
from voltool.volumes.directory import DirectoryDriver
from voltool.volumes.hooks import between_hooks
from voltool.volumes.mounts import nested_mounts
from voltool.volumes.records import VolumeHome, open_home
from voltool.volumes.registry import driver_named
from voltool.volumes.traits import FilesystemTraits, traits_of
from voltool.wire import messages
from voltool.wire.conversation import Buffer, Conversation

#: What is gathered before it goes over the wire.
_WIRE_BLOCK = 1 << 20
#: What is so large goes at once, without a copy.
_WIRE_PIECE = 128 << 10
#: A file system takes so many times longer to say that an object's times were set than it takes to look at one.
_SHARE_TIMED = 12


def dump(request: messages.StartDump, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `StartDump`."""
    home = open_home(host.directory, request.uuid, request.path)
    with home.lock(f"dump {request.dump_id}"):
        be_nice(request.nice, idle_io=request.idle_io)
        return dump_home(request, conversation, host, home)


def dump_home(
    request: messages.StartDump,
    conversation: Conversation,
    host: HostState,
    home: VolumeHome,
    ground: Optional[DumpGround] = None,
) -> messages.Message:
    """The conversation of `StartDump` about an opened volume; without a ``ground`` the caller holds its lock."""
    ground = ground or VolumeGround(request, home, driver_named(home.record.driver))
    with contextlib.ExitStack() as stack:
        return _Dump(request, conversation, host, home, ground, stack).run()


class _Dump:
    """One dump on its host."""

    def __init__(
        self,
        request: messages.StartDump,
        conversation: Conversation,
        host: HostState,
        home: VolumeHome,
        ground: DumpGround,
        stack: contextlib.ExitStack,
    ) -> None:
        self._request = request
        self._conversation = conversation
        self._host = host
        self._ground = ground
        self._stack = stack
        self._record: VolumeRecord = home.record
        self._driver = driver_named(self._record.driver)
        self._pace = Pace(conversation, self._record.name, request.bandwidth)
        durable.make_directory(os.path.join(ground.directory, b"states"))
        self._keeper = StateKeeper(os.path.join(ground.directory, b"states"))
        self._book = BaseBook(ground.directory)
        self._tmp = os.path.join(ground.directory, b"tmp")
        self._compared: Optional[Clone] = None
        self._origins: Optional[Origins] = None
        self._lock: Optional[messages.LockInfo] = None
        self._excludes = () if request.for_move or request.complete else self._record.excludes

    def run(self) -> messages.Message:
        """The whole conversation."""
        try:
            over_path = self._request.over_path
            self._pace.way = self._stack.enter_context(data_way(self._conversation, over_path=over_path))
            self._begin()
            with self._ground.turn():
                clone = self._clone()
            return self._dump(clone)
        finally:
            shutil.rmtree(self._tmp, ignore_errors=True)

    def _dump(self, clone: Clone) -> messages.Message:
        try:
            root_fd = self._driver.open(clone)
            try:
                reply = self._read(clone, root_fd)
            finally:
                os.close(root_fd)  # before it is dropped: a ZFS snapshot that is in use cannot be
            if self._request.dry_run:
                self._driver.drop(self._record, clone)
        except BaseException:
            self._driver.drop(self._record, clone)
            raise
        return reply

    def _read(self, clone: Clone, root_fd: int) -> messages.Message:
        traits = traits_of(root_fd)
        self._origins = self._driver.origins(clone)
        base, numbering = self._open_bases()
        classified, problems = self._classify(clone, root_fd, base or numbering, base, traits)
        self._conversation.send(
            messages.ScanTotals(classified.names, classified.changed_files, classified.changed_bytes)
        )
        if self._request.dry_run:
            return messages.Done()
        self._await_proceed()
        return self._produce(clone, root_fd, classified, base, problems, traits)

    def _await_proceed(self) -> None:
        if not isinstance(self._conversation.receive(), messages.Proceed):
            raise AgentError("the dump was called off")

    def _begin(self) -> None:
        if self._book.pending is not None:
            if self._book.pending.state_id == self._request.base_state_id:
                self._book.confirm(self._book.pending.state_id)
            else:
                self._book.reject()
        self._ground.tidy(self._book)
        os.makedirs(self._tmp, 0o700, exist_ok=True)  # gone at the end, so nobody misses it after a crash

    def _clone(self) -> Clone:
        if space_is_short(self._ground.directory):
            self._ground.give_up_clones()
        self._lock = lock_info(self._host, self._record.uuid)
        locked = self._lock is not None
        with contextlib.ExitStack() as hooks:
            if self._wants_hooks(locked=locked):
                if self._request.hooks.before_clone:
                    self._driver.prepare(self._record)  # as long as nobody waits for it
                name, path = self._record.name, self._record.path
                hooks.enter_context(between_hooks(self._request.hooks, "before_clone", "after_clone", name, path))
            clone = self._make_clone()
            if clone.live:
                self._stack.push(hooks.pop_all())  # nothing is frozen: the hooks stand around the reading
        if clone.consistency is Consistency.LIVE and locked:
            return dataclasses.replace(clone, consistency=Consistency.LOCKED)
        return clone

    def _make_clone(self) -> Clone:
        try:
            return self._driver.clone(self._record, self._ground.label)
        except SpaceError:
            if not self._ground.give_up_clones():
                raise
        return self._driver.clone(self._record, self._ground.label)

    def _wants_hooks(self, *, locked: bool) -> bool:
        """Under a lock everything is at rest; and a move reads a live tree without stopping anybody before its lock."""
        without_clones = self._driver.name == DirectoryDriver.name
        return not (self._request.dry_run or locked or (self._request.for_move and without_clones))

    def _open_bases(self) -> tuple[Optional[BaseState], Optional[BaseState]]:
        """The base of the dump, and at level 0 the state whose object numbers go on."""
        wanted = self._request.base_state_id
        if wanted is None:
            return None, self._closing(self._ground.newest(self._book))
        base = self._keeper.open(wanted)
        if base is None:
            self._conversation.send(messages.NeedManifest(wanted))
            base = self._with_stamps(receive_manifest(self._conversation, self._keeper, wanted))
        return self._closing(base), None

    def _with_stamps(self, base: BaseState) -> BaseState:
        """The base with stamps of the state that this host knows best, where that is possible."""
        lender = self._ground.newest(self._book)
        if lender is not None:
            with contextlib.closing(lender):
                found = borrow_stamps(self._keeper, base, lender)
            if found is not None:
                return found
        message = f"{self._record.name}: the host has no home stamps of the base: every file is read and compared"
        self._conversation.report(Notice("info", message))
        return base

    def _closing(self, state: Optional[BaseState]) -> Optional[BaseState]:
        if state is not None:
            self._stack.callback(state.close)
        return state

    def _spool(self) -> SortedSpool:
        spool = SortedSpool(self._tmp)
        self._stack.callback(spool.close)
        return spool

    # ------------------------------------------------------------------------------------------------------- scan

    def _classify(
        self,
        clone: Clone,
        root_fd: int,
        numbering: Optional[BaseState],
        base: Optional[BaseState],
        traits: FilesystemTraits,
    ) -> tuple[Classified, tuple[FileProblem, ...]]:
        self._conversation.report(PhaseStarted(self._record.name, "scan"))
        classified = self._from_changes(clone, root_fd, base)
        problems: tuple[FileProblem, ...] = ()
        if classified is None:
            walk = self._walk(clone, root_fd)
            problems = tuple(walk.problems)
            tell_mounts(walk.skipped_mounts, self._record, self._conversation, for_move=self._request.for_move)
            if numbering is not None and not traits.stable_inodes:
                numbering.forget_stamps()
            vouched = self._vouched(clone)
            counts = base is not None
            classified = Classifier(walk, numbering, self._spool, unchanged_counts=counts, vouched=vouched).classify()
            walk.spool.close()
        self._conversation.report(PhaseEnded(self._record.name, "scan"))
        return classified, problems

    def _walk(self, clone: Clone, root_fd: int) -> WalkResult:
        root = self._record.path.rstrip(b"/") + b"/"
        nested = nested_mounts(self._record.path) if clone.live else []
        mounts: FrozenSet[bytes] = frozenset(point[len(root) :] for point in nested)
        walker = SharedWalk(
            root_fd,
            self._spool(),
            live=clone.live,
            excludes=self._excludes,
            mounts=mounts,
            origins=self._origins,
            tick=lambda entries, size: self._pace.progress("scan", size, entries),
        )
        return walker.walk()

    def _from_changes(self, clone: Clone, root_fd: int, base: Optional[BaseState]) -> Optional[Classified]:
        """The fast way, where the file system itself knows what changed."""
        self._compared = old = self._clone_of(base)
        if base is None or old is None or self._excludes:
            return None
        most_timed = max(MOST_TIMED, base.stamps.count // _SHARE_TIMED if base.stamps else 0)
        changes = self._driver.changes(self._record, old, clone, most_timed)
        if changes is None:
            return None
        retimed = Retimed(changes.timed, old.time_ns)
        return classify_changes(
            root_fd, changes.inodes, base, self._spool, lambda inode: self._driver.path_of(clone, inode), retimed
        )

    def _vouched(self, clone: Clone) -> Optional[Vouched]:
        """Where the file system knows of what was young when it was read whether it is as it was."""
        old = self._compared
        same_bytes = self._stack.enter_context(self._driver.same_bytes(old, clone)) if old is not None else None
        return Vouched(old.time_ns, clone.time_ns, same_bytes) if old is not None and same_bytes is not None else None

    def _clone_of(self, base: Optional[BaseState]) -> Optional[Clone]:
        """The clone that the base was read from, if it is still there and the base's stamps are its own."""
        if base is None or base.stamps is None:
            return None
        kept = self._book.find(base.state_id)
        return self._driver.find(self._record, kept.label) if kept and kept.label else None

    def _changed_ranges(self, clone: Clone, path: bytes) -> Optional[List[Tuple[int, int]]]:
        """Which bytes of a file changed since the base, where the file system has told."""
        if self._compared is None:
            return None
        ranges = self._driver.changed_ranges(self._compared, clone, path)
        return None if ranges is None else [(part.offset, part.length) for part in ranges]

    # ---------------------------------------------------------------------------------------------------- produce

    def _produce(
        self,
        clone: Clone,
        root_fd: int,
        classified: Classified,
        base: Optional[BaseState],
        problems: tuple[FileProblem, ...],
        traits: FilesystemTraits,
    ) -> messages.Message:
        name = self._record.name
        self._conversation.report(PhaseStarted(name, "dump", classified.changed_bytes, classified.changed_files))
        state = self._keeper.create(self._request.dump_id)
        codec = codecs.codec_named(self._request.codec)
        header = self._header(clone)
        settings = CaptureSettings(
            root_fd,
            clone.live,
            clone.time_ns,
            codec,
            self._keeper.key(),
            traits.leases,
            self._keeper.blocks,
            self._origins,
        )
        with self._wire_sink() as sink:
            writer = DumpWriter(sink, codec)
            produced = Producer(
                classified,
                base,
                settings,
                writer,
                state,
                self._spool,
                workers=self._request.workers or min(4, os.cpu_count() or 1),
                advance=lambda size, files: self._pace.progress("dump", size, files),
                changed_ranges=lambda path: self._changed_ranges(clone, path),
            ).produce(header)
        self._keep(clone, state, produced)
        self._pace.way.send(messages.EndOfData())
        self._conversation.report(PhaseEnded(name, "dump"))
        return messages.DumpReply(DumpResult(header, produced.totals, problems + produced.problems))

    def _keep(self, clone: Clone, state: StateWriter, produced: Produced) -> None:
        if clone.consistency is Consistency.LOCKED and not self._request.for_move:  # a move asserts it itself
            assert_same_lock(self._host, self._record, self._lock)
        state_id = produced.totals.state_id
        state.publish(state_id, produced.next_number)
        label = clone.label if self._driver.compares else ""
        self._book.propose(Base(state_id, self._request.dump_id, label, self._ground.level))

    @contextlib.contextmanager
    def _wire_sink(self) -> Iterator[Callable[[Buffer], None]]:
        gathered = bytearray()

        def sink(data: Buffer) -> None:
            nonlocal gathered
            if len(data) < _WIRE_PIECE:
                gathered += data
            if len(gathered) >= _WIRE_BLOCK or (len(data) >= _WIRE_PIECE and gathered):
                self._pace.send(gathered)
                gathered = bytearray()
            if len(data) >= _WIRE_PIECE:
                self._pace.send(data)

        yield sink
        if gathered:
            self._pace.send(gathered)

    def _header(self, clone: Clone) -> DumpHeader:
        request, record = self._request, self._record
        return DumpHeader(
            dump_id=request.dump_id,
            volume_uuid=record.uuid,
            volume_name=record.name,
            level=request.level,
            sequence=self._ground.sequence(),
            epoch=record.epoch,
            clone_time_ns=clone.time_ns,
            boot_id=self._host.boot_id,
            host=self._host.hostname,
            driver=record.driver,
            consistency=clone.consistency,
            source_path=record.path,
            base_state_id=request.base_state_id,
            base_dump_id=request.base_dump_id,
            excludes=self._excludes,
            tool_version=voltool.__version__,
            machine_id=self._host.machine_id,
        )
