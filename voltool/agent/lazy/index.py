"""What a manifest says, found at once: names of a directory, attributes, hashes, by position in files mapped into memory.

Made once of a state (`build`), beside the staging that is filled. Nothing is kept in memory for each object: the kernel's cache
holds what is used. Objects are known by their *position* here, 0, 1, ... in the order of their numbers, which may have gaps. The
files belong to this host and this version of voltool; what cannot be read is made anew. Ships to servers.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import shutil
import stat
import struct
from array import array
from bisect import bisect_left
from typing import IO, Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from voltool import durable
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.names import Name
from voltool.tree.state import BaseState

_VERSION = 2
_META = b"meta"
_BATCH = 8192
#: A run of chunks that are not zero: position of the object, index of its first chunk, how many, id of the first.
_RUN = struct.Struct("=QQQQ")
#: Of an object record: number, mode, and, further on, its size.
_NUMBER_MODE = struct.Struct(">QI")
_SIZE = slice(20, 28)


class Chunk(NamedTuple):
    """A chunk of a large file that is not zero: its id among all such chunks, 0, 1, ..., and its hash."""

    id: int
    hash: bytes


# ------------------------------------------------------------------------------------------------------------ making


def build(place: bytes, state: BaseState, chunks: Iterable[bytes], check: Callable[[TreeIndex], None]) -> None:
    """Make the index of ``state`` in the directory ``place``, in whose stead it appears as a whole. ``chunks``: the manifest's
    CHUNKS records, in order. ``check`` looks at it before it appears. IntegrityError where the manifest is no tree. Raises
    OSError."""
    fresh = place + b".new"
    shutil.rmtree(fresh, ignore_errors=True)
    os.mkdir(fresh, 0o700)
    objects, has_xattrs = _write_objects(fresh, state.objects)
    entries = _write_entries(fresh, state.entries)
    _write_links(fresh, objects, entries)
    count = _write_chunks(fresh, objects, chunks)
    meta = {
        "version": _VERSION,
        "state_id": state.state_id,
        "chunks": count,
        "next_number": state.next_number,
        "has_xattrs": has_xattrs,
    }
    durable.write_file(os.path.join(fresh, _META), json.dumps(meta).encode())
    check(TreeIndex(fresh))
    shutil.rmtree(place, ignore_errors=True)
    os.rename(fresh, place)
    durable.fsync_directory(os.path.dirname(place))


def _write_objects(place: bytes, records: Iterable[bytes]) -> Tuple[int, bool]:
    """How many there are, and whether any has an extended attribute."""
    has_xattrs = False
    numbers, offsets = array("Q"), array("Q", [0])
    count = at = 0
    with _create(place, b"objects") as data, _create(place, b"objects.at") as ends, _create(place, b"numbers") as keys:
        for record in records:
            has_xattrs = bool(fmt.decode_object(record).xattrs) or has_xattrs
            number, _mode = _NUMBER_MODE.unpack_from(record)
            numbers.append(number)
            at += len(record)
            offsets.append(at)
            data.write(record)
            count += 1
            if len(numbers) >= _BATCH:
                _flush(keys, numbers)
                _flush(ends, offsets)
        _flush(keys, numbers)
        _flush(ends, offsets)
    return count, has_xattrs


def _write_entries(place: bytes, records: Iterable[bytes]) -> int:
    offsets = array("Q", [0])
    directories, firsts = array("Q"), array("Q")
    count = at = 0
    last = -1
    with _create(place, b"entries") as data, _create(place, b"entries.at") as ends:
        for record in records:
            directory, _name, child = fmt.decode_entry(record)
            if child == 0:
                raise fmt.damaged("it holds only the changes to another dump")
            if directory != last:
                directories.append(directory)
                firsts.append(count)
                last = directory
            at += len(record)
            offsets.append(at)
            data.write(record)
            count += 1
            if len(offsets) >= _BATCH:
                _flush(ends, offsets)
        _flush(ends, offsets)
    firsts.append(count)
    for name, values in ((b"directories", directories), (b"directories.at", firsts)):
        with _create(place, name) as file:
            _flush(file, values)
    return count


def _write_links(place: bytes, objects: int, entries: int) -> None:
    """Which entries name each object: a counting sort, in the files themselves."""
    with _create(place, b"links") as file:
        file.truncate(8 * entries)
    with _create(place, b"links.at") as file:
        file.truncate(8 * (objects + 1))
    numbers = _map(place, b"numbers").cast("Q")
    links = _map(place, b"links", writable=True).cast("Q")
    starts = _map(place, b"links.at", writable=True).cast("Q")
    for at, child in enumerate(_children(place)):
        position = _find(numbers, child)
        if position < 0:
            raise fmt.damaged(f"entry {at} names an object that is not there")
        starts[position + 1] += 1
    for position in range(objects):
        if starts[position + 1] == 0 and numbers[position] != ROOT_OBJECT:
            raise fmt.damaged("an object has no name")
        starts[position + 1] += starts[position]
    cursors = array("Q", starts.tobytes())
    for at, child in enumerate(_children(place)):
        position = _find(numbers, child)
        links[cursors[position]] = at
        cursors[position] += 1


def _children(place: bytes) -> Iterator[int]:
    """The object that each entry names, in order."""
    offsets = _map(place, b"entries.at").cast("Q")
    data = _map(place, b"entries")
    for at in range(len(offsets) - 1):
        end = offsets[at + 1]
        yield int.from_bytes(data[end - 8 : end], "big")


def _write_chunks(place: bytes, objects: int, records: Iterable[bytes]) -> int:
    """How many chunks are not zero."""
    numbers = _map(place, b"numbers").cast("Q")
    count = 0
    last = (-1, 0)
    with _create(place, b"runs") as runs, _create(place, b"hashes") as file:
        for record in records:
            number, first, hashes = fmt.decode_chunk_run(record)
            position = _find(numbers, number) if objects else -1
            if position < 0:
                raise fmt.damaged("it has chunks of an object it does not have")
            if (position, first) < last:
                raise fmt.damaged("the chunks of a file are not in order")
            last = (position, first + len(hashes))
            for start, run in _not_zero(first, hashes):
                runs.write(_RUN.pack(position, start, len(run), count))
                file.write(b"".join(run))
                count += len(run)
    return count


def _not_zero(first: int, hashes: List[bytes]) -> Iterator[Tuple[int, List[bytes]]]:
    """The chunks that are not zero, as runs."""
    at = 0
    for zero, group in itertools.groupby(hashes, lambda value: value == fmt.ZERO_CHUNK):
        run = list(group)
        if not zero:
            yield first + at, run
        at += len(run)


def _create(place: bytes, name: bytes) -> IO[bytes]:
    return open(os.path.join(place, name), "wb", buffering=1 << 18)


def _flush(file: IO[bytes], values: array[int]) -> None:
    file.write(values.tobytes())
    del values[:]


def _map(place: bytes, name: bytes, *, writable: bool = False) -> memoryview:
    descriptor = os.open(os.path.join(place, name), (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size == 0:
            return memoryview(b"")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return memoryview(mmap.mmap(descriptor, 0, prot=protection))
    finally:
        os.close(descriptor)


def _find(numbers: memoryview, number: int) -> int:
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
        with open(os.path.join(place, _META), "rb") as file:
            meta = json.load(file)
        if meta["version"] != _VERSION:
            raise ValueError("an index of another voltool")
        self.state_id = str(meta["state_id"])
        self.chunks = int(meta["chunks"])
        self.has_xattrs = bool(meta["has_xattrs"])
        self._objects = _map(place, b"objects")
        self._ends = _map(place, b"objects.at").cast("Q")
        self._numbers = _map(place, b"numbers").cast("Q")
        self._entries = _map(place, b"entries")
        self._entry_ends = _map(place, b"entries.at").cast("Q")
        self._directories = _map(place, b"directories").cast("Q")
        self._firsts = _map(place, b"directories.at").cast("Q")
        self._links = _map(place, b"links").cast("Q")
        self._link_starts = _map(place, b"links.at").cast("Q")
        self._runs = _map(place, b"runs")
        self._hashes = _map(place, b"hashes")
        self.count = len(self._numbers)
        self.root = _find(self._numbers, ROOT_OBJECT)
        if self.root < 0:
            raise fmt.damaged("it has no root directory")

    def raw(self, position: int) -> bytes:
        """The object record's bytes."""
        return bytes(self._objects[self._ends[position] : self._ends[position + 1]])

    def record(self, position: int) -> ObjectRecord:
        """The object record."""
        return fmt.decode_object(bytes(self._objects[self._ends[position] : self._ends[position + 1]]))

    def number(self, position: int) -> int:
        """The object's number."""
        return int(self._numbers[position])

    def position(self, number: int) -> int:
        """Where an object is; -1: there is none of that number."""
        return _find(self._numbers, number)

    def size(self, position: int) -> int:
        """The size of a regular file, -1 of anything else."""
        start = self._ends[position]
        if not stat.S_ISREG(self.mode(position)):
            return -1
        return int.from_bytes(self._objects[start + 20 : start + 28], "big")

    def mode(self, position: int) -> int:
        """The mode of an object, with its type."""
        start = self._ends[position] + 8
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
            found = bytes(entries[ends[middle] + 8 : end - 9])
            if found == name:
                return _find(self._numbers, int.from_bytes(entries[end - 8 : end], "big"))
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
            yield bytes(self._entries[self._entry_ends[at] + 8 : end - 9]), _find(self._numbers, child)

    def _span(self, directory: int) -> Tuple[int, int]:
        at = _find(self._directories, self._numbers[directory])
        return (0, 0) if at < 0 else (self._firsts[at], self._firsts[at + 1])

    def links(self, position: int) -> int:
        """How many names an object has."""
        return int(self._link_starts[position + 1] - self._link_starts[position])

    def names(self, position: int) -> List[Name]:
        """The names of an object, in the order of their directories' numbers."""
        found = []
        for at in range(self._link_starts[position], self._link_starts[position + 1]):
            start, end = self._entry_ends[self._links[at]], self._entry_ends[self._links[at] + 1]
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
        owner, first, count, base = _RUN.unpack_from(self._runs, at * _RUN.size)
        if owner != position or not first <= index < first + count:
            return None
        chunk = base + index - first
        return Chunk(chunk, bytes(self._hashes[32 * chunk : 32 * chunk + 32]))

    def runs(self, position: int) -> List[Tuple[int, int, int]]:
        """(first chunk, how many, id of the first) of a large file's chunks, in order."""
        found = []
        at = self._run_before(position, 0)
        for number in range(max(0, at), len(self._runs) // _RUN.size):
            owner, first, count, base = _RUN.unpack_from(self._runs, number * _RUN.size)
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
        low, high = 0, len(self._runs) // _RUN.size
        while low < high:
            middle = (low + high) // 2
            owner, first, _count, _base = _RUN.unpack_from(self._runs, middle * _RUN.size)
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
