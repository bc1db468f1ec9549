"""Volumes as plain values, for tests of the index and of diff alone: hundreds of histories in the time of one real dump.

Object numbers are as dumps may have them: kept, given out anew in a full dump, given out twice in dumps of one base.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.browse.truth import Tree, seen_of
from tests.catalog.samples import make_dump
from voltool.backup.ports import World
from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import DumpWriter
from voltool.model import StoredDump

NAMES = [b"a", b"b", b"c", b"dd", b"\xff\n", b"%_"]
_KINDS = [stat.S_IFREG | 0o644, stat.S_IFREG | 0o600, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777]


@dataclass(frozen=True)
class Thing:
    """An object, without its number."""

    mode: int
    size: int = 0
    mtime: int = 0
    target: bytes = b""

    def record(self, number: int) -> bytes:
        content = bytes([self.size % 251]) * 32 if stat.S_ISREG(self.mode) and self.size else fmt.NO_HASH
        return fmt.encode_object(
            fmt.ObjectRecord(number, self.mode, 0, 0, self.size, self.mtime, 7, 0, 0, 0, content, self.target, b"")
        )


@dataclass
class State:
    """Objects by number, children by (directory, name)."""

    objects: dict[int, Thing]
    entries: dict[tuple[int, bytes], int]

    def copy(self) -> State:
        return State(dict(self.objects), dict(self.entries))

    def object_records(self) -> dict[bytes, bytes]:
        return {record[:8]: record for number, thing in self.objects.items() for record in [thing.record(number)]}

    def entry_records(self) -> dict[bytes, bytes]:
        records = [fmt.encode_entry(directory, name, child) for (directory, name), child in self.entries.items()]
        return {record[:-8]: record for record in records}

    def paths(self) -> dict[bytes, int]:
        """The object at each path."""
        found: dict[bytes, int] = {}
        children: dict[int, list[tuple[bytes, int]]] = {}
        for (parent, name), child in self.entries.items():
            children.setdefault(parent, []).append((name, child))
        pending = [(1, b"")]
        while pending:
            directory, prefix = pending.pop()
            for name, child in children.get(directory, ()):
                found[prefix + name] = child
                if stat.S_ISDIR(self.objects[child].mode):
                    pending.append((child, prefix + name + b"/"))
        return found

    def tree(self) -> Tree:
        return {path: self._seen(number) for path, number in self.paths().items()}

    def _seen(self, number: int) -> tuple[int, int, int | None]:
        thing = self.objects[number]
        return seen_of(thing.mode, thing.size, thing.mtime * 1_000_000_000 + 7)

    def state_id(self) -> str:
        objects, entries = self.object_records(), self.entry_records()
        return fmt.state_id([objects[key] for key in sorted(objects)], [entries[key] for key in sorted(entries)])


def empty() -> State:
    return State({1: Thing(stat.S_IFDIR | 0o755)}, {})


def changed(state: State, rng: random.Random, *, mtime: int) -> State:
    """The state after a few things happened to it."""
    state = state.copy()
    for _ in range(rng.randrange(1, 6)):
        rng.choice([_create, _create, _create, _delete, _rename, _rename, _rewrite, _link, _exchange])(
            state, rng, mtime
        )
    return state


def renumbered(state: State, rng: random.Random) -> State:
    """The same tree with other numbers, as a host dumps it that has lost its home stamps."""
    numbers = [number for number in state.objects if number != 1]
    others = dict(zip(numbers, rng.sample(range(2, len(numbers) + 4), len(numbers)), strict=True)) | {1: 1}
    objects = {others[number]: thing for number, thing in state.objects.items()}
    return State(objects, {(others[parent], name): others[child] for (parent, name), child in state.entries.items()})


def _directory(state: State, rng: random.Random) -> int:
    return rng.choice(sorted(number for number, thing in state.objects.items() if stat.S_ISDIR(thing.mode)))


def _entry(state: State, rng: random.Random) -> tuple[int, bytes] | None:
    return rng.choice(sorted(state.entries)) if state.entries else None


def _create(state: State, rng: random.Random, mtime: int) -> None:
    place = (_directory(state, rng), rng.choice(NAMES))
    if place not in state.entries:
        number = max(state.objects) + rng.randrange(1, 3)
        mode = rng.choice(_KINDS)
        state.objects[number] = Thing(
            mode, rng.randrange(5) if stat.S_ISREG(mode) else 0, mtime, b"x" if stat.S_ISLNK(mode) else b""
        )
        state.entries[place] = number


def _delete(state: State, rng: random.Random, _mtime: int) -> None:
    place = _entry(state, rng)
    if place is None:
        return
    state.entries.pop(place)
    while True:  # what has no name any more is gone, and what was in it
        named = {*state.entries.values(), 1}
        state.objects = {number: thing for number, thing in state.objects.items() if number in named}
        orphans = [entry for entry in state.entries if entry[0] not in state.objects]
        if not orphans:
            return
        for entry in orphans:
            state.entries.pop(entry)


def _rename(state: State, rng: random.Random, _mtime: int) -> None:
    old, new = _entry(state, rng), (_directory(state, rng), rng.choice(NAMES))
    if old is None or new in state.entries or _is_below(state, new[0], state.entries[old]):
        return
    state.entries[new] = state.entries.pop(old)


def _exchange(state: State, rng: random.Random, _mtime: int) -> None:
    one, other = _entry(state, rng), _entry(state, rng)
    if one is None or other is None:
        return
    a, b = state.entries[one], state.entries[other]
    if not _is_below(state, other[0], a) and not _is_below(state, one[0], b):
        state.entries[one], state.entries[other] = b, a


def _is_below(state: State, directory: int, top: int) -> bool:
    parents = {child: parent for (parent, _name), child in state.entries.items()}
    while directory != 1:
        if directory == top:
            return True
        directory = parents[directory]
    return False


def _rewrite(state: State, rng: random.Random, mtime: int) -> None:
    number = rng.choice(sorted(state.objects))
    thing = state.objects[number]
    state.objects[number] = replace(thing, mtime=mtime, size=rng.randrange(5) if stat.S_ISREG(thing.mode) else 0)


def _link(state: State, rng: random.Random, _mtime: int) -> None:
    old, new = _entry(state, rng), (_directory(state, rng), rng.choice(NAMES))
    if old is not None and new not in state.entries and not stat.S_ISDIR(state.objects[state.entries[old]].mode):
        state.entries[new] = state.entries[old]


@dataclass(frozen=True)
class Records:
    """The records of a dump of ``state``; above level 0 the differences to ``base``."""

    state: State
    base: State | None = None
    name: str = "a dump"

    def objects(self) -> Iterator[bytes]:
        old = self.base.object_records() if self.base else {}
        new = self.state.object_records()
        gone = {key: fmt.encode_object_tombstone(int.from_bytes(key, "big")) for key in old.keys() - new.keys()}
        return _sorted({key: record for key, record in new.items() if old.get(key) != record} | gone)

    def entries(self) -> Iterator[bytes]:
        old = self.base.entry_records() if self.base else {}
        new = self.state.entry_records()
        gone = {key: key + bytes(8) for key in old.keys() - new.keys()}
        return _sorted({key: record for key, record in new.items() if old.get(key) != record} | gone)

    @contextmanager
    def opened(self) -> Iterator[Records]:
        yield self


def _sorted(records: dict[bytes, bytes]) -> Iterator[bytes]:
    return iter([records[key] for key in sorted(records)])


def stored(number: int, state: State, base: State | None = None) -> StoredDump:
    """What the catalog knows of a dump of ``state``."""
    dump = make_dump(number, level=0 if base is None else 1)
    header = replace(dump.header, base_state_id=None if base is None else base.state_id())
    return replace(dump, header=header, totals=replace(dump.totals, state_id=state.state_id()))


def write(world: World, url: str, dump: StoredDump, records: Records) -> StoredDump:
    """The dump as a file in the store at ``url``, without data: nobody here reads any."""
    writer = world.stores.open(url).create(dump.file)
    dumper = DumpWriter(lambda data: writer.write(bytes(data)), fmt.CODEC_NONE)
    dumper.begin(dump.header)
    dumper.objects(records.objects())
    dumper.entries(records.entries())
    totals = dumper.finish(dump.totals.state_id, len(records.state.objects), len(records.state.entries))
    writer.publish()
    return replace(dump, totals=totals, store=url)
