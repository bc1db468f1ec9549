"""The order of a dump: front (objects and names that differ from the base), data, end; and the new home state beside it.

Takes what a classification found and drives the pipeline. Knows nothing of drivers, wires or stores. Ships to servers.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import DumpWriter
from voltool.frozen import dataclass
from voltool.model import DumpHeader, DumpTotals, FileProblem, Problem
from voltool.spool import SortedSpool
from voltool.tree.blocks import block_file_name, block_file_number
from voltool.tree.classify import WORK, WORK_MODE, WORK_SHARED, WORK_SIZE, Classified, Rest, Work, decode_work
from voltool.tree.describe import Describer
from voltool.tree.opening import CaptureSettings, flags_of
from voltool.tree.pipeline import Pipeline
from voltool.tree.planning import ChangedRanges, Todo
from voltool.tree.recordfile import Block, joined
from voltool.tree.stamps import MODE, SIZE, decode_stamp, encode_home
from voltool.tree.state import BaseState, StateWriter

#: Where a home stamp record has the size in its stamp.
_HOME_FILE_SIZE = slice(16 + SIZE.start, 16 + SIZE.stop)


@dataclass(frozen=True)
class Produced:
    """What came out: the totals of the dump and the files that could not be read as they stood."""

    totals: DumpTotals
    problems: Tuple[FileProblem, ...]
    next_number: int


class Producer:
    """Produces one dump. ``base`` is what the dump is a difference to (None: a level 0 dump)."""

    def __init__(
        self,
        classified: Classified,
        base: Optional[BaseState],
        settings: CaptureSettings,
        writer: DumpWriter,
        state: StateWriter,
        make_spool: Callable[[], SortedSpool],
        *,
        workers: int,
        advance: Callable[[int, int], None],
        changed_ranges: ChangedRanges,
    ) -> None:
        self._classified = classified
        self._base = base
        self._settings = settings
        self._writer = writer
        self._state = state
        self._make_spool = make_spool
        self._workers = workers
        self._advance = advance
        self._changed_ranges = changed_ranges
        self._finals = make_spool()
        self._todo = make_spool()
        self._hasher = fmt.StateHasher()
        self._problems: List[FileProblem] = []

    def produce(self, header: DumpHeader) -> Produced:
        """Write the whole dump and the new state's files (unpublished)."""
        self._writer.begin(header)
        self._writer.owners(owner_records(self._classified.owners))
        self._writer.objects(self._front_objects())
        rest = self._classified.rest
        self._writer.entries(self._entry_differences() if rest is None else self._listed_differences(rest))
        pipeline = Pipeline(
            self._settings,
            self._classified.table,
            self._writer,
            self._workers,
            finals=self._finals,
            stamps=self._classified.stamps,
            large=self._state.large,
            advance=self._advance,
            changed_ranges=self._changed_ranges,
        )
        pipeline.run(self._todos())
        self._finish_objects()
        self._write_stamps()
        totals = self._writer.finish(self._hasher.state_id(), self._hasher.objects, self._hasher.entries)
        for spool in (self._finals, self._todo):
            spool.close()
        return Produced(totals, tuple(self._problems + pipeline.problems), self._classified.next_number)

    # ------------------------------------------------------------------------------------------------------- front

    def _front_objects(self) -> Iterator[bytes]:
        """What differs before data is read: described objects, PENDING files, tombstones; by number."""
        describer = Describer(
            self._settings.root_fd,
            self._classified.table,
            live=self._settings.live,
            clone_time_ns=self._settings.clone_time_ns,
            origins=self._settings.origins,
        )
        is_gone = self._classified.is_gone
        try:
            for old, work_record in _joined(self._near_touched(), self._classified.changed):
                if work_record is None:
                    assert old is not None
                    number = int.from_bytes(old[:8], "big")
                    if is_gone(number):
                        yield fmt.encode_object_tombstone(number)
                    continue
                if stat.S_ISREG(int.from_bytes(work_record[WORK_MODE], "big")):
                    self._todo.add(work_record + (old or b"") + len(work_record).to_bytes(4, "big"))
                    if old is None:
                        yield work_record[:8] + work_record[WORK_SHARED] + _PENDING_REST
                else:
                    yield from self._front_object(describer, decode_work(work_record), old)
        finally:
            describer.close()

    def _front_object(self, describer: Describer, work: Work, old: Optional[bytes]) -> Iterator[bytes]:
        if stat.S_ISDIR(int.from_bytes(work.stamp[MODE], "big")):
            described = describer.directory(work, fuzzy=work.number in self._classified.fuzzy)
        else:
            described = describer.special(work)
        record = described.record
        if record is None:
            record = old or _nameless(work, vanished=not described.why)
            if described.why:
                self._problems.append(FileProblem(Problem.UNREADABLE, self._path(work), described.why))
                self._classified.stamps.add(encode_home(work.inode, work.number, work.stamp, 0))
        else:
            flags = flags_of(self._settings, settled=described.settled)
            self._classified.stamps.add(encode_home(work.inode, work.number, described.stamp, flags))
        self._finals.add(record)
        if record != old:
            yield record

    def _path(self, work: Work) -> bytes:
        path = self._classified.table.path(work.directory)
        return path + b"/" + work.tail if path else work.tail

    def _entry_differences(self) -> Iterator[bytes]:
        """The entries that the base has not, tombstones of those it has beyond; the whole goes into the new state."""
        state_add, hash_add = self._state.entries.add, self._hasher.add_entry
        if self._base is None:
            for entry in self._classified.entries:
                state_add(entry)
                hash_add(entry)
                yield entry
            return
        old_entries = iter(self._base.entries)
        old = next(old_entries, None)
        for entry in self._classified.entries:
            state_add(entry)
            hash_add(entry)
            if entry == old:
                old = next(old_entries, None)
                continue
            key = entry[:-8]
            while old is not None and old[:-8] < key:
                yield _entry_tombstone(old)
                old = next(old_entries, None)
            if old is not None and old[:-8] == key:
                if old != entry:
                    yield entry
                old = next(old_entries, None)
            else:
                yield entry
        while old is not None:
            yield _entry_tombstone(old)
            old = next(old_entries, None)

    def _listed_differences(self, rest: Rest) -> Iterator[bytes]:
        """`_entry_differences` where only some directories were listed: what concerns none of them stays in its blocks."""
        assert self._base is not None
        state, hasher = self._state.entries, self._hasher
        for old, new in joined(self._base.entries.around(sorted(rest.directories)), iter(self._classified.entries), 8):
            if isinstance(old, Block):
                state.add_block(old)
                hasher.add_entries(old.raw, old.records)
                continue
            if new is None:
                assert old is not None
                if int.from_bytes(old[:8], "big") in rest.directories:
                    yield _entry_tombstone(old)
                    continue
            final = new or old
            assert final is not None
            state.add(final)
            hasher.add_entry(final)
            if final != old:
                yield final

    def _near_touched(self) -> Iterable[bytes]:
        """The base's objects, with or without those that are as they were."""
        if self._base is None:
            return ()
        rest = self._classified.rest
        return self._base.objects if rest is None else self._base.objects.near(sorted(rest.touched))

    # -------------------------------------------------------------------------------------------------------- data

    def _todos(self) -> Iterator[Todo]:
        for record in self._todo:
            split = int.from_bytes(record[-4:], "big")
            number, inode, stamp, layout, directory = WORK.unpack_from(record)
            old = record[split:-4]
            base = fmt.decode_object(old) if old else None
            yield Todo(number, inode, stamp, layout, directory, record[WORK_SIZE:split], base, old)

    # --------------------------------------------------------------------------------------------------------- end

    def _finish_objects(self) -> None:
        """The complete manifest's objects: the base's that are alive, replaced by the final records."""
        rest, is_gone = self._classified.rest, self._classified.is_gone
        state, hasher = self._state.objects, self._hasher
        for old, final in joined(self._base_blocks(rest), iter(self._finals), 0):
            if isinstance(old, Block):
                state.add_block(old)
                hasher.add_objects(old.raw, old.records)
                continue
            record = final
            if record is None:
                assert old is not None
                if is_gone(int.from_bytes(old[:8], "big")):
                    continue
                record = old
            state.add(record)
            hasher.add_object(record)
        if self._base is not None:
            self._state.large.extend(self._unchanged_large())
        if rest is not None:
            self._state.large.extend(name for name in rest.large if block_file_number(name) not in rest.touched)

    def _base_blocks(self, rest: Optional[Rest]) -> Iterator[Union[bytes, Block]]:
        if self._base is None:
            return iter(())
        return iter(self._base.objects) if rest is None else self._base.objects.around(sorted(rest.touched))

    def _unchanged_large(self) -> Iterable[bytes]:
        assert self._base is not None
        from_bytes, limit = int.from_bytes, fmt.CHUNK_SIZE
        layouts: Dict[int, bytes] = {}
        for home in self._classified.stamps:
            if from_bytes(home[_HOME_FILE_SIZE], "big") > limit:
                layouts[from_bytes(home[8:16], "big")] = home[-8:]
        if not layouts:
            return
        for old in self._near_touched():
            if int.from_bytes(old[20:28], "big") > fmt.CHUNK_SIZE:
                number = int.from_bytes(old[:8], "big")
                if number in layouts:
                    yield block_file_name(number, fmt.decode_object(old).content, layouts[number])

    def _write_stamps(self) -> None:
        homes: Iterable[bytes] = self._classified.stamps
        if self._classified.rest is not None:
            assert self._base is not None
            assert self._base.stamps is not None
            homes = self._base.stamps.replaced(self._classified.rest.touched, homes)
        with open(os.path.join(self._state.directory, b"stamps"), "wb", buffering=1 << 20) as file:
            file.writelines(homes)
            file.flush()
            os.fsync(file.fileno())


def _joined(
    old_records: Iterable[bytes], new_records: Iterable[bytes]
) -> Iterator[Tuple[Optional[bytes], Optional[bytes]]]:
    """Pairs of the old and the new record of each object number, both sorted; None where one side lacks it."""
    olds = iter(old_records)
    old = next(olds, None)
    for new in new_records:
        key = new[:8]
        while old is not None and old[:8] < key:
            yield old, None
            old = next(olds, None)
        if old is not None and old[:8] == key:
            yield old, new
            old = next(olds, None)
        else:
            yield None, new
    while old is not None:
        yield old, None
        old = next(olds, None)


_PENDING_REST = fmt.OBJECT_REST.pack(0, 0, fmt.STATE_PENDING, fmt.NO_HASH, 0, 0)


def _nameless(work: Work, *, vanished: bool) -> bytes:
    """A symlink or special file that could not be described: unknown, and left out by restore."""
    stamp = decode_stamp(work.stamp)
    return fmt.OBJECT.pack(
        work.number,
        stamp.mode,
        stamp.uid,
        stamp.gid,
        0,
        stamp.mtime_s,
        stamp.mtime_ns,
        0,
        0,
        fmt.STATE_UNKNOWN | (fmt.STATE_VANISHED if vanished else 0),
        fmt.NO_HASH,
        0,
        0,
    )


def _entry_tombstone(entry: bytes) -> bytes:
    return entry[:-8] + b"\0" * 8


def owner_records(owners: Iterable[bytes]) -> List[bytes]:
    """OWNERS records for (uid, gid) packed: those that have names here."""
    owners = set(owners)
    users = {int.from_bytes(pair[:4], "big") for pair in owners}
    groups = {int.from_bytes(pair[4:], "big") for pair in owners}
    records = []
    for user in users:
        with contextlib.suppress(KeyError):
            records.append(fmt.encode_owner(b"u", user, os.fsencode(pwd.getpwuid(user).pw_name)))
    for group in groups:
        with contextlib.suppress(KeyError):
            records.append(fmt.encode_owner(b"g", group, os.fsencode(grp.getgrgid(group).gr_name)))
    return records
