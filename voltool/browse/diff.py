"""What differs between two points in time, in one volume or in two: streams over both complete manifests.

An object is the same in both where both dumps rest on a dump that has it: then a new name is a rename, and whatever lies below a
renamed directory is where it was. Of all other objects the numbers mean nothing to each other, and paths are compared. Memory is
flat but for the directories; what must be sorted is spooled. Knows nothing of how differences are shown.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import NamedTuple

from voltool.backup.chains import OpenedChain, open_chain
from voltool.backup.ports import World
from voltool.browse.diff_records import Anchor, Change, Outcome, changes_between, encode_outcome, outcomes_in_order
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain
from voltool.events import Notice
from voltool.model import ROOT_OBJECT, StoredDump
from voltool.spool import SortedSpool

#: Longer paths than this (in bytes) are hostile, and left out.
_MAX_PATH = 1 << 16
_NUMBER = slice(0, 8)


class Place(NamedTuple):
    """A name in a directory."""

    directory: int
    name: bytes


@dataclass
class Side:
    """One of the two points in time. ``spool``: names that the other does not have so, by the object they name."""

    chain: Chain
    spool: SortedSpool
    directories: Bitmap = field(default_factory=Bitmap)
    parents: dict[int, Place] = field(default_factory=dict)
    lost: int = 0

    def path(self, place: Place) -> bytes | None:
        """The path of a name; None (and counted) where it hangs on no root, in a loop, or too deep."""
        names, length, directory = [place.name], len(place.name), place.directory
        while directory != ROOT_OBJECT:
            above = self.parents.get(directory)
            if above is None or length > _MAX_PATH:
                self.lost += 1
                return None
            names.append(above.name)
            length += len(above.name) + 1
            directory = above.directory
        return b"/".join(reversed(names))


def diff(world: World, old: StoredDump, new: StoredDump, only: Sequence[bytes] = ()) -> Iterator[Outcome]:
    """What happened between ``old`` and ``new``, sorted by path; with ``only``, what happened at these paths and below.

    Raises IntegrityError, NotFoundError.
    """
    if old.totals.state_id == new.totals.state_id and old.header.volume_uuid == new.header.volume_uuid:
        return
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(open_chain(world, old, "comparing it"))
        after = stack.enter_context(open_chain(world, new, "comparing it"))
        spools = [stack.enter_context(SortedSpool(_spool_directory())) for _ in range(4)]
        comparison = _Comparison(
            Side(before.chain, spools[0]), Side(after.chain, spools[1]), spools[2], spools[3], only
        )
        comparison.pair_objects(_shared_numbers(before, after))
        comparison.pair_entries()
        comparison.judge()
        if comparison.lost:
            message = f"{comparison.lost} names hang on no directory or too deep, and are left out: is a dump damaged?"
            world.reporter.report(Notice("warning", message))
        yield from outcomes_in_order(comparison.outcomes)


def _spool_directory() -> bytes:
    """Not in memory, which the usual place is on many machines."""
    chosen = tempfile.gettempdir()
    return os.fsencode("/var/tmp" if chosen == "/tmp" and os.access("/var/tmp", os.W_OK) else chosen)  # noqa: S108


def _shared_numbers(one: OpenedChain, other: OpenedChain) -> int:
    """Up to this number an object is the same in both: the highest in the last dump that both rest on."""
    shared = 0
    for a, b in zip(one.chain.readers, other.chain.readers, strict=False):
        if (a.header.volume_uuid, a.state_id) != (b.header.volume_uuid, b.state_id):
            break
        shared += 1
    if not shared:
        return ROOT_OBJECT
    highest = ROOT_OBJECT
    for record in Chain(one.chain.readers[:shared]).objects():
        highest = int.from_bytes(record[_NUMBER], "big")
    return highest


class _Comparison:
    """``kept``: names that stayed, of objects that changed; ``outcomes``: what is found, to be sorted by path."""

    def __init__(self, old: Side, new: Side, kept: SortedSpool, outcomes: SortedSpool, only: Sequence[bytes]) -> None:
        self.outcomes = outcomes
        self._old, self._new = old, new
        self._kept = kept
        self._only = only
        self._common = Bitmap()
        self._changed = Bitmap()

    @property
    def lost(self) -> int:
        """How many names have no path."""
        return self._old.lost + self._new.lost

    def pair_objects(self, shared: int) -> None:
        """Which objects are in both, which of these changed, which are directories."""
        for a, b in _paired(self._old.chain.objects(), self._new.chain.objects(), fmt.object_key):
            number = int.from_bytes((a or b)[_NUMBER], "big")
            if a and _is_directory(a):
                self._old.directories.add(number)
            if b and _is_directory(b):
                self._new.directories.add(number)
            if not a or not b or number > shared:
                continue
            changes = changes_between(a, b) if a != b else ()
            if Change.TYPE in changes and number != ROOT_OBJECT:
                continue
            self._common.add(number)
            if changes:
                self._changed.add(number)
                if number == ROOT_OBJECT:
                    self._put(Outcome(b".", None, a, b))

    def pair_entries(self) -> None:
        """Which names lead to the same object in both; all others are spooled."""
        for a, b in _paired(self._old.chain.entries(), self._new.chain.entries(), fmt.entry_key):
            directory, name, old_child = fmt.decode_entry(a or b, "")
            new_child = int.from_bytes(b[-8:], "big") if b else 0
            place = Place(directory, name)
            if a and old_child in self._old.directories:
                self._old.parents[old_child] = place
            if b and new_child in self._new.directories:
                self._new.parents[new_child] = place
            if a and old_child == new_child and directory in self._common and new_child in self._common:
                if new_child in self._changed:
                    self._kept.add(_named(new_child, place))
                continue
            if a:
                self._old.spool.add(_named(old_child, place))
            if b:
                self._new.spool.add(_named(new_child, place))

    def judge(self) -> None:
        """From names to outcomes, object by object."""
        old_records, new_records = _Lookup(self._old.chain.objects()), _Lookup(self._new.chain.objects())
        sources = [_groups(self._old.spool), _groups(self._new.spool), _groups(self._kept)]
        for number, (lost, won, kept) in _aligned(sources):
            old_record, new_record = old_records.get(number), new_records.get(number)
            for place in kept:
                self._take(place, place, old_record, new_record)
            if number in self._common:
                for old_place, new_place in zip_longest(lost, won):
                    self._take(old_place, new_place, old_record, new_record)
                continue
            for place in lost:
                self._take(place, None, old_record, b"")
            for place in won:
                self._take(None, place, b"", new_record)

    def _take(self, old_place: Place | None, new_place: Place | None, old_record: bytes, new_record: bytes) -> None:
        old_path = self._old.path(old_place) if old_place else None
        new_path = self._new.path(new_place) if new_place else None
        if new_path is None:
            if old_path is not None and old_place is not None:
                self._put(Outcome(old_path, None, old_record, b"", self._anchor(self._old, old_place)))
        elif old_path is None:
            if new_place is not None:
                self._put(Outcome(new_path, None, b"", new_record, self._anchor(self._new, new_place)))
        elif old_place == new_place:
            self._put(Outcome(new_path, None, old_record, new_record))
        else:
            self._put(Outcome(new_path, old_path, old_record, new_record))

    def _anchor(self, side: Side, place: Place) -> Anchor:
        """The nearest directory above that is in both; the place has a path, so there is one."""
        directory, depth = place.directory, 0
        while directory not in self._common and directory != ROOT_OBJECT:
            directory = side.parents[directory].directory
            depth += 1
        return Anchor(directory, depth)

    def _put(self, outcome: Outcome) -> None:
        paths = [path for path in (outcome.path, outcome.old_path) if path is not None]
        if not self._only or any(_is_at_or_below(path, top) for path in paths for top in self._only):
            self.outcomes.add(encode_outcome(outcome))


def _is_at_or_below(path: bytes, top: bytes) -> bool:
    return not top or path == top or path.startswith(top + b"/")


def _is_directory(record: bytes) -> bool:
    return stat.S_ISDIR(int.from_bytes(record[8:12], "big"))


def _named(child: int, place: Place) -> bytes:
    return child.to_bytes(8, "big") + place.directory.to_bytes(8, "big") + place.name


def _groups(spool: SortedSpool) -> Iterator[tuple[int, Iterator[Place]]]:
    """For each object, by number: its names in the spool."""
    for key, records in groupby(spool, itemgetter(_NUMBER)):
        yield (
            int.from_bytes(key, "big"),
            (Place(int.from_bytes(record[8:16], "big"), record[16:]) for record in records),
        )


def _aligned(
    sources: Sequence[Iterator[tuple[int, Iterator[Place]]]],
) -> Iterator[tuple[int, list[Iterator[Place]]]]:
    """The groups of several sources for one number at a time; of a source that has none, an empty one."""
    heads = [next(source, None) for source in sources]
    while any(heads):
        number = min(head[0] for head in heads if head)
        yield number, [head[1] if head and head[0] == number else iter(()) for head in heads]
        heads = [
            next(source, None) if head and head[0] == number else head
            for source, head in zip(sources, heads, strict=True)
        ]


class _Lookup:
    """Object records by number, asked for in ascending order."""

    def __init__(self, records: Iterator[bytes]) -> None:
        self._records = records
        self._record = next(records, b"")

    def get(self, number: int) -> bytes:
        """Empty where there is none."""
        key = number.to_bytes(8, "big")
        while self._record and self._record[_NUMBER] < key:
            self._record = next(self._records, b"")
        return self._record if self._record[_NUMBER] == key else b""


def _paired(one: Iterator[bytes], other: Iterator[bytes], key: object) -> Iterator[tuple[bytes, bytes]]:
    """Two sorted streams side by side; where one lacks a key it has empty bytes."""
    assert callable(key)
    a, b = next(one, b""), next(other, b"")
    while a or b:
        a_key, b_key = key(a), key(b)
        if a and b and a_key == b_key:
            yield a, b
            a, b = next(one, b""), next(other, b"")
        elif a and (not b or a_key < b_key):
            yield a, b""
            a = next(one, b"")
        else:
            yield b"", b
            b = next(other, b"")
