"""One point in time as a tree: names, attributes and bytes, found by name or by number. Several threads may ask.

What was looked up is kept for a while, in bounds: `Kept` is shared by all trees that are open. Knows chains; nothing of FUSE, of
archives, or of how the chain was opened.
"""

from __future__ import annotations

import itertools
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.content import CheckedChunks, Content
from voltool.dumpfile.links import count_links
from voltool.dumpfile.lru import Lru
from voltool.dumpfile.reader import ObjectExtents
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.owners import Owners

_MIB = 1 << 20
#: What Python's objects around a record and around a name cost, in bytes.
_RECORD_COST = 700
_NAME_COST = 250
#: How many names of a directory are looked up together.
_BATCH = 10_000
#: Files whose tables of chunks are kept.
_CONTENTS = 64


@dataclass(frozen=True)
class Kept:
    """What several trees keep together: decoded frames, checked chunks, records and names. Costs in bytes."""

    frames: Lru[ObjectExtents] = field(default_factory=lambda: Lru(48 * _MIB))
    chunks: CheckedChunks = field(default_factory=lambda: Lru(32 * _MIB))
    records: Lru[fmt.ObjectRecord] = field(default_factory=lambda: Lru(32 * _MIB))
    names: Lru[int] = field(default_factory=lambda: Lru(32 * _MIB))


@dataclass(frozen=True)
class Named:
    """One name in a directory, and the object it names."""

    name: bytes
    record: fmt.ObjectRecord


class Tree:
    """The state that ``chain`` leads to. Methods raise IntegrityError where the dumps are damaged."""

    def __init__(self, chain: Chain, kept: Kept, *, numeric_owner: bool) -> None:
        self.chain = chain
        self.owners = Owners(numeric=numeric_owner)
        self.owners.learn(chain.owners())
        self._kept = kept
        self._state = chain.totals.state_id
        self._contents: Lru[Content] = Lru(_CONTENTS)
        self._links: dict[int, int] | None = None
        self._links_lock = threading.Lock()

    def lookup(self, parts: Sequence[bytes]) -> fmt.ObjectRecord | None:
        """The object at a path given as names from the root on; no symlink is followed. None where there is none."""
        number = ROOT_OBJECT
        for part in parts:
            found = self._child(number, part)
            if found is None:
                return None
            number = found
        return self.record(number)

    def _child(self, directory: int, name: bytes) -> int | None:
        key = (self._state, directory, name)
        number = self._kept.names.get(key)
        if number is None:
            found = next(self.chain.entries_of(directory, name), None)
            if found is None:
                return None
            number = found[1]
            self._kept.names.put(key, number, _NAME_COST + len(name))
        return number

    def record(self, number: int) -> fmt.ObjectRecord:
        """The object of a number that a name led to; IntegrityError where there is none."""
        key = (self._state, number)
        record = self._kept.records.get(key)
        if record is None:
            record = self.chain.object(number)
            if record is None:
                raise fmt.damaged("a name belongs to an object that is not there", self.chain.newest.name)
            self._kept.records.put(key, record, _RECORD_COST + len(record.target) + len(record.xattrs))
        return record

    def children(self, directory: int) -> Iterator[Named]:
        """The names of a directory, sorted. Records are looked up in the order they lie in, whatever the names are."""
        entries = self.chain.entries_of(directory)
        while batch := list(itertools.islice(entries, _BATCH)):
            records = {number: self.record(number) for number in sorted({number for _name, number in batch})}
            for name, number in batch:
                self._kept.names.put((self._state, directory, name), number, _NAME_COST + len(name))
                yield Named(name, records[number])

    def links(self, number: int) -> int:
        """How many names an object has. The first call reads all names of the tree once."""
        with self._links_lock:
            if self._links is None:
                self._links = count_links(self.chain)
        return self._links.get(number, 1)

    def content(self, record: fmt.ObjectRecord) -> Content:
        """The bytes of a regular file."""
        content = self._contents.get(record.number)
        if content is None:
            content = Content(self.chain, record, self._kept.chunks)
            self._contents.put(record.number, content, 1)
        return content

    def xattrs(self, record: fmt.ObjectRecord) -> dict[bytes, bytes]:
        """All extended attributes, ACLs with the numbers that their users and groups have here."""
        pairs = fmt.decode_xattrs(record.xattrs, self.chain.newest.name)
        return {name: self.owners.xattr(name, value) for name, value in pairs}

    def allocated(self, record: fmt.ObjectRecord) -> int:
        """How many bytes of a regular file are not holes, to the chunk (1 MiB); of a small file: all. Reads no data."""
        if record.size <= fmt.CHUNK_SIZE:
            return record.size
        content = self.content(record)
        if not content.is_known:
            return 0
        return min(len(content.data_chunks()) * fmt.CHUNK_SIZE, record.size)


def is_unreadable(record: fmt.ObjectRecord) -> bool:
    """Whether the dump knows the name and the type of this and nothing else: it could not be read when it was dumped."""
    unknown = bool(record.state & fmt.STATE_UNKNOWN) and not stat.S_ISDIR(record.mode)
    return unknown and (record.content == fmt.NO_HASH or not stat.S_ISREG(record.mode))
