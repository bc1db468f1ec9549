"""Feeds files to the workers and puts what they return in order: frames to the dump, records and stamps to the state.

Knows the order of a dump's data part and nothing of its front or end. Ships to servers.
"""

from __future__ import annotations

import collections
import marshal
import os
from typing import Any, Callable, Deque, Iterable, Iterator, List, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import DumpWriter
from voltool.model import FileProblem, Problem
from voltool.spool import SortedSpool
from voltool.tree.blocks import ChunkRun, block_file_name, keep_block_files, write_block_file
from voltool.tree.capture import Worker
from voltool.tree.dirtable import DirTable
from voltool.tree.layout import layout_digest
from voltool.tree.opening import READ, UNREADABLE, UNSTABLE, VANISHED, CaptureSettings, flags_of
from voltool.tree.planning import PIECE, ChangedRanges, Due, Large, Planner, Todo, join
from voltool.tree.pool import OrderedPool
from voltool.tree.room import unpack_frame
from voltool.tree.stamps import decode_stamp, encode_home

#: What a worker may return in shared memory: a piece that does not shrink, with its extents.
_ROOM = PIECE + (64 << 10)


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
        self._planner = Planner(settings, table, changed_ranges)
        self._pool = OrderedPool(Worker(settings).work, workers, room=_ROOM)
        self._due: Deque[Due] = collections.deque()
        self._bytes = 0
        self._files = 0
        self._block_files: List[bytes] = []
        self.problems: List[FileProblem] = []

    def run(self, todos: Iterable[Todo]) -> None:
        """Read all, in order of object numbers."""
        with self._pool:
            for due, task in self._planner.plan(todos):
                self._due.append(due)
                if task is not None:
                    self._pool.submit(task)
                self._settle(self._pool.results())
            self._settle(self._pool.drain())
        keep_block_files(self._block_files)
        self._advance(self._bytes, self._files)

    # ------------------------------------------------------------------------------------------------------ results

    def _settle(self, results: Iterator[bytes]) -> None:
        self._flush_ready()
        for result in results:
            due = self._due.popleft()
            frames, chunks, *rest = marshal.loads(result)  # noqa: S302 - from our own worker through a private pipe
            if due.small is not None:
                self._take_small(due.small, frames, *rest)
            elif due.piece is not None:
                due.piece[0].sent = due.piece[0].sent or bool(frames)
                for frame in frames:
                    self._writer.frame(unpack_frame(frame, self._pool.shared))
                self._take_piece(due.piece[0], due.piece[1], chunks, *rest)
            self._advance(self._bytes, self._files)
            self._flush_ready()

    def _flush_ready(self) -> None:
        while self._due and self._due[0].small is None and self._due[0].piece is None:
            due = self._due.popleft()
            if due.kept is not None:
                due.kept[0].runs.append(due.kept[1])
            if due.frames is not None:
                due.frames[0].sent = True
                for frame in due.frames[1]:
                    self._writer.frame(frame)
            if due.end is not None:
                self._end_large(due.end)

    def _take_small(
        self,
        batch: List[Todo],
        frames: List[Tuple[Any, ...]],
        homes: List[bytes],
        records: List[bytes],
        troubles: List[Tuple[int, int, str]],
        read: int,
    ) -> None:
        self._bytes += read
        self._files += len(batch)
        lost: List[bytes] = []
        for position, status, why in troubles:
            todo = batch[position]
            self._problem(todo, status, why)
            if status != UNSTABLE:
                lost.append(self._unknown(todo, status))
                self._remember_unread(todo, status)
        self._stamps.add_many(homes)
        self._finals.add_many(records + lost)
        for frame in frames:
            if not lost or frame[0] != fmt.CONTENT:
                self._writer.frame(unpack_frame(frame, self._pool.shared))
        if lost:
            self._writer.content(sorted(records + lost))

    def _take_piece(self, large: Large, start: int, chunks: List[bytes], shorts: bytes, found: Any, read: int) -> None:
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

    def _end_large(self, large: Large) -> None:
        self._files += 1
        todo = large.todo
        if large.status != READ:
            self._problem(todo, large.status, large.why)
        if large.status in (VANISHED, UNREADABLE):
            record = self._unknown(todo, large.status)
            self._remember_unread(todo, large.status)
        else:
            record = self._large_record(large)
        if record == todo.old and not large.sent:
            return  # it was only looked at again
        self._finals.add(record)
        chunk_records = [
            fmt.encode_chunk_run(todo.number, first, chunks) for first, chunks, _shorts in large.runs if any(chunks)
        ]
        if large.status in (READ, UNSTABLE):
            self._writer.chunks(chunk_records)
        self._writer.content([record])

    def _large_record(self, large: Large) -> bytes:
        todo, size = large.todo, large.size
        fields = decode_stamp(large.after)
        content = fmt.content_hash(size, _runs_with_gaps(large.runs, size))
        layout = layout_digest(large.segments, size)
        # The hashes are those of the bytes in the dump, so they serve next time whether the file was at rest or not.
        name = block_file_name(todo.number, content, layout)
        path = os.path.join(self._settings.blocks, name)
        if not os.path.exists(path):
            write_block_file(path, size, large.runs)
            self._block_files.append(path)
        self._large.append(name)
        flags = flags_of(self._settings, settled=large.settled) if large.status == READ else 0
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
        path = join(path, todo.name)
        problem = Problem.UNSTABLE if status == UNSTABLE else Problem.UNREADABLE
        self.problems.append(FileProblem(problem, path, why))

    def _remember_unread(self, todo: Todo, status: int) -> None:
        """An unsettled stamp binds the inode to its object: next time, too, it has the base's last good content."""
        if status == UNREADABLE:
            self._stamps.add(encode_home(todo.inode, todo.number, todo.stamp, 0, todo.layout))

    def _unknown(self, todo: Todo, status: int) -> bytes:
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
                fmt.STATE_UNKNOWN | (fmt.STATE_VANISHED if status == VANISHED else 0),
                base.content if base else fmt.NO_HASH,
                b"",
                base.xattrs if base else b"",
            )
        )


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
