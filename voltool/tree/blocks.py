"""Block hashes of large files, kept at home: which 4 KiB blocks changed, without the old bytes. Ships to servers.

Of each block 8 bytes are kept: BLAKE2b of the block's SHA-256, keyed with a secret of this home, so that nobody who writes
files can make two blocks look equal. A hole has the hash 0, a block of zeros that is allocated has not: a change of layout
is seen too. With them the chunk hashes (32 bytes a MiB): where no block hash differs but the chunk hash does, the whole
chunk is sent. 0.2 % of the data.
"""

from __future__ import annotations

import hashlib
import os
from typing import Iterator, List, Sequence, Tuple

from voltool import durable
from voltool.dumpfile.format import BLOCK_SIZE, CHUNK_SIZE, ZERO_CHUNK
from voltool.tree.layout import data_segments

BLOCK_HASH_SIZE = 8
HOLE_HASH = b"\0" * BLOCK_HASH_SIZE
_BLOCKS_A_CHUNK = CHUNK_SIZE // BLOCK_SIZE
_CHUNK_HASH_SIZE = 32
_SHORTS_A_CHUNK = _BLOCKS_A_CHUNK * BLOCK_HASH_SIZE
_MAGIC = b"vtblocks"
#: A file of chunk hashes alone, made from a manifest: what is not equal is sent as whole chunks.
_MAGIC_CHUNKS = b"vtchunks"
_HEAD_SIZE = 16
_UNFINISHED = b".new"


def short_hashes(blocks: Sequence[bytes], key: bytes, segments: Sequence[Tuple[int, int]], at: int, stop: int) -> bytes:
    """The kept hashes of a chunk ``[at, stop)`` with block hashes ``blocks`` and data in ``segments``."""
    blake2b = hashlib.blake2b
    shorts = [blake2b(block, digest_size=BLOCK_HASH_SIZE, key=key).digest() for block in blocks]
    if sum(length for _offset, length in segments) < stop - at:
        has_data = bytearray(len(shorts))
        for offset, length in segments:
            for index in range((offset - at) // BLOCK_SIZE, -(-(offset + length - at) // BLOCK_SIZE)):
                has_data[index] = 1
        shorts = [short if data else HOLE_HASH for short, data in zip(shorts, has_data)]
    return b"".join(shorts)


def block_file_name(number: int, content: bytes, layout: bytes) -> bytes:
    """The name of the block file of one version of a large file."""
    return b"%x.%s.%s" % (number, content[:16].hex().encode(), layout.hex().encode())


def block_file_number(name: bytes) -> int:
    """The object whose block file has this name; 0 for what is none."""
    try:
        return int(name.split(b".", 1)[0], 16)
    except ValueError:
        return 0


#: A run of neighbouring chunks: index of the first, their hashes, their blocks' kept hashes.
ChunkRun = Tuple[int, List[bytes], bytes]


def write_block_file(path: bytes, size: int, runs: Sequence[ChunkRun]) -> None:
    """Write the hashes of one version of a file of ``size`` bytes. What no run covers is holes, here as there. The file has its
    name, and is durable, once `keep_block_files` is called with it."""
    count = -(-size // CHUNK_SIZE)
    descriptor = os.open(
        path + _UNFINISHED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        os.pwrite(descriptor, _MAGIC + count.to_bytes(8, "big"), 0)
        shorts_at = _HEAD_SIZE + count * _CHUNK_HASH_SIZE
        for first, chunks, shorts in runs:
            os.pwrite(descriptor, b"".join(chunks), _HEAD_SIZE + first * _CHUNK_HASH_SIZE)
            os.pwrite(descriptor, shorts, shorts_at + first * _SHORTS_A_CHUNK)
        blocks = -(-size // BLOCK_SIZE)
        os.ftruncate(descriptor, shorts_at + blocks * BLOCK_HASH_SIZE)
    finally:
        os.close(descriptor)


def keep_block_files(paths: Sequence[bytes]) -> None:
    """Make durable what `write_block_file` wrote, all at once: who dumps does not wait for the disk after each file. All lie in
    one directory."""
    for path in paths:
        descriptor = os.open(path + _UNFINISHED, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(path + _UNFINISHED, path)
    if paths:
        durable.fsync_directory(os.path.dirname(paths[0]))


def write_chunk_file(path: bytes, size: int, runs: Sequence[ChunkRun]) -> None:
    """Keep chunk hashes alone, as a manifest has them."""
    count = -(-size // CHUNK_SIZE)
    hashes = bytearray(count * _CHUNK_HASH_SIZE)
    for first, chunks, _shorts in runs:
        joined = b"".join(chunks)
        hashes[first * _CHUNK_HASH_SIZE : first * _CHUNK_HASH_SIZE + len(joined)] = joined
    durable.write_file(path, _MAGIC_CHUNKS + count.to_bytes(8, "big") + bytes(hashes[: count * _CHUNK_HASH_SIZE]))


class BlockTable:
    """A block file, open for reading."""

    def __init__(self, descriptor: int, chunks: int, *, blocks: bool) -> None:
        self._descriptor = descriptor
        self.chunks = chunks
        self.blocks = blocks

    @classmethod
    def open(cls, path: bytes) -> BlockTable:
        """Open; a missing or foreign file reads as one without chunks: everything counts as changed."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return cls(-1, 0, blocks=True)
        head = os.pread(descriptor, 16, 0)
        known = head[:8] in (_MAGIC, _MAGIC_CHUNKS)
        return cls(descriptor, int.from_bytes(head[8:], "big") if known else 0, blocks=head[:8] != _MAGIC_CHUNKS)

    def chunk(self, index: int) -> Tuple[bytes, bytes]:
        """The chunk hash and the block hashes of chunk ``index``; zero and empty beyond the end (a hole)."""
        if index >= self.chunks:
            return ZERO_CHUNK, b""
        chunk = os.pread(self._descriptor, _CHUNK_HASH_SIZE, _HEAD_SIZE + index * _CHUNK_HASH_SIZE)
        if not self.blocks:
            return chunk, b""
        return chunk, os.pread(self._descriptor, _SHORTS_A_CHUNK, self._shorts_at(index))

    def run(self, first: int, stop: int) -> ChunkRun:
        """The hashes of the chunks ``[first, stop)``."""
        parts = [self.chunk(index) for index in range(first, stop)]
        return first, [chunk for chunk, _shorts in parts], b"".join([shorts for _chunk, shorts in parts])

    def _shorts_at(self, index: int) -> int:
        return _HEAD_SIZE + self.chunks * _CHUNK_HASH_SIZE + index * _SHORTS_A_CHUNK

    def with_data(self, first: int, stop: int) -> Iterator[int]:
        """The chunks in ``[first, stop)`` that were not holes all through."""
        stop = min(stop, self.chunks)
        if first >= stop:
            return
        if not self.blocks:
            yield from (index for index in range(first, stop) if self.chunk(index)[0] != ZERO_CHUNK)
            return
        seen = first - 1
        for offset, length in data_segments(self._descriptor, self._shorts_at(first), self._shorts_at(stop)):
            low = (offset - self._shorts_at(0)) // _SHORTS_A_CHUNK
            high = (offset + length - 1 - self._shorts_at(0)) // _SHORTS_A_CHUNK
            for index in range(max(low, seen + 1), min(high + 1, stop)):
                seen = index
                if self.chunk(index)[1].strip(b"\0"):
                    yield index

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
