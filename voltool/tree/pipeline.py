"""Feeds files to the workers and puts what they return in order: frames to the dump, records and stamps to the state.

Knows the order of a dump's data part and nothing of its front or end. Ships to servers.
"""

from __future__ import annotations

import bisect
import collections
import marshal
import os
import stat
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import DumpWriter, PackedFrame, pack_frame
from voltool.model import FileProblem, Problem
from voltool.tree.blocks import BlockTable, ChunkRun, block_file_name, write_block_file
from voltool.tree.capture import READ, UNREADABLE, UNSTABLE, VANISHED, CaptureSettings, Outcome, Worker
from voltool.tree.dirtable import DirTable
from voltool.tree.layout import data_segments, layout_digest
from voltool.tree.pool import OrderedPool
from voltool.tree.spool import SortedSpool
from voltool.tree.stamps import SETTLED, SIZE, decode_stamp, encode_home, encode_stamp
from voltool.tree.walk import OPEN_DIRECTORY, TICK_NS

#: Which bytes (offset, length; sorted, disjoint) of the file at a path may differ from the base; None: nobody knows.
ChangedRanges = Callable[[bytes], Optional[List[Tuple[int, int]]]]

#: How much of a large file one task covers, and how much a batch of small files holds (bytes, files).
PIECE = 4 << 20
BATCH_BYTES = 1 << 20
BATCH_FILES = 256


@dataclass(frozen=True)
class Todo:
    """A regular file to be read. ``base`` is its record in the base, or None."""

    number: int
    inode: int
    stamp: bytes
    layout: bytes
    directory: int
    name: bytes
    base: Optional[fmt.ObjectRecord]


@dataclass
class _Large:
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


@dataclass
class _Due:
    """What is to be done when it is this item's turn: a small batch, a piece, frames ready, hashes of a piece that is as
    in the base, or a large file's end."""

    small: Optional[List[Todo]] = None
    piece: Optional[Tuple[_Large, int]] = None
    frames: Optional[List[PackedFrame]] = None
    kept: Optional[Tuple[_Large, ChunkRun]] = None
    end: Optional[_Large] = None


class Pipeline:
    """One data part. ``finals`` receives final object records, ``stamps`` home stamps, ``large`` block file names."""

    def __init__(
        self,
        settings: CaptureSettings,
        table: DirTable,
        writer: DumpWriter,
        workers: int,
        *,
        finals: SortedSpool,
        stamps: SortedSpool,
        large: List[bytes],
        advance: Callable[[int, int], None],
        changed_ranges: ChangedRanges,
    ) -> None:
        self._settings = settings
        self._table = table
        self._writer = writer
        self._finals = finals
        self._stamps = stamps
        self._large = large
        self._advance = advance
        self._changed_ranges = changed_ranges
        self._pool = OrderedPool(Worker(settings).work, workers)
        self._due: Deque[_Due] = collections.deque()
        self._bytes = 0
        self._files = 0
        self.problems: List[FileProblem] = []

    def run(self, todos: Iterable[Todo]) -> None:
        """Read all, in order of object numbers."""
        with self._pool:
            for due, task in self._plan(todos):
                self._due.append(due)
                if task is not None:
                    self._pool.submit(task)
                self._settle(self._pool.results())
            self._settle(self._pool.drain())
        self._advance(self._bytes, self._files)

    # ----------------------------------------------------------------------------------------------------- planning

    def _plan(self, todos: Iterable[Todo]) -> Iterator[Tuple[_Due, Optional[bytes]]]:
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

    def _small_task(self, batch: List[Todo]) -> Tuple[_Due, bytes]:
        runs: List[Tuple[int, bytes, List[Tuple[Any, ...]]]] = []
        directory = -1
        for todo in batch:
            if todo.directory != directory:
                directory = todo.directory
                runs.append((directory, self._table.path(directory), []))
            base = todo.base.content if todo.base and todo.base.size <= fmt.CHUNK_SIZE else b""
            if todo.base and todo.base.state & fmt.STATE_UNKNOWN:
                base = b""
            runs[-1][2].append((todo.number, todo.name, todo.stamp, todo.inode, base, todo.layout))
        return _Due(small=batch), marshal.dumps(("small", runs))

    def _large_tasks(self, todo: Todo, size: int) -> Iterator[Tuple[_Due, Optional[bytes]]]:
        base_name = self._base_blocks(todo)
        large = _Large(todo, size, fresh=not base_name)
        path = self._table.path(todo.directory)
        self._look(large, path)
        base = BlockTable.open(os.path.join(self._settings.blocks, base_name)) if base_name else None
        position = 0
        changed = self._changed_ranges(_join(path, todo.name)) if base is not None and base.blocks else None
        # One piece is always read: with it come the attributes.
        asked = False
        # A file that is one hole is looked at all the same: for its attributes, and to see it settled.
        for start, end in _pieces(large.segments or [(0, 1)], size):
            yield from self._gap(large, base, position, start)
            if asked and base is not None and _is_kept(changed, start, end, todo):
                yield _Due(kept=(large, base.run(start // fmt.CHUNK_SIZE, -(-end // fmt.CHUNK_SIZE)))), None
                position = end
                continue
            task = ("piece", todo.number, path, todo.name, todo.inode, start, end, base_name, large.fresh)
            yield _Due(piece=(large, start)), marshal.dumps(task)
            asked = True
            position = end
        yield from self._gap(large, base, position, size)
        if base is not None:
            base.close()
        yield _Due(end=large), None

    def _gap(
        self, large: _Large, base: Optional[BlockTable], start: int, end: int
    ) -> Iterator[Tuple[_Due, Optional[bytes]]]:
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
            yield _Due(frames=frames), None

    def _base_blocks(self, todo: Todo) -> bytes:
        """The name of the base's block file, empty where the whole file must be sent."""
        base = todo.base
        if base is None or base.size <= fmt.CHUNK_SIZE or base.state & fmt.STATE_UNKNOWN:
            return b""
        name = block_file_name(todo.number, base.content, todo.layout)
        return name if os.path.exists(os.path.join(self._settings.blocks, name)) else b""

    def _look(self, large: _Large, path: bytes) -> None:
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
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return
            large.before = encode_stamp(status)
            large.settled = not self._settings.live or time.time_ns() - status.st_ctime_ns > TICK_NS
            if status.st_size != size:
                large.status, large.why = UNSTABLE, "its size changed while it was dumped"
            large.segments = list(data_segments(descriptor, 0, size))
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------------------------------ results

    def _settle(self, results: Iterator[bytes]) -> None:
        self._flush_ready()
        for result in results:
            due = self._due.popleft()
            frames, chunks, *rest = marshal.loads(result)  # noqa: S302 - from our own worker through a private pipe
            if due.small is not None:
                self._take_small(due.small, frames, *rest)
            elif due.piece is not None:
                for frame in frames:
                    self._writer.frame(PackedFrame(*frame))
                self._take_piece(due.piece[0], due.piece[1], chunks, *rest)
            self._advance(self._bytes, self._files)
            self._flush_ready()

    def _flush_ready(self) -> None:
        while self._due and self._due[0].small is None and self._due[0].piece is None:
            due = self._due.popleft()
            if due.kept is not None:
                due.kept[0].runs.append(due.kept[1])
            for frame in due.frames or ():
                self._writer.frame(frame)
            if due.end is not None:
                self._end_large(due.end)

    def _take_small(
        self,
        batch: List[Todo],
        frames: List[Tuple[Any, ...]],
        outcomes: List[Tuple[Any, ...]],
        records: List[bytes],
        read: int,
    ) -> None:
        self._bytes += read
        self._files += len(batch)
        lost: List[bytes] = []
        homes: List[bytes] = []
        for todo, fields in zip(batch, outcomes):
            status = fields[2]
            if status != READ:
                outcome = Outcome(*fields)
                self._problem(todo, outcome.status, outcome.why)
                if outcome.status != UNSTABLE:
                    lost.append(self._unknown(todo))
                    self._remember_unread(todo, outcome.status)
                    continue
            number, inode, _status, stamp, settled, layout = fields[:6]
            if inode:
                homes.append(encode_home(inode, number, stamp, SETTLED if settled else 0, layout))
        self._stamps.add_many(homes)
        self._finals.add_many(records + lost)
        for frame in frames:
            if not lost or frame[0] != fmt.CONTENT:
                self._writer.frame(PackedFrame(*frame))
        if lost:
            self._writer.content(sorted(records + lost))

    def _take_piece(self, large: _Large, start: int, chunks: List[bytes], shorts: bytes, found: Any, read: int) -> None:
        status, before, after, settled, why, attributes, xattrs = found
        self._bytes += read
        if large.status in (VANISHED, UNREADABLE):
            return
        if status in (VANISHED, UNREADABLE):
            large.status, large.why = status, why
            return
        large.before, large.after = large.before or before, after
        if before != large.before or after != large.before:
            status, why = UNSTABLE, "it changed while it was read"
        large.settled = large.settled and settled
        if status == UNSTABLE:
            large.status, large.why = status, why
        large.attributes, large.xattrs = attributes, xattrs
        large.runs.append((start // fmt.CHUNK_SIZE, chunks, shorts))

    def _end_large(self, large: _Large) -> None:
        self._files += 1
        todo = large.todo
        if large.status != READ:
            self._problem(todo, large.status, large.why)
        if large.status in (VANISHED, UNREADABLE):
            record = self._unknown(todo)
            self._remember_unread(todo, large.status)
        else:
            record = self._large_record(large)
        self._finals.add(record)
        chunk_records = [
            fmt.encode_chunk_run(todo.number, first, chunks) for first, chunks, _shorts in large.runs if any(chunks)
        ]
        if large.status in (READ, UNSTABLE):
            self._writer.chunks(chunk_records)
        self._writer.content([record])

    def _large_record(self, large: _Large) -> bytes:
        todo, size = large.todo, large.size
        fields = decode_stamp(large.after)
        content = fmt.content_hash(size, _runs_with_gaps(large.runs, size))
        layout = layout_digest(large.segments, size)
        # The hashes are those of the bytes in the dump, so they serve next time whether the file was at rest or not.
        name = block_file_name(todo.number, content, layout)
        path = os.path.join(self._settings.blocks, name)
        if not os.path.exists(path):
            write_block_file(path, size, large.runs)
        self._large.append(name)
        flags = SETTLED if large.settled and large.status == READ else 0
        self._stamps.add(encode_home(todo.inode, todo.number, large.after, flags, layout))
        state = fmt.STATE_UNSETTLED if large.status == UNSTABLE else 0
        return fmt.encode_object(
            fmt.ObjectRecord(
                todo.number,
                fields.mode,
                fields.uid,
                fields.gid,
                size,
                fields.mtime_s,
                fields.mtime_ns,
                *large.attributes,
                state,
                content,
                b"",
                large.xattrs,
            )
        )

    def _problem(self, todo: Todo, status: int, why: str) -> None:
        if status == VANISHED:
            return
        path = self._table.path(todo.directory)
        path = _join(path, todo.name)
        problem = Problem.UNSTABLE if status == UNSTABLE else Problem.UNREADABLE
        self.problems.append(FileProblem(problem, path, why))

    def _remember_unread(self, todo: Todo, status: int) -> None:
        """An unsettled stamp binds the inode to its object: next time, too, it has the base's last good content."""
        if status == UNREADABLE:
            self._stamps.add(encode_home(todo.inode, todo.number, todo.stamp, 0, todo.layout))

    def _unknown(self, todo: Todo) -> bytes:
        """Content unknown: today's attributes, the base's last good content; never an empty file, never a deletion."""
        base = todo.base
        stamp = decode_stamp(todo.stamp)
        return fmt.encode_object(
            fmt.ObjectRecord(
                todo.number,
                stamp.mode,
                stamp.uid,
                stamp.gid,
                base.size if base else stamp.size,
                stamp.mtime_s,
                stamp.mtime_ns,
                base.flags if base else 0,
                base.project if base else 0,
                fmt.STATE_UNKNOWN,
                base.content if base else fmt.NO_HASH,
                b"",
                base.xattrs if base else b"",
            )
        )


def _join(directory: bytes, name: bytes) -> bytes:
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


def _runs_with_gaps(runs: List[ChunkRun], size: int) -> Iterator[Tuple[bytes, int]]:
    """The runs of chunk hashes of a whole file, gaps as zero chunks."""
    position = 0
    for first, chunks, _shorts in runs:
        if first > position:
            yield fmt.ZERO_CHUNK, first - position
        for chunk in chunks:
            yield chunk, 1
        position = first + len(chunks)
    total = -(-size // fmt.CHUNK_SIZE)
    if total > position:
        yield fmt.ZERO_CHUNK, total - position
