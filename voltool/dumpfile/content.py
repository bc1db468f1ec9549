"""Any bytes of a file of a chain, without reading what is before them: a chunk is composed, checked, and kept for a while.

A byte is given out only as a part of a chunk (a small file: of all of it) whose hash leads to the content hash of the file's
record. Several threads may read. Knows chains and records, nothing of who reads. Part of what is shipped to servers.
"""

from __future__ import annotations

import threading
from typing import Iterator, List, Optional, Sequence, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain, has_content
from voltool.dumpfile.compose import (
    ChunkTable,
    Layer,
    check_table,
    compose,
    hash_chunk,
    stated_chunks,
)
from voltool.dumpfile.lru import Lru

_ZEROS = bytes(fmt.CHUNK_SIZE)
#: Composed chunks that have been checked, by content hash and place; cost in bytes.
CheckedChunks = Lru[bytes]


class Content:
    """The bytes of one regular file. ``chunks`` may be shared by any number of files.

    Nothing is read before the first call. ``where`` of errors is the newest dump.
    """

    def __init__(self, chain: Chain, record: fmt.ObjectRecord, chunks: CheckedChunks) -> None:
        self.record = record
        self._chain = chain
        self._where = chain.newest.name
        self._chunks = chunks
        self._lock = threading.Lock()
        self._layers: Optional[Sequence[Layer]] = None
        self._table: Optional[ChunkTable] = None

    @property
    def is_known(self) -> bool:
        """Whether there is any content: what could not be read when it was dumped has none."""
        empty = self.record.size == 0 and not self.record.state & fmt.STATE_UNKNOWN
        return empty or has_content(self.record)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from ``offset`` on, fewer than ``length`` only at the end of the file; IntegrityError, never a guess."""
        end = min(offset + length, self.record.size)
        parts: List[bytes] = []
        while offset < end:
            number, within = divmod(offset, fmt.CHUNK_SIZE)
            chunk = self.chunk(number)
            part = chunk[within : within + end - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunk(self, number: int) -> bytes:
        """Chunk ``number`` of the file, holes as zeros, checked; IntegrityError."""
        size = min(fmt.CHUNK_SIZE, self.record.size - number * fmt.CHUNK_SIZE)
        if self.record.size > fmt.CHUNK_SIZE and self._chunk_table().get(number) == fmt.ZERO_CHUNK:
            return _ZEROS if size == fmt.CHUNK_SIZE else bytes(size)
        key = (self.record.content, number)
        data = self._chunks.get(key)
        if data is None:
            data = self._composed(number, size)
            self._chunks.put(key, data, len(data))
        return data

    def data_chunks(self) -> Sequence[int]:
        """The chunks that are not zeros, ascending; of a file that is one chunk: that one. IntegrityError."""
        if self.record.size <= fmt.CHUNK_SIZE:
            return range(1 if self.record.size else 0)
        return self._chunk_table().chunks()

    def data_ranges(self) -> Iterator[Tuple[int, int]]:
        """(start, end) of everything that is not a hole, ascending, neighbours joined. Reads the whole file, checks nothing."""
        start = end = 0
        for piece in compose(self._all_layers(), self.record.number, self.record.size):
            if piece.data is None:
                continue
            if piece.offset != end:
                if end > start:
                    yield start, end
                start = piece.offset
            end = piece.offset + piece.length
        if end > start:
            yield start, end

    def _composed(self, number: int, size: int) -> bytes:
        start = number * fmt.CHUNK_SIZE
        pieces = compose(self._all_layers(), self.record.number, start + size, start)
        data = b"".join(bytes(piece.length) if piece.data is None else piece.data for piece in pieces)
        if self.record.size <= fmt.CHUNK_SIZE:
            good = fmt.hash_small(data) == self.record.content
        else:
            good = hash_chunk(memoryview(data)) == self._chunk_table().get(number)
        if not good:
            raise fmt.damaged("the content of a file does not have its hash", self._where)
        return data

    def _all_layers(self) -> Sequence[Layer]:
        with self._lock:
            if self._layers is None:
                self._layers = self._chain.layers(self._chain.versions_of(self.record.number))
            return self._layers

    def _chunk_table(self) -> ChunkTable:
        layers = self._all_layers()
        with self._lock:
            if self._table is None:
                table = stated_chunks(layers, self.record.number, self.record.size)
                check_table(table, self.record, self._where)
                self._table = table
            return self._table
