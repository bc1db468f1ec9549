"""A large file of which little differs: a copy of what stands, with those chunks that differ laid into it. Ships to servers.

The copy is made in staging, by reflink where the file system can, and checked from its first byte to its last against the
dump's content hash before it may take a name: whatever happened to the file meanwhile, what is staged is the dump's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from array import array
from typing import Iterator, Optional, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.compose import chunk_count
from voltool.dumpfile.format import ObjectRecord
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.files import write_at
from voltool.tree.blocks import BlockTable
from voltool.tree.inplace.compare import Comparer, next_data
from voltool.tree.inplace.ground import Ground, Seen
from voltool.tree.inplace.staged import staged_path

#: Smaller files are sent whole.
LEAST = 4 * fmt.CHUNK_SIZE
#: object number, index of the chunk, how many bytes follow (0: a hole)
PIECE = struct.Struct(">QQI")
_FICLONE = inodes.ioctl_number(inodes.WRITE, 0x94, 9, 4)
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PART = b"links/patched"
_COPY = 1 << 20
_PUNCH_HOLE_KEEP_SIZE = 3


def differing(
    ground: Ground, comparer: Comparer, path: bytes, record: ObjectRecord, table: BlockTable
) -> Optional[array[int]]:
    """The chunks of the dump's file that what stands at ``path`` does not have; None where it is no good as a ground."""
    total = chunk_count(record.size)
    if record.size < LEAST or table.chunks != total:
        return None
    try:
        descriptor = ground.open(path)
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        whole = total if size == record.size else min(size, record.size) // fmt.CHUNK_SIZE
        found = array("Q")
        at = 0
        for value, count in comparer.chunks(descriptor, min(size, whole * fmt.CHUNK_SIZE)):
            found.extend(index for index in range(at, at + count) if table.chunk(index)[0] != value)
            at += count
        found.extend(range(whole, total))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return found if len(found) * 2 <= total else None


class Patcher:
    """Makes the staged file of one object; `write` its chunks, then `finish`."""

    def __init__(self, ground: Ground, staging: int, attributes: Attributes) -> None:
        self._ground = ground
        self._staging = staging
        self._attributes = attributes
        self._descriptor = -1

    def begin(self, record: ObjectRecord, path: bytes, seen: Seen) -> bool:
        """Copy what stands at ``path``; False where that is not what was compared any more. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_PART, dir_fd=self._staging)
        try:
            source = self._ground.open(path)
        except OSError:
            return False
        try:
            if not seen.is_still(os.fstat(source)):
                return False
            self._descriptor = os.open(_PART, _CREATE, 0o600, dir_fd=self._staging)
            self._attributes.early(self._descriptor, record)
            _copy(source, self._descriptor)
        finally:
            os.close(source)
        os.ftruncate(self._descriptor, record.size)
        return True

    def write(self, record: ObjectRecord, index: int, data: memoryview) -> None:
        """One chunk; empty: a hole. Raises IntegrityError, OSError."""
        at = index * fmt.CHUNK_SIZE
        length = min(fmt.CHUNK_SIZE, record.size - at)
        if length <= 0 or len(data) not in {0, length}:
            raise fmt.damaged("a chunk of a file is not where it belongs")
        if data:
            write_at(self._descriptor, data, at)
        else:
            _punch(self._descriptor, at, length)

    def finish(self, record: ObjectRecord, comparer: Comparer) -> bool:
        """Check the whole, give it its attributes, let it be staged; False where it is not the dump's file. Raises OSError."""
        good = fmt.content_hash(record.size, comparer.chunks(self._descriptor, record.size)) == record.content
        if good:
            self._attributes.finish(self._descriptor, record, seal=False)
            os.fsync(self._descriptor)
            os.rename(_PART, staged_path(record.number), src_dir_fd=self._staging, dst_dir_fd=self._staging)
        else:
            os.unlink(_PART, dir_fd=self._staging)
        self.close()
        return good

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _copy(source: int, target: int) -> None:
    """All bytes of an open file, by reflink or else without its holes."""
    with contextlib.suppress(OSError):  # another file system's way, or one of the two is not copied on write
        fcntl.ioctl(target, _FICLONE, source)
        return
    for offset, length in _data(source):
        done = 0
        while done < length:
            data = os.pread(source, min(_COPY, length - done), offset + done)
            if not data:
                return  # it was cut off meanwhile; the check of the whole tells
            write_at(target, memoryview(data), offset + done)
            done += len(data)


def _data(source: int) -> Iterator[Tuple[int, int]]:
    size = os.fstat(source).st_size
    offset = 0
    while offset < size:
        start = next_data(source, offset)
        if start is None:
            return
        try:
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError:
            end = size
        yield start, end - start
        offset = end


def _punch(descriptor: int, offset: int, length: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if call(descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, length) != 0:
        if ctypes.get_errno() in {errno.ENOSPC, errno.EIO}:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        write_at(descriptor, memoryview(bytes(length)), offset)
