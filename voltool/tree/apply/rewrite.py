"""The content of one file of a held tree is changed in place: opened, written, checked against its hash. Ships to servers.

Data comes from the increment, read forward once; of a large file only what changed is written and checked, and its chunk
hashes are kept beside the tree.
"""

from __future__ import annotations

import ctypes
import os
import stat
from typing import Iterator, Optional

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.compose import ChunkTable
from voltool.dumpfile.format import ObjectRecord
from voltool.dumpfile.frames import decode_data
from voltool.dumpfile.reader import DumpReader
from voltool.tree.apply.attributes import SEALS
from voltool.tree.apply.files import FileMaker, Piece, check_chunks, flat_path, write_at
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.names import Name
from voltool.tree.apply.owncopy import copy_content
from voltool.tree.blocks import BlockTable, block_file_name, write_chunk_file
from voltool.tree.stamps import NO_LAYOUT

#: The directory of links by object number: 0 never names a directory of the tree.
HOLD = 0
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PUNCH_HOLE_KEEP_SIZE = 3
#: Chunk hashes in one run of a chunk file.
_RUN_CHUNKS = 8192


class Rewriter:
    """Changes the contents of held files, in the order of objects. ``bytes`` counts what was written."""

    def __init__(self, held: HeldTree, reader: DumpReader, maker: FileMaker) -> None:
        self.held = held
        self.reader = reader
        self.maker = maker
        self.staging = held.staging.descriptor
        self.bytes = 0
        self._data = _Data(reader)

    def change(self, record: ObjectRecord, old: Optional[ObjectRecord]) -> Change:
        """The change of one file; ``old`` is what the base has of it. Asked for in ascending order of objects."""
        return Change(self, record, old, self._data.pieces(record.number))

    def reopen(self, path: bytes, how: int) -> int:
        """Open a held file, sealed or not. Raises OSError."""
        try:
            return os.open(path, how, dir_fd=self.staging)
        except PermissionError:
            self.unseal(path)  # a run that was interrupted had come so far
            return os.open(path, how, dir_fd=self.staging)

    def unseal(self, path: bytes) -> None:
        """Take +i and +a off. Raises OSError."""
        descriptor = os.open(path, _READ, dir_fd=self.staging)
        try:
            inodes.set_flags(descriptor, 0, SEALS)
        finally:
            os.close(descriptor)


class Change:
    """One file. ``has_data``: the increment has bytes or holes of it."""

    def __init__(
        self, rewriter: Rewriter, record: ObjectRecord, old: Optional[ObjectRecord], pieces: Iterator[Piece]
    ) -> None:
        self._rewriter = rewriter
        self._record = record
        self._old = old if old is not None and stat.S_ISREG(old.mode) else None
        self._first = next(pieces, None)
        self._rest = pieces
        self.has_data = self._first is not None

    @property
    def is_new_to_verity(self) -> bool:
        """Whether fs-verity has to be enabled (again)."""
        return self.has_data or self._rewriter.held.shared

    def open(self, *, held: bool) -> int:
        """The held file, or a new one; -1 where the target cannot hold it. Raises OSError."""
        record = self._record
        if self._old is not None and held and self._rewriter.held.shared:
            return self._open_own()
        if self._old is not None and held:
            can_write = self.has_data or not record.state & fmt.STATE_VERITY
            return self._rewriter.reopen(hold_path(record.number), _WRITE if can_write else _READ)
        return self._rewriter.maker.create(record, [Name(HOLD, b"%x" % record.number)])

    def _open_own(self) -> int:
        """The held file is somebody else's too: a copy takes its place, where its content is needed."""
        record, rewriter = self._record, self._rewriter
        if self._first is not None and self._first[0].flags & fmt.EXTENT_FRESH:
            return rewriter.maker.create(record, [Name(HOLD, b"%x" % record.number)])
        source = os.open(hold_path(record.number), _READ, dir_fd=rewriter.staging)
        try:
            own = rewriter.maker.create(record, [Name(HOLD, b"%x.own" % record.number)])
            if own >= 0:
                copy_content(source, own)
                held = hold_path(record.number)
                os.rename(held + b".own", held, src_dir_fd=rewriter.staging, dst_dir_fd=rewriter.staging)
        finally:
            os.close(source)
        return own

    def write(self, descriptor: int) -> bytes:
        """Bring the file to its content, and check it; the name of its chunk file, empty for a small one.

        Raises IntegrityError, OSError.
        """
        record = self._record
        if self._first is not None:
            self._write(descriptor, self._first)
        elif not record.state & fmt.STATE_VERITY and os.fstat(descriptor).st_size != record.size:
            os.ftruncate(descriptor, record.size)
        if record.size <= fmt.CHUNK_SIZE:
            self._check_small(descriptor)
            return b""
        name = chunk_file(record)
        if self.has_data or self._old is None or self._old.content != record.content:
            self._check_large(descriptor, name)
        return name

    def _write(self, descriptor: int, first: Piece) -> None:
        record = self._record
        fresh = bool(first[0].flags & fmt.EXTENT_FRESH)
        if fresh:
            os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, record.size)
        for extent, data in _and(first, self._rest):
            if extent.offset + extent.length > record.size:
                raise fmt.damaged("a file has more bytes than its size says")
            if extent.kind == fmt.EXTENT_DATA:
                write_at(descriptor, data, extent.offset)
                self._rewriter.bytes += len(data)
            elif not fresh:
                _punch(descriptor, extent.offset, extent.length)

    def _check_small(self, descriptor: int) -> None:
        record, old = self._record, self._old
        if not self.has_data and old is not None and old.content == record.content:
            return
        if fmt.hash_small(os.pread(descriptor, record.size + 1, 0)) != record.content:
            raise fmt.damaged(f"the content of object {record.number} does not match its hash")

    def _check_large(self, descriptor: int, name: bytes) -> None:
        record, reader = self._record, self._rewriter.reader
        table = ChunkTable(record.size)
        if self._old is not None and reader.begins_fresh(record.number) is False:
            self._known_chunks(self._old, table, record.size, descriptor)
        for first, hashes in reader.chunk_runs(record.number):
            if not check_chunks(descriptor, first, b"".join(hashes), record.size):
                raise fmt.damaged(f"the content of object {record.number} does not match its hash")
            for index, value in enumerate(hashes, first):
                table.set(index, value)
        if table.content_hash() != record.content:
            raise fmt.damaged(f"the content of object {record.number} does not match its hash")
        path = os.path.join(self._rewriter.held.keeper.blocks, name)
        write_chunk_file(path, record.size, [(first, hashes, b"") for first, hashes in table.runs(_RUN_CHUNKS)])

    def _known_chunks(self, old: ObjectRecord, table: ChunkTable, size: int, descriptor: int) -> None:
        """Lay the base's chunk hashes into ``table``, as far as the file reaches now. Where they are not kept under the name that
        a copy gives them the file is read: what is not in its content shows in the hash of the whole."""
        whole = min(old.size, size) // fmt.CHUNK_SIZE
        try:
            known = BlockTable.open(os.path.join(self._rewriter.held.keeper.blocks, chunk_file(old)))
        except FileNotFoundError:
            for index in range(-(-size // fmt.CHUNK_SIZE)):
                table.set(index, _chunk_hash(os.pread(descriptor, fmt.CHUNK_SIZE, index * fmt.CHUNK_SIZE)))
            return
        try:
            last = known.chunks if old.size == size else min(known.chunks, whole)
            for index in range(last):
                table.set(index, known.chunk(index)[0])
        finally:
            known.close()


def hold_path(number: int) -> bytes:
    """Where an object is held, relative to staging."""
    return flat_path(HOLD) + b"/%x" % number


def chunk_file(record: ObjectRecord) -> bytes:
    """The name of the file of chunk hashes of a large file's content."""
    return block_file_name(record.number, record.content, NO_LAYOUT)


def _chunk_hash(data: bytes) -> bytes:
    view = memoryview(data)
    return fmt.ZERO_CHUNK if fmt.is_zero(view) else fmt.chunk_hash(fmt.block_hashes(view))


class _Data:
    """The increment's data, read forward once: objects come in ascending order."""

    def __init__(self, reader: DumpReader) -> None:
        self._pieces = self._all(reader)
        self._next: Optional[Piece] = next(self._pieces, None)

    @staticmethod
    def _all(reader: DumpReader) -> Iterator[Piece]:
        for position in reader.index.of_type(fmt.DATA):
            extents, raw = decode_data(reader.frame(position), reader.name)
            yield from fmt.iter_extents_with_data(raw, extents)

    def pieces(self, number: int) -> Iterator[Piece]:
        """The extents of one object with their bytes; those of objects before it are passed over."""
        while self._next is not None and self._next[0].number <= number:
            piece = self._next
            self._next = next(self._pieces, None)
            if piece[0].number == number:
                yield piece


def _and(first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    yield first
    yield from rest


def _punch(descriptor: int, offset: int, length: int) -> None:
    """Make a hole; where the file system has none, zeros. Raises OSError. Source: fallocate(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if call(descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, length) != 0:
        zeros = memoryview(bytes(fmt.CHUNK_SIZE))
        for at in range(offset, offset + length, fmt.CHUNK_SIZE):
            write_at(descriptor, zeros[: min(fmt.CHUNK_SIZE, offset + length - at)], at)
