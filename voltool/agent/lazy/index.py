"""What a manifest says, found at once: names of a directory, attributes, hashes, by position in files mapped into memory.

Made once, as a manifest arrives (`indexing`), beside the staging that is filled. Nothing is kept in memory for each object: the
kernel's cache holds what is used. Objects are known by their *position* here, 0, 1, ... in the order of their numbers, which may
have gaps. The files belong to this host and this version of voltool; what cannot be read is made anew. Ships to servers.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
from bisect import bisect_left
from typing import Iterator, List, NamedTuple, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.names import Name

VERSION = 3
META = b"meta"
#: A run of chunks that are not zero: position of the object, index of its first chunk, how many, id of the first.
RUN = struct.Struct("=QQQQ")
#: Records lie in their files as in a dump, each behind its length.
_LENGTH = 4


class Chunk(NamedTuple):
    """A chunk of a large file that is not zero: its id among all such chunks, 0, 1, ..., and its hash."""

    id: int
    hash: bytes


def mapped(place: bytes, name: bytes, *, writable: bool = False) -> memoryview:
    """A file of the index, mapped into memory. Raises OSError."""
    descriptor = os.open(os.path.join(place, name), (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size == 0:
            return memoryview(b"")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return memoryview(mmap.mmap(descriptor, 0, prot=protection))
    finally:
        os.close(descriptor)


def find(numbers: memoryview, number: int) -> int:
    """Where ``number`` is in sorted numbers, -1: nowhere. Without gaps it is where one would think."""
    guess = number - numbers[0] if len(numbers) else 0
    if 0 <= guess < len(numbers) and numbers[guess] == number:
        return int(guess)
    at = bisect_left(numbers, number)
    return at if at < len(numbers) and numbers[at] == number else -1


# ----------------------------------------------------------------------------------------------------------- reading


class TreeIndex:
    """A finished index. Several threads, and processes forked after it was opened, may ask. It is never closed: who reads it
    lives as long as it does."""

    def __init__(self, place: bytes) -> None:
        with open(os.path.join(place, META), "rb") as file:
            meta = json.load(file)
        if meta["version"] != VERSION:
            raise ValueError("an index of another voltool")
        self.state_id = str(meta["state_id"])
        self.chunks = int(meta["chunks"])
        self.has_xattrs = bool(meta["has_xattrs"])
        self._objects = mapped(place, b"objects")
        self._ends = mapped(place, b"objects.at").cast("Q")
        self._numbers = mapped(place, b"numbers").cast("Q")
        #: Of each object: the size of a regular file, -1 of anything else.
        self.sizes = mapped(place, b"sizes").cast("q")
        #: Positions of all directories, and of the files that have chunks, ascending.
        self.all_directories = mapped(place, b"all.directories").cast("Q")
        self.all_large = mapped(place, b"all.large").cast("Q")
        self._entries = mapped(place, b"entries")
        self._entry_ends = mapped(place, b"entries.at").cast("Q")
        self._directories = mapped(place, b"directories").cast("Q")
        self._firsts = mapped(place, b"directories.at").cast("Q")
        self._links = mapped(place, b"links").cast("Q")
        self._link_starts = mapped(place, b"links.at").cast("Q")
        self._runs = mapped(place, b"runs")
        self._hashes = mapped(place, b"hashes")
        self.count = len(self._numbers)
        self.root = find(self._numbers, ROOT_OBJECT)
        if self.root < 0:
            raise fmt.damaged("it has no root directory")

    def raw(self, position: int) -> bytes:
        """The object record's bytes."""
        return bytes(self._objects[self._ends[position] + _LENGTH : self._ends[position + 1]])

    def record(self, position: int) -> ObjectRecord:
        """The object record."""
        return fmt.decode_object(self.raw(position))

    def number(self, position: int) -> int:
        """The object's number."""
        return int(self._numbers[position])

    def position(self, number: int) -> int:
        """Where an object is; -1: there is none of that number."""
        return find(self._numbers, number)

    def size(self, position: int) -> int:
        """The size of a regular file, -1 of anything else."""
        return int(self.sizes[position])

    def mode(self, position: int) -> int:
        """The mode of an object, with its type."""
        start = self._ends[position] + _LENGTH + 8
        return int.from_bytes(self._objects[start : start + 4], "big")

    def is_directory(self, position: int) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.mode(position))

    # ------------------------------------------------------------------------------------------------------- names

    def child(self, directory: int, name: bytes) -> int:
        """The position of what ``name`` is in the directory at a position; -1: nothing."""
        low, high = self._span(directory)
        entries, ends = self._entries, self._entry_ends
        while low < high:
            middle = (low + high) // 2
            end = ends[middle + 1]
            found = bytes(entries[ends[middle] + _LENGTH + 8 : end - 9])
            if found == name:
                return find(self._numbers, int.from_bytes(entries[end - 8 : end], "big"))
            if found + b"\0" < name + b"\0":
                low = middle + 1
            else:
                high = middle
        return -1

    def children(self, directory: int) -> Iterator[Tuple[bytes, int]]:
        """Names and positions of what is in a directory, sorted."""
        low, high = self._span(directory)
        for at in range(low, high):
            end = self._entry_ends[at + 1]
            child = int.from_bytes(self._entries[end - 8 : end], "big")
            yield bytes(self._entries[self._entry_ends[at] + _LENGTH + 8 : end - 9]), find(self._numbers, child)

    def _span(self, directory: int) -> Tuple[int, int]:
        at = find(self._directories, self._numbers[directory])
        return (0, 0) if at < 0 else (self._firsts[at], self._firsts[at + 1])

    def links(self, position: int) -> int:
        """How many names an object has."""
        return int(self._link_starts[position + 1] - self._link_starts[position])

    def names(self, position: int) -> List[Name]:
        """The names of an object, in the order of their directories' numbers."""
        found = []
        for at in range(self._link_starts[position], self._link_starts[position + 1]):
            start, end = self._entry_ends[self._links[at]] + _LENGTH, self._entry_ends[self._links[at] + 1]
            directory = int.from_bytes(self._entries[start : start + 8], "big")
            found.append(Name(directory, bytes(self._entries[start + 8 : end - 9])))
        return found

    def path(self, position: int) -> bytes:
        """A path of an object, relative to the root; empty: the root. IntegrityError where directories are in a circle."""
        parts: List[bytes] = []
        while position != self.root:
            name = self.names(position)[0]
            parts.append(name.name)
            position = self.position(name.directory)
            if position < 0 or len(parts) > self.count:
                raise fmt.damaged("a directory is not reached from the root")
        return b"/".join(reversed(parts))

    # ------------------------------------------------------------------------------------------------------ chunks

    def chunk(self, position: int, index: int) -> Optional[Chunk]:
        """A chunk of a large file; None: it is zero."""
        at = self._run_before(position, index)
        if at < 0:
            return None
        owner, first, count, base = RUN.unpack_from(self._runs, at * RUN.size)
        if owner != position or not first <= index < first + count:
            return None
        chunk = base + index - first
        return Chunk(chunk, bytes(self._hashes[32 * chunk : 32 * chunk + 32]))

    def runs(self, position: int) -> List[Tuple[int, int, int]]:
        """(first chunk, how many, id of the first) of a large file's chunks, in order."""
        found = []
        at = self._run_before(position, 0)
        for number in range(max(0, at), len(self._runs) // RUN.size):
            owner, first, count, base = RUN.unpack_from(self._runs, number * RUN.size)
            if owner > position:
                break
            if owner == position:
                found.append((first, count, base))
        return found

    def hashes(self, base: int, count: int) -> bytes:
        """The hashes of chunks by id, 32 bytes each."""
        return bytes(self._hashes[32 * base : 32 * (base + count)])

    def _run_before(self, position: int, index: int) -> int:
        """The last run that begins at or before that chunk of that file; -1: none."""
        low, high = 0, len(self._runs) // RUN.size
        while low < high:
            middle = (low + high) // 2
            owner, first, _count, _base = RUN.unpack_from(self._runs, middle * RUN.size)
            if (owner, first) <= (position, index):
                low = middle + 1
            else:
                high = middle
        return low - 1


def data_chunks(index: TreeIndex, position: int) -> Iterator[Tuple[int, int]]:
    """(index, id) of the chunks of a large file that are not zero, in order."""
    for first, count, base in index.runs(position):
        for at in range(count):
            yield first + at, base + at


def next_data(index: TreeIndex, position: int, chunk: int) -> Optional[int]:
    """The first chunk from ``chunk`` on that is not zero; None: all are zero."""
    for first, count, _base in index.runs(position):
        if first + count > chunk:
            return max(first, chunk)
    return None


def next_zero(index: TreeIndex, position: int, chunk: int) -> int:
    """The first chunk from ``chunk`` on that is zero, which may be the one after the last."""
    for first, count, _base in index.runs(position):
        if first <= chunk < first + count:
            chunk = first + count
    return chunk
