"""The merge job: one full dump out of a chain, in the same store, without the volume's host having to read anything.

Every byte that it consists of is read from the chain against its checksums; the new file is read back and verified as a whole
(every content hash, every record, the state id), and must lead to the very state that the chain does, before it gets its name.
So nothing that a source has lost can hide in it. It stands for the same point in time: same state, sequence, clone time, epoch;
`--at` finds it, restoring it gives what the chain gives, and incrementals made on the chain or later fit it.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from voltool.backup.accept import accept_point, is_accepted
from voltool.backup.chains import OpenedChain, open_chain
from voltool.backup.keeping import Keeping
from voltool.backup.ports import World
from voltool.backup.prune import circumstances, find_suspicious
from voltool.backup.shelf import Shelf, Spared
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.merge import Merge
from voltool.dumpfile.reader import DumpReader
from voltool.dumpfile.verify import verify_chain
from voltool.errors import IntegrityError, SpaceError, VoltoolError
from voltool.events import Notice, PhaseEnded, PhaseStarted, Progressed
from voltool.model import StoredDump
from voltool.policy.chain import Lineage, point_of, recency
from voltool.policy.retention import decide
from voltool.stores.contract import Store, StoreWriter
from voltool.stores.naming import format_name
from voltool.wire import messages

PHASE, CHECK = "merge", "verify"
_OVERHEAD_PER_ENTRY = 200
_OVERHEAD = 1 << 20


@dataclass(frozen=True)
class MergeOutcome:
    """``dump`` is the full dump; ``made`` is false where there was one of that point in time already. ``chain``: the ids of the
    dumps it was made of, oldest first; where it was not made now, of those that lead to its point in time, itself among them."""

    dump: StoredDump
    made: bool
    chain: tuple[str, ...]
    seconds: float


def merge_dump(world: World, dump: StoredDump, keeping: Keeping) -> MergeOutcome:
    """Merge the chain of ``dump``. Raises IntegrityError naming the damaged dump, SpaceError; nothing half-made stays, and what
    was there is untouched."""
    began = time.monotonic()
    store = world.stores.open(dump.store)
    store.sweep()
    known = world.catalog.dumps(dump.header.volume_uuid)
    alike = [other for other in [dump, *known] if other.store == dump.store and point_of(other) == point_of(dump)]
    existing = next((other for other in alike if other.header.level == 0), None)
    if existing is not None:
        lineage = Lineage(known)
        parts = sorted({*alike}.union(*(lineage.chain_of(other) for other in alike)), key=recency)
        ids = tuple(part.header.dump_id for part in parts)
        return MergeOutcome(existing, made=False, chain=ids, seconds=time.monotonic() - began)
    with open_chain(world, dump, "merging it") as opened:
        merged = _Merging(world, store, opened, keeping).run()
    try:
        world.catalog.add_dump(merged)
    except SpaceError as error:
        world.reporter.report(Notice("warning", f"merged, and the catalog will learn of it later: {error.what}"))
    if is_accepted(world, store, dump):
        accept_point(world, merged, (), time.time_ns())
    _tell_host(world, merged)
    return MergeOutcome(merged, made=True, chain=opened.dump_ids, seconds=time.monotonic() - began)


class _Merging:
    """One merge, of dumps that are pinned while it runs."""

    def __init__(self, world: World, store: Store, opened: OpenedChain, keeping: Keeping) -> None:
        self._world = world
        self._store = store
        self._opened = opened
        self._keeping = keeping
        self._subject = opened.dumps[-1].header.volume_name
        self._dump_id = uuid.uuid4().hex
        self._file = format_name(self._subject, opened.chain.header.clone_time_ns, 0, self._dump_id)

    def run(self) -> StoredDump:
        """Write, read back, publish."""
        began = time.monotonic()
        merge = Merge(self._opened.chain, dump_id=self._dump_id)
        self._hold_space(merge)
        writer = self._store.create(self._file)
        try:
            self._write(merge, writer)
            reader = self._verify(writer)
            writer.publish()
        except BaseException:
            writer.abandon()
            raise
        newest = self._opened.dumps[-1]
        seconds = time.monotonic() - began
        return StoredDump(reader.header, reader.totals, self._store.url, self._file, seconds, newest.problems)

    def _hold_space(self, merge: Merge) -> None:
        space = self._store.space()
        if space is None:
            return
        content = merge.total_bytes + self._opened.chain.totals.entries * _OVERHEAD_PER_ENTRY
        needed = min(content, self._opened.stored_bytes) + _OVERHEAD
        available = space.free - int(space.total * self._keeping.min_free_percent / 100)
        if needed > available:
            raise SpaceError(
                f"the merged dump of {self._subject} may not fit into the store",
                where=self._store.url,
                why=f"up to {needed:,} bytes are needed beside the chain, and {max(0, available):,} may be used",
                remedy="voltool prune, to let old dumps go; or a smaller min_free in the configuration",
            )

    def _write(self, merge: Merge, writer: StoreWriter) -> None:
        report = self._world.reporter.report
        report(PhaseStarted(self._subject, PHASE, total_bytes=merge.total_bytes, total_files=merge.total_files))
        for piece in merge.stream():
            writer.write(piece)
            report(Progressed(self._subject, PHASE, merge.done_bytes, merge.done_files))
        report(PhaseEnded(self._subject, PHASE))

    def _verify(self, writer: StoreWriter) -> DumpReader:
        """What lies in the store, as a whole; where it is not whole, the dump that is to blame is named."""
        report = self._world.reporter.report
        source = writer.read_back()
        try:
            report(PhaseStarted(self._subject, CHECK, total_bytes=source.size))
            reader = DumpReader(source, f"the merged dump {self._file}")
            verify_chain(Chain([reader]), lambda done, files: report(Progressed(self._subject, CHECK, done, files)))
            self._check_state(reader)
            report(PhaseEnded(self._subject, CHECK))
        except IntegrityError:
            verify_chain(self._opened.chain)
            raise
        finally:
            source.close()
        return reader

    def _check_state(self, reader: DumpReader) -> None:
        wanted, got = self._opened.chain.totals, reader.totals
        if (wanted.state_id, wanted.objects, wanted.entries) != (got.state_id, got.objects, got.entries):
            raise IntegrityError(
                "the merged dump does not lead to the state of its chain",
                where=reader.name,
                why="this is a fault of voltool's",
                remedy="report it; nothing was changed",
            )


def _tell_host(world: World, merged: StoredDump) -> None:
    """What the volume's host keeps for the merged state serves the new full dump too: so the next dump of level 1 finds what it
    compares with. Only a matter of speed."""
    header = merged.header
    volume = next((volume for volume in world.catalog.volumes() if volume.uuid == header.volume_uuid), None)
    if volume is None or world.catalog.is_elsewhere(volume):
        return
    request = messages.KeepState(volume.uuid, volume.path, merged.totals.state_id, header.level, header.dump_id)
    try:
        with world.hosts.connect(volume.host) as conversation:
            conversation.send(request)
            conversation.receive()
    except VoltoolError as error:
        message = (
            f"{volume.name}: merged; but {volume.host} was not told, so the next dump may take longer: {error.what}"
        )
        world.reporter.report(Notice("info", message))


def replace_merged(
    world: World, outcome: MergeOutcome, keeping: Keeping, now_ns: int
) -> tuple[list[StoredDump], list[Spared]]:
    """Drop what the merged dump makes redundant of the chain it was made of; what was dropped, and what was spared and why.

    Redundant is the dump of the same point in time, and those whose points in time the retention rules let go; never what
    another dump rests on. Without rules all other points in time stay. A full dump that was not made just now is verified first.
    """
    full = outcome.dump
    uuid_ = full.header.volume_uuid
    if not outcome.made:
        with open_chain(world, full, "verifying it") as opened:
            verify_chain(opened.chain)
    store = world.stores.open(full.store)
    shelf = Shelf(world, store, uuid_, [*world.catalog.dumps(uuid_), full])
    suspicions = find_suspicious(world, [shelf], keeping)
    about = circumstances(store, keeping, now_ns, suspicions)
    if suspicions:
        world.reporter.report(Notice("warning", f"{full.header.volume_name}: nothing is replaced: {about.frozen}"))
        return [], []
    let_go = {each.dump.header.dump_id for each in decide(shelf.dumps, keeping.rules, about) if not each.keep}
    held = about.held or {}
    part = {*outcome.chain} | {dump.header.dump_id for dump in shelf.dumps if point_of(dump) == point_of(full)}
    going = [
        dump
        for dump in shelf.dumps
        if dump.header.dump_id in part - {full.header.dump_id} - held.keys()
        and (dump.header.dump_id in let_go or point_of(dump) == point_of(full))
    ]
    return shelf.drop(_not_needed(shelf.dumps, going))


def _not_needed(dumps: list[StoredDump], going: list[StoredDump]) -> list[StoredDump]:
    """Those of ``going`` that nothing which stays rests on."""
    lineage = Lineage(dumps)
    ids = {dump.header.dump_id for dump in going}
    needed = {
        base.header.dump_id for dump in dumps if dump.header.dump_id not in ids for base in lineage.chain_of(dump)[:-1]
    }
    return [dump for dump in going if dump.header.dump_id not in needed]
