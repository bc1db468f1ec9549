"""Makes the plan: what the survey found, compared with the manifest's records. Ships to servers.

An object of the dump is given by all its names; what stands under them may be several inodes, or one that other objects share.
One inode at most is kept for an object; names that have another one are replaced, so that link groups become the dump's. An
inode that has names elsewhere is never changed in place: these names are not ours.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import stat
from typing import Callable, Iterator, List, Optional, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.format import ObjectRecord
from voltool.model import Problem
from voltool.spool import SortedSpool
from voltool.tree.apply.records import is_omitted
from voltool.tree.blocks import BlockTable, block_file_name
from voltool.tree.inplace.compare import Comparer, Verdict
from voltool.tree.inplace.ground import Ground, Seen
from voltool.tree.inplace.patch import LEAST, differing
from voltool.tree.inplace.plan import (
    CHANGE,
    CREATE,
    DEEPEST,
    DELETE,
    DIRECTORY,
    FINAL,
    LEAVE,
    LINK,
    MAKE,
    PREPARE,
    REPLACE,
    WRITE,
    Action,
    Plan,
    Records,
)
from voltool.tree.inplace.survey import Standing, Survey, doomed, standing
from voltool.tree.stamps import NO_LAYOUT
from voltool.tree.state import BaseState, StateKeeper

_UNREAD = "it could not be read when it was dumped: what stands there stays"
_OLD = "it could not be read when it was dumped: this is its last good content"
_UNSETTLED = "it was being written while it was dumped"


class Planner:
    """Compares the survey's findings with the manifest's records."""

    def __init__(
        self,
        ground: Ground,
        keeper: StateKeeper,
        state: BaseState,
        survey: Survey,
        comparer: Comparer,
        scratch: bytes,
        *,
        limit: int = 0,
        tick: Callable[[int, int], None] = lambda _files, _bytes: None,
    ) -> None:
        self._ground = ground
        self._keeper = keeper
        self._state = state
        self._survey = survey
        self._comparer = comparer
        actions, steps, finals, patches = (SortedSpool(scratch) for _spool in range(4))
        self._plan = Plan(survey, actions, steps, finals, patches, limit)
        self._claimed = Bitmap()
        self._tick = tick

    def make(self) -> Plan:
        """The plan. Raises IntegrityError, OSError."""
        plan = self._plan
        self._directories()
        self._files()
        for spool in (self._survey.ways, self._survey.extras):
            for one in doomed(spool):
                if one.path not in self._survey.protected:
                    plan.counts.deleted += 1
                    plan.tell(DELETE, one.path)
        plan.counts.kept = self._survey.kept
        for left in self._survey.left:
            plan.tell(LEAVE, left.path)
        return plan

    # ----------------------------------------------------------------------------------------------------- directories

    def _directories(self) -> None:
        for (one,), record in _with_records(self._state, self._survey.directories):
            decoded = fmt.decode_object(record)
            depth = one.path.count(b"/") + 1 if one.path else 0
            if one.seen is None or not stat.S_ISDIR(one.seen.mode):
                kind = MAKE if one.seen is None else REPLACE
                self._plan.counts.created += 1
                self._plan.tell(CREATE, one.path)
                self._step(depth, kind, one, record)
            else:
                self._standing_directory(depth, one, decoded, record)
            self._plan.finals.add(FINAL.pack(DEEPEST - depth, len(one.path)) + one.path + record)

    def _standing_directory(self, depth: int, one: Standing, decoded: ObjectRecord, record: bytes) -> None:
        descriptor = self._ground.directory(one.path)
        if not self._comparer.directory(descriptor, decoded):
            self._plan.counts.changed += 1
            self._plan.tell(CHANGE, one.path)
        flags, project = inodes.get_flags(descriptor)
        heir = fmt.FLAG_PROJINHERIT
        if project != decoded.project or flags & heir != decoded.flags & heir:
            self._step(depth, PREPARE, one, record)

    def _step(self, depth: int, kind: int, one: Standing, record: bytes) -> None:
        seen = b"" if one.seen is None else one.seen.encode()
        head = DIRECTORY.pack(depth, kind, len(seen), len(one.path))
        self._plan.steps.add(head + seen + one.path + record)

    # ----------------------------------------------------------------------------------------------------------- files

    def _files(self) -> None:
        for number, (names, record) in enumerate(_with_records(self._state, self._survey.files)):
            self._file(names, fmt.decode_object(record), record)
            self._tick(number + 1, self._comparer.bytes_read)

    def _file(self, names: List[Standing], record: ObjectRecord, raw: bytes) -> None:
        if self._cannot_be_made(names[0].path, record, raw):
            return
        best: Optional[Verdict] = None
        for inode, verdict in self._candidates(names, record):
            exclusive = verdict.seen.links == sum(1 for one in names if one.seen and one.seen.inode == inode)
            names = [_now(one, verdict.seen) for one in names]
            if not verdict.content or not (verdict.attributes or exclusive):
                continue
            best = verdict if best is None or (verdict.attributes and not best.attributes) else best
            if best.attributes:
                break
        if best is None:
            self._fresh(names, record)
        else:
            self._keep(names, best)

    def _candidates(self, names: List[Standing], record: ObjectRecord) -> Iterator[Tuple[int, Verdict]]:
        """Each inode that stands under one of the names and may become the object, compared."""
        known = set()
        kind = stat.S_IFMT(record.mode)
        for one in names:
            seen = one.seen
            if seen is None or stat.S_IFMT(seen.mode) != kind or seen.inode in known:
                continue
            known.add(seen.inode)
            if seen.links > 1 and seen.inode in self._claimed:
                continue
            if kind == stat.S_IFREG:
                yield seen.inode, self._comparer.file(one.path, record, seen)
            else:
                yield seen.inode, self._comparer.special(one.path, record, seen)

    def _cannot_be_made(self, path: bytes, record: ObjectRecord, raw: bytes) -> bool:
        """Note what the dump itself lacks; whether there is nothing to make the object of."""
        if record.state & fmt.STATE_VANISHED and (is_omitted(raw) or not stat.S_ISREG(record.mode)):
            return True
        if stat.S_ISREG(record.mode):
            if is_omitted(raw):
                self._plan.problem(Problem.UNREADABLE, path, _UNREAD)
                return True
            if record.state & fmt.STATE_UNKNOWN:
                self._plan.problem(Problem.UNREADABLE, path, _OLD)
            elif record.state & fmt.STATE_UNSETTLED:
                self._plan.problem(Problem.UNSTABLE, path, _UNSETTLED)
        elif record.state & fmt.STATE_UNKNOWN:
            self._plan.problem(Problem.UNREADABLE, path, _UNREAD)
            return True
        return False

    def _fresh(self, names: List[Standing], record: ObjectRecord) -> None:
        plan = self._plan
        if not self._patch(names, record):
            plan.needed.add(record.number)
            plan.needed_count += 1
            plan.needed_bytes += self._least_bytes(record)
        plan.counts.bytes += record.size if stat.S_ISREG(record.mode) else 0
        for one in names:
            if one.seen is None:
                plan.counts.created += 1
                plan.tell(CREATE, one.path)
            else:
                plan.counts.written += 1
                plan.tell(WRITE, one.path)
        self._act(
            Action(
                record.number,
                fresh=True,
                fix=False,
                source=b"",
                seen=None,
                names=[(one.seen, one.path) for one in names],
            )
        )

    def _patch(self, names: List[Standing], record: ObjectRecord) -> bool:
        """Whether a large file can be made of what stands and a few chunks."""
        stands = next((one for one in names if one.seen and stat.S_ISREG(one.seen.mode)), None)
        if stands is None or not stat.S_ISREG(record.mode) or record.size < LEAST:
            return False
        assert stands.seen is not None
        with contextlib.closing(self._table(record)) as table:
            chunks = differing(self._ground, self._comparer, stands.path, record, table)
        if chunks is None:
            return False
        plain = (stands.path, stands.seen.encode(), chunks.tobytes())
        self._plan.patches.add(record.number.to_bytes(8, "big") + marshal.dumps(plain))
        self._plan.needed_bytes += len(chunks) * fmt.CHUNK_SIZE
        return True

    def _table(self, record: ObjectRecord) -> BlockTable:
        path = os.path.join(self._keeper.blocks, block_file_name(record.number, record.content, NO_LAYOUT))
        return BlockTable.open(path)

    def _keep(self, names: List[Standing], best: Verdict) -> None:
        """The inode that stands under one of the names is the object."""
        plan, seen = self._plan, best.seen
        if seen.links > 1:
            self._claimed.add(seen.inode)
        source = next(one for one in names if one.seen and one.seen.inode == seen.inode)
        if not best.attributes:
            plan.counts.changed += 1
            plan.tell(CHANGE, source.path)
        others = [one for one in names if not (one.seen and one.seen.inode == seen.inode)]
        for one in others:
            if one.seen is None:
                plan.counts.created += 1
            else:
                plan.counts.linked += 1
            plan.tell(LINK if one.seen else CREATE, one.path)
        if others or not best.attributes:
            replaced = [(one.seen, one.path) for one in others]
            fix = not best.attributes
            self._act(Action(names[0].number, fresh=False, fix=fix, source=source.path, seen=seen, names=replaced))

    def _act(self, action: Action) -> None:
        number, fresh, fix, source, seen, names = action
        plain = (fresh, fix, source, _text(seen), [(_text(one), path) for one, path in names])
        self._plan.actions.add(number.to_bytes(8, "big") + marshal.dumps(plain))

    def _least_bytes(self, record: ObjectRecord) -> int:
        """What a file holds beside holes, at the least: of one with a hole as large as a chunk nobody knows."""
        if not stat.S_ISREG(record.mode):
            return 0
        if record.size <= fmt.CHUNK_SIZE:
            return record.size
        with contextlib.closing(self._table(record)) as table:
            full = sum(1 for index in range(table.chunks) if table.chunk(index)[0] != fmt.ZERO_CHUNK)
        return record.size if full == -(-record.size // fmt.CHUNK_SIZE) else full * fmt.BLOCK_SIZE


def _with_records(state: BaseState, spool: SortedSpool) -> Iterator[Tuple[List[Standing], bytes]]:
    records = Records(state)
    for group in standing(spool):
        yield group, records.of(group[0].number)


def _now(one: Standing, seen: Seen) -> Standing:
    """A name with what its inode was when that was compared."""
    return one._replace(seen=seen) if one.seen and one.seen.inode == seen.inode else one


def _text(seen: Optional[Seen]) -> bytes:
    return b"" if seen is None else seen.encode()
