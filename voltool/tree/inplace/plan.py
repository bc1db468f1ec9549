"""A plan of what is to be done so that a tree becomes what the dump has: kept on disk, read back in order. Ships to servers."""

from __future__ import annotations

import marshal
import struct
from array import array
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.format import ObjectRecord
from voltool.model import FileProblem, Problem
from voltool.spool import SortedSpool
from voltool.tree.apply.losses import MAX_NAMED
from voltool.tree.inplace.ground import Seen, decode_seen
from voltool.tree.inplace.survey import Left, Survey
from voltool.tree.state import BaseState

#: depth, what is to be done with a directory, length of what was seen, length of the path
DIRECTORY = struct.Struct(">IBBI")
MAKE, REPLACE, PREPARE = 1, 2, 3
#: depth (the deepest first), length of the path
FINAL = struct.Struct(">II")
DEEPEST = 0xFFFFFFFF
#: How a name of the plan is told: created, its content written, attributes changed, linked anew, deleted, left alone.
CREATE, WRITE, CHANGE, LINK, DELETE, LEAVE = "create", "write", "change", "link", "delete", "leave"


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


def actions(plan: Plan, state: BaseState) -> Iterator[Tuple[Action, ObjectRecord]]:
    """The plan's actions with the records they are about, in order of objects."""
    records = Records(state)
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
    records = Records(state)
    for raw in plan.patches:
        path, seen, chunks = marshal.loads(raw[8:])  # noqa: S302 - our own unnamed file
        decoded = decode_seen(seen)
        assert decoded is not None
        yield Patch(fmt.decode_object(records.of(int.from_bytes(raw[:8], "big"))), path, decoded, array("Q", chunks))


def directory_steps(plan: Plan) -> Iterator[DirectoryStep]:
    """What is to be done with directories before anything is put into them; parents first."""
    for raw in plan.steps:
        _depth, kind, seen_length, path_length = DIRECTORY.unpack_from(raw)
        seen = DIRECTORY.size
        path = seen + seen_length
        record = path + path_length
        yield DirectoryStep(kind, decode_seen(raw[seen:path]), raw[path:record], fmt.decode_object(raw[record:]))


def final_directories(plan: Plan) -> Iterator[Tuple[bytes, ObjectRecord]]:
    """All directories that are restored, with what they are to be; children first."""
    for raw in plan.finals:
        _depth, length = FINAL.unpack_from(raw)
        start = FINAL.size
        yield raw[start : start + length], fmt.decode_object(raw[start + length :])


class Records:
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


def lacking(plan: Plan) -> List[Left]:
    """What is left alone and is therefore not what the dump has."""
    return [left for left in plan.survey.left if left.lacks]
