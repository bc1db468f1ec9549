"""What is to be done so that a tree becomes what the dump has: made once by comparing, kept on disk. Ships to servers.

An object of the dump is given by all its names; what stands under them may be several inodes, or one that other objects share.
One inode at most is kept for an object; names that have another one are replaced, so that link groups become the dump's. An
inode that has names elsewhere is never changed in place: these names are not ours.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import stat
import struct
from array import array
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.format import ObjectRecord
from voltool.model import FileProblem, Problem
from voltool.spool import SortedSpool
from voltool.tree.apply.losses import MAX_NAMED
from voltool.tree.apply.records import is_omitted
from voltool.tree.blocks import BlockTable, block_file_name
from voltool.tree.inplace.compare import Comparer, Verdict
from voltool.tree.inplace.ground import Ground, Seen, decode_seen
from voltool.tree.inplace.patch import LEAST, differing
from voltool.tree.inplace.survey import Left, Standing, Survey, doomed, standing
from voltool.tree.stamps import NO_LAYOUT
from voltool.tree.state import BaseState, StateKeeper

#: depth, what is to be done with a directory, length of what was seen, length of the path
_DIRECTORY = struct.Struct(">IBBI")
MAKE, REPLACE, PREPARE = 1, 2, 3
#: depth (the deepest first), length of the path
_FINAL = struct.Struct(">II")
_DEEPEST = 0xFFFFFFFF
#: How a name of the plan is told: created, its content written, attributes changed, linked anew, deleted, left alone.
CREATE, WRITE, CHANGE, LINK, DELETE, LEAVE = "create", "write", "change", "link", "delete", "leave"
_UNREAD = "it could not be read when it was dumped: what stands there stays"
_OLD = "it could not be read when it was dumped: this is its last good content"
_UNSETTLED = "it was being written while it was dumped"


class Action(NamedTuple):
    """One object: ``fresh`` (from staging), or the inode at ``source``, whose attributes may have to be set (``fix``), gets
    ``names``, each if it is still what was seen there."""

    number: int
    fresh: bool
    fix: bool
    source: bytes
    seen: Optional[Seen]
    names: List[Tuple[Optional[Seen], bytes]]


class DirectoryStep(NamedTuple):
    """One directory that must be made, replace something, or be made ready for what comes into it."""

    kind: int
    seen: Optional[Seen]
    path: bytes
    record: ObjectRecord


@dataclass
class Counts:
    """What a plan comes to. ``bytes`` is the size of the files that are written; ``kept``: names the dump does not have."""

    created: int = 0
    written: int = 0
    bytes: int = 0
    changed: int = 0
    linked: int = 0
    deleted: int = 0
    kept: int = 0

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.created or self.written or self.changed or self.linked or self.deleted)


@dataclass
class Plan:
    """The whole; spools on disk, `close` them. ``needed``: objects whose data must come, ``needed_bytes`` at the least.

    ``names`` are as many of each kind as was asked for.
    """

    survey: Survey
    actions: SortedSpool
    steps: SortedSpool
    finals: SortedSpool
    patches: SortedSpool
    limit: int
    counts: Counts = field(default_factory=Counts)
    needed: Bitmap = field(default_factory=Bitmap)
    needed_count: int = 0
    needed_bytes: int = 0
    names: List[Tuple[str, bytes]] = field(default_factory=list)
    problems: List[FileProblem] = field(default_factory=list)
    _told: Dict[str, int] = field(default_factory=dict)

    def tell(self, kind: str, path: bytes) -> None:
        """Note a name for who is asked, up to the limit of its kind."""
        told = self._told.get(kind, 0)
        if told < self.limit:
            self._told[kind] = told + 1
            self.names.append((kind, path))

    def problem(self, problem: Problem, path: bytes, why: str) -> None:
        """Note that ``path`` will not be what it was."""
        if len(self.problems) < MAX_NAMED:
            self.problems.append(FileProblem(problem, path, why))

    def close(self) -> None:
        """Free the spools; idempotent."""
        self.survey.close()
        for spool in (self.actions, self.steps, self.finals, self.patches):
            spool.close()


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
            self._plan.finals.add(_FINAL.pack(_DEEPEST - depth, len(one.path)) + one.path + record)

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
        head = _DIRECTORY.pack(depth, kind, len(seen), len(one.path))
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


def actions(plan: Plan, state: BaseState) -> Iterator[Tuple[Action, ObjectRecord]]:
    """The plan's actions with the records they are about, in order of objects."""
    records = _Records(state)
    for raw in plan.actions:
        number = int.from_bytes(raw[:8], "big")
        fresh, fix, source, seen, names = marshal.loads(raw[8:])  # noqa: S302 - our own unnamed file
        decoded = [(decode_seen(one), path) for one, path in names]
        record = fmt.decode_object(records.of(number))
        yield Action(number, fresh, fix, source, decode_seen(seen), decoded), record


class Patch(NamedTuple):
    """A large file of which only ``chunks`` must come; the others are what stands at ``path``."""

    record: ObjectRecord
    path: bytes
    seen: Seen
    chunks: array[int]


def patches(plan: Plan, state: BaseState) -> Iterator[Patch]:
    """The plan's patches, in order of objects."""
    records = _Records(state)
    for raw in plan.patches:
        path, seen, chunks = marshal.loads(raw[8:])  # noqa: S302 - our own unnamed file
        decoded = decode_seen(seen)
        assert decoded is not None
        yield Patch(fmt.decode_object(records.of(int.from_bytes(raw[:8], "big"))), path, decoded, array("Q", chunks))


def directory_steps(plan: Plan) -> Iterator[DirectoryStep]:
    """What is to be done with directories before anything is put into them; parents first."""
    for raw in plan.steps:
        _depth, kind, seen_length, path_length = _DIRECTORY.unpack_from(raw)
        seen = _DIRECTORY.size
        path = seen + seen_length
        record = path + path_length
        yield DirectoryStep(kind, decode_seen(raw[seen:path]), raw[path:record], fmt.decode_object(raw[record:]))


def final_directories(plan: Plan) -> Iterator[Tuple[bytes, ObjectRecord]]:
    """All directories that are restored, with what they are to be; children first."""
    for raw in plan.finals:
        _depth, length = _FINAL.unpack_from(raw)
        start = _FINAL.size
        yield raw[start : start + length], fmt.decode_object(raw[start + length :])


def _with_records(state: BaseState, spool: SortedSpool) -> Iterator[Tuple[List[Standing], bytes]]:
    records = _Records(state)
    for group in standing(spool):
        yield group, records.of(group[0].number)


class _Records:
    """Records by ascending number, from one pass over the state's objects."""

    def __init__(self, state: BaseState) -> None:
        self._records = iter(state.objects)
        self._current = b""

    def of(self, number: int) -> bytes:
        """The record of object ``number``. Raises IntegrityError where there is none."""
        key = number.to_bytes(8, "big")
        while self._current[:8] < key:
            following = next(self._records, None)
            if following is None:
                break
            self._current = following
        if self._current[:8] != key:
            raise fmt.damaged("a name leads to an object that it does not have")
        return self._current


def _now(one: Standing, seen: Seen) -> Standing:
    """A name with what its inode was when that was compared."""
    return one._replace(seen=seen) if one.seen and one.seen.inode == seen.inode else one


def _text(seen: Optional[Seen]) -> bytes:
    return b"" if seen is None else seen.encode()


def lacking(plan: Plan) -> List[Left]:
    """What is left alone and is therefore not what the dump has."""
    return [left for left in plan.survey.left if left.lacks]
