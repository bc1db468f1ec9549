"""Makes the index of a lazy replica (`index`) out of its manifest, block by block as that arrives. Ships to servers.

Nothing is kept in memory for each object. What it is given has been checked record by record (`tree.packed`); here it is seen
whether it is a tree at all.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
from array import array
from typing import IO, Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

from voltool import durable
from voltool.agent.lazy.index import META, RUN, VERSION, TreeIndex, find, mapped
from voltool.dumpfile import format as fmt
from voltool.model import ROOT_OBJECT
from voltool.tree.packed import EntryColumns, ObjectColumns

_BATCH = 8192
_NUMBER_SIZE = 8
_FILES = (
    b"objects", b"objects.at", b"numbers", b"sizes", b"all.directories", b"all.large",
    b"entries", b"entries.at", b"directories", b"directories.at", b"children",
)  # fmt: skip
#: Which object each entry names: needed until the links are known.
_CHILDREN = b"children"


class IndexMaker:
    """`objects` and `entries` as they come, then `finish`; always `close` it. Raises OSError; IntegrityError: it is no tree."""

    def __init__(self, place: bytes) -> None:
        self._place = place
        self._fresh = place + b".new"
        shutil.rmtree(self._fresh, ignore_errors=True)
        os.mkdir(self._fresh, 0o700)
        self._files: Dict[bytes, IO[bytes]] = {name: _create(self._fresh, name) for name in _FILES}
        self._objects = self._entries = 0
        self._object_bytes = self._entry_bytes = 0
        self._last_number = 0
        self._last_directory = 0
        self._has_xattrs = False

    def objects(self, raw: bytes, found: ObjectColumns) -> None:
        """The next objects."""
        numbers = found.numbers
        if not numbers:
            return
        if numbers[0] <= self._last_number or any(map(int.__ge__, numbers, numbers[1:])):
            raise fmt.damaged("its object records are not in order")
        self._last_number = numbers[-1]
        sizes = [size if mode & _TYPE == stat.S_IFREG else -1 for mode, size in zip(found.modes, found.sizes)]
        first = self._objects
        self._write(b"objects", raw)
        self._put(b"objects.at", _moved(found.starts, self._object_bytes))
        self._put(b"numbers", numbers)
        self._files[b"sizes"].write(array("q", sizes).tobytes())
        if any(size < 0 for size in sizes):
            self._put(b"all.directories", [first + at for at, mode in enumerate(found.modes) if stat.S_ISDIR(mode)])
        if max(sizes) > fmt.CHUNK_SIZE:
            self._put(b"all.large", [first + at for at, size in enumerate(sizes) if size > fmt.CHUNK_SIZE])
        self._objects += len(numbers)
        self._object_bytes += len(raw)
        self._has_xattrs = self._has_xattrs or found.has_xattrs

    def entries(self, raw: bytes, found: EntryColumns) -> None:
        """The next entries."""
        if 0 in found.children:
            raise fmt.damaged("it holds only the changes to another dump")
        self._note_directories(found.directories)
        self._write(b"entries", raw)
        self._put(b"entries.at", _moved(found.starts, self._entry_bytes))
        self._put(_CHILDREN, found.children)
        self._entries += len(found.children)
        self._entry_bytes += len(raw)

    def _note_directories(self, directories: Sequence[int]) -> None:
        """Where the entries of each directory begin."""
        news, firsts, last = [], [], self._last_directory
        for at, directory in enumerate(directories, self._entries):
            if directory != last:
                news.append(directory)
                firsts.append(at)
                last = directory
        self._put(b"directories", news)
        self._put(b"directories.at", firsts)
        self._last_directory = last

    def finish(
        self, state_id: str, next_number: int, chunks: Iterable[bytes], check: Callable[[TreeIndex], None]
    ) -> None:
        """All has come, with the manifest's CHUNKS records, in order. ``check`` looks at the index before it appears."""
        self._put(b"objects.at", (self._object_bytes,))
        self._put(b"entries.at", (self._entry_bytes,))
        self._put(b"directories.at", (self._entries,))
        for file in self._files.values():
            file.close()
        _write_links(self._fresh, self._objects, self._entries)
        os.unlink(os.path.join(self._fresh, _CHILDREN))
        meta = {
            "version": VERSION,
            "state_id": state_id,
            "chunks": _write_chunks(self._fresh, self._objects, chunks),
            "next_number": next_number,
            "has_xattrs": self._has_xattrs,
        }
        durable.write_file(os.path.join(self._fresh, META), json.dumps(meta).encode())
        check(TreeIndex(self._fresh))
        shutil.rmtree(self._place, ignore_errors=True)
        os.rename(self._fresh, self._place)
        durable.fsync_directory(os.path.dirname(self._place))

    def close(self) -> None:
        """What is unfinished is removed by the next one. Idempotent."""
        for file in self._files.values():
            file.close()

    def _write(self, name: bytes, data: bytes) -> None:
        self._files[name].write(data)

    def _put(self, name: bytes, values: Iterable[int]) -> None:
        self._files[name].write((values if isinstance(values, array) else array("Q", values)).tobytes())


_TYPE = 0o170000


def _moved(starts: Iterable[int], by: int) -> array[int]:
    if isinstance(starts, range):
        return array("Q", range(starts.start + by, starts.stop + by, starts.step))
    return array("Q", [start + by for start in starts])


def _write_links(place: bytes, objects: int, entries: int) -> None:
    """Which entries name each object: a counting sort, in the files themselves."""
    with _create(place, b"links") as file:
        file.truncate(_NUMBER_SIZE * entries)
    with _create(place, b"links.at") as file:
        file.truncate(_NUMBER_SIZE * (objects + 1))
    numbers = mapped(place, b"numbers").cast("Q")
    links = mapped(place, b"links", writable=True).cast("Q")
    starts = mapped(place, b"links.at", writable=True).cast("Q")
    for positions in _positions(place, numbers):
        for position in positions:
            starts[position + 1] += 1
    at = 0
    for position in range(objects):
        count = starts[position + 1]
        if count == 0 and numbers[position] != ROOT_OBJECT:
            raise fmt.damaged("an object has no name")
        at += count
        starts[position + 1] = at
    cursors = array("Q", starts.tobytes())
    entry = 0
    for positions in _positions(place, numbers):
        for position in positions:
            links[cursors[position]] = entry
            cursors[position] += 1
            entry += 1


def _positions(place: bytes, numbers: memoryview) -> Iterator[List[int]]:
    """Where the object is that each entry names, many at a time."""
    first = numbers[0] if len(numbers) else 0
    last = numbers[-1] if len(numbers) else 0
    without_gaps = last - first + 1 == len(numbers)
    with open(os.path.join(place, _CHILDREN), "rb", buffering=0) as file:
        while data := file.read(_NUMBER_SIZE * _BATCH):
            children = array("Q", data)
            if without_gaps and first <= min(children) and max(children) <= last:
                yield [child - first for child in children]
                continue
            positions = [find(numbers, child) for child in children]
            if -1 in positions:
                raise fmt.damaged("an entry names an object that is not there")
            yield positions


def _write_chunks(place: bytes, objects: int, records: Iterable[bytes]) -> int:
    """How many chunks are not zero."""
    numbers = mapped(place, b"numbers").cast("Q")
    count = 0
    last = (-1, 0)
    with _create(place, b"runs") as runs, _create(place, b"hashes") as file:
        for record in records:
            number, first, hashes = fmt.decode_chunk_run(record)
            position = find(numbers, number) if objects else -1
            if position < 0:
                raise fmt.damaged("it has chunks of an object it does not have")
            if (position, first) < last:
                raise fmt.damaged("the chunks of a file are not in order")
            last = (position, first + len(hashes))
            for start, run in _not_zero(first, hashes):
                runs.write(RUN.pack(position, start, len(run), count))
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
