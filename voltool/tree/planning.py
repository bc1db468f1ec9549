"""What is to be read for a dump, cut into tasks for the workers: batches of small files, pieces of large ones. Ships to
servers.

Large files are cut along what the file system says of holes and, where it says so, of what has changed.
"""

from __future__ import annotations

import bisect
import marshal
import os
import stat
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import PackedFrame, pack_frame
from voltool.origins import original
from voltool.tree.blocks import BlockTable, ChunkRun, block_file_name
from voltool.tree.dirtable import DirTable
from voltool.tree.layout import data_segments
from voltool.tree.opening import READ, UNSTABLE, CaptureSettings
from voltool.tree.stamps import SIZE, encode_stamp
from voltool.tree.walk import OPEN_DIRECTORY, TICK_NS

#: Which bytes (offset, length; sorted, disjoint) of the file at a path may differ from the base; None: nobody knows.
ChangedRanges = Callable[[bytes], Optional[List[Tuple[int, int]]]]

#: How much of a large file one task covers, and how much a batch of small files holds (bytes, files).
PIECE = 4 << 20
BATCH_BYTES = 1 << 20
BATCH_FILES = 256


class Todo(NamedTuple):
    """A regular file to be read. ``base`` is its record in the base, or None; ``old`` the bytes of that, or empty."""

    number: int
    inode: int
    stamp: bytes
    layout: bytes
    directory: int
    name: bytes
    base: Optional[fmt.ObjectRecord]
    old: bytes


@dataclass
class Large:
    """A large file on its way."""

    todo: Todo
    size: int
    fresh: bool
    before: bytes = b""
    after: bytes = b""
    settled: bool = True
    status: int = READ
    why: str = ""
    attributes: Tuple[int, int] = (0, 0)
    xattrs: bytes = b""
    runs: List[ChunkRun] = field(default_factory=list)
    segments: List[Tuple[int, int]] = field(default_factory=list)
    sent: bool = False


@dataclass
class Due:
    """What is to be done when it is this item's turn: a small batch, a piece, frames ready, hashes of a piece that is as
    in the base, or a large file's end."""

    small: Optional[List[Todo]] = None
    piece: Optional[Tuple[Large, int]] = None
    frames: Optional[Tuple[Large, List[PackedFrame]]] = None
    kept: Optional[Tuple[Large, ChunkRun]] = None
    end: Optional[Large] = None


class Planner:
    """Yields what is due, in the order of object numbers, and the task that brings it about, where it takes one."""

    def __init__(self, settings: CaptureSettings, table: DirTable, changed_ranges: ChangedRanges) -> None:
        self._settings = settings
        self._table = table
        self._changed_ranges = changed_ranges

    def plan(self, todos: Iterable[Todo]) -> Iterator[Tuple[Due, Optional[bytes]]]:
        """What is due and the marshalled task for it, or None."""
        batch: List[Todo] = []
        size = 0
        for todo in todos:
            file_size = int.from_bytes(todo.stamp[SIZE], "big")
            if file_size > fmt.CHUNK_SIZE:
                if batch:
                    yield self._small_task(batch)
                    batch, size = [], 0
                yield from self._large_tasks(todo, file_size)
                continue
            if batch and (size + file_size > BATCH_BYTES or len(batch) >= BATCH_FILES):
                yield self._small_task(batch)
                batch, size = [], 0
            batch.append(todo)
            size += file_size
        if batch:
            yield self._small_task(batch)

    def _small_task(self, batch: List[Todo]) -> Tuple[Due, bytes]:
        runs: List[Tuple[bytes, List[Tuple[Any, ...]]]] = []
        directory = -1
        for todo in batch:
            if todo.directory != directory:
                directory = todo.directory
                runs.append((self._table.path(directory), []))
            base = todo.base.content if todo.base and todo.base.size <= fmt.CHUNK_SIZE else b""
            if todo.base and todo.base.state & fmt.STATE_UNKNOWN:
                base = b""
            runs[-1][1].append((todo.number, todo.name, todo.stamp, todo.inode, base, todo.layout, todo.old))
        return Due(small=batch), marshal.dumps(("small", runs))

    def _large_tasks(self, todo: Todo, size: int) -> Iterator[Tuple[Due, Optional[bytes]]]:
        base_name = self._base_blocks(todo)
        large = Large(todo, size, fresh=not base_name)
        path = self._table.path(todo.directory)
        self._look(large, path)
        base = BlockTable.open(os.path.join(self._settings.blocks, base_name)) if base_name else None
        position = 0
        changed = self._changed_ranges(join(path, todo.name)) if base is not None and base.blocks else None
        # One piece is always read: with it come the attributes.
        asked = False
        # A file that is one hole is looked at all the same: for its attributes, and to see it settled.
        for start, end in _pieces(large.segments or [(0, 1)], size):
            yield from self._gap(large, base, position, start)
            if asked and base is not None and _is_kept(changed, start, end, todo):
                yield Due(kept=(large, base.run(start // fmt.CHUNK_SIZE, -(-end // fmt.CHUNK_SIZE)))), None
                position = end
                continue
            task = ("piece", todo.number, path, todo.name, todo.inode, start, end, base_name, large.fresh)
            yield Due(piece=(large, start)), marshal.dumps(task)
            asked = True
            position = end
        yield from self._gap(large, base, position, size)
        if base is not None:
            base.close()
        yield Due(end=large), None

    def _gap(
        self, large: Large, base: Optional[BlockTable], start: int, end: int
    ) -> Iterator[Tuple[Due, Optional[bytes]]]:
        """Holes between pieces: said once for a fresh version, otherwise only where the base had data."""
        if start >= end:
            return
        extents: List[fmt.Extent] = []
        number = large.todo.number
        if base is None:
            flags = fmt.EXTENT_FRESH if start == 0 else 0
            extents.append(fmt.Extent(number, start, end - start, fmt.EXTENT_HOLE, flags))
        else:
            for index in base.with_data(start // fmt.CHUNK_SIZE, -(-end // fmt.CHUNK_SIZE)):
                offset = index * fmt.CHUNK_SIZE
                extents.append(fmt.Extent(number, offset, min(fmt.CHUNK_SIZE, end - offset), fmt.EXTENT_HOLE, 0))
        frames = []
        for at in range(0, len(extents), 4096):
            part = extents[at : at + 4096]
            raw = fmt.encode_data(part, [])
            frames.append(pack_frame(fmt.DATA, raw, len(part), self._settings.codec, number, part[0].offset))
        if frames:
            yield Due(frames=(large, frames)), None

    def _base_blocks(self, todo: Todo) -> bytes:
        """The name of the base's block file, empty where the whole file must be sent."""
        base = todo.base
        if base is None or base.size <= fmt.CHUNK_SIZE or base.state & fmt.STATE_UNKNOWN:
            return b""
        name = block_file_name(todo.number, base.content, todo.layout)
        return name if os.path.exists(os.path.join(self._settings.blocks, name)) else b""

    def _look(self, large: Large, path: bytes) -> None:
        """Where the file has data, and the stamp it has now: what is read later must belong to the same stamp."""
        todo, size = large.todo, large.size
        large.segments = [(0, size)]
        try:
            directory = open_beneath(self._settings.root_fd, path, OPEN_DIRECTORY) if path else self._settings.root_fd
            try:
                descriptor = os.open(
                    todo.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
                )
            finally:
                if path:
                    os.close(directory)
        except OSError:
            return  # the worker meets the same error and names it
        try:
            try:
                status = original(self._settings.origins, os.fstat(descriptor))
            except OSError:
                return
            if not stat.S_ISREG(status.st_mode):
                return
            large.before = encode_stamp(status)
            large.settled = not self._settings.live or time.time_ns() - status.st_ctime_ns > TICK_NS
            if status.st_size != size:
                large.status, large.why = UNSTABLE, "its size changed while it was dumped"
            large.segments = list(data_segments(descriptor, 0, size))
        finally:
            os.close(descriptor)


def join(directory: bytes, name: bytes) -> bytes:
    """A path relative to the root; ``directory`` is empty for the root."""
    return directory + b"/" + name if directory else name


def _is_kept(changed: Optional[List[Tuple[int, int]]], start: int, end: int, todo: Todo) -> bool:
    """Whether ``[start, end)`` is for certain as in the base: the file system says so, and the base had it all."""
    if changed is None or todo.base is None or end > todo.base.size // fmt.CHUNK_SIZE * fmt.CHUNK_SIZE:
        return False
    at = bisect.bisect_left(changed, (end, 0))
    return at == 0 or changed[at - 1][0] + changed[at - 1][1] <= start


def _pieces(segments: List[Tuple[int, int]], size: int) -> Iterator[Tuple[int, int]]:
    """The chunk-aligned windows that hold data, at most PIECE long, in order."""
    position = 0
    for offset, length in segments:
        start = max(position, offset // fmt.CHUNK_SIZE * fmt.CHUNK_SIZE)
        end = min(-(-(offset + length) // fmt.CHUNK_SIZE) * fmt.CHUNK_SIZE, size)
        while start < end:
            stop = min(start + PIECE, end)
            yield start, stop
            start = stop
        position = max(position, end)
