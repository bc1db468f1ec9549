"""The content of one file, put together from a fresh version and the patches laid over it.

A *layer* is one dump's data of the object. The newest layer that says something of a byte wins; below a layer nothing is
visible beyond the smallest size that the file has had since. Memory is flat: each layer is read forward, one frame at a
time. Knows records and extents, not chains. Part of what is shipped to servers.
"""

from __future__ import annotations

from array import array
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.reader import DumpReader

_FAR = 1 << 64
_ZEROS = bytes(fmt.CHUNK_SIZE)


class Layer(NamedTuple):
    """One dump's data of an object, visible up to byte ``limit``. ``fresh``: nothing lies below it.

    ``dump`` is the dump's place in its chain.
    """

    dump: int
    reader: DumpReader
    limit: int
    fresh: bool


class Piece(NamedTuple):
    """``length`` bytes at ``offset``; ``data`` is None for a hole."""

    offset: int
    length: int
    data: Optional[memoryview]


class ChunkPiece(NamedTuple):
    """``chunks`` chunks from number ``first`` on: one with its ``data``, or any number that are holes only (None)."""

    first: int
    chunks: int
    data: Optional[memoryview]


class _Cursor:
    """Reads one layer forward."""

    def __init__(self, layer: Layer, number: int, offset: int) -> None:
        self._extents = layer.reader.extents(number, offset)
        self._limit = layer.limit
        self.start = 0
        self.end = 0
        self._extent: Optional[fmt.Extent] = None
        self._data = memoryview(b"")

    def seek(self, position: int) -> None:
        """Make the current extent the first that ends after ``position``; beyond the last one ``start`` is far away."""
        while self.end <= position:
            extent, self._data = next(self._extents, (None, self._data))
            self._extent = extent
            if extent is None or extent.offset >= self._limit:
                self.start = self.end = _FAR
                return
            self.start = extent.offset
            self.end = min(extent.offset + extent.length, self._limit)

    def piece(self, position: int, end: int) -> Piece:
        """The bytes from ``position`` to ``end``, both within the current extent."""
        if self._extent is None or self._extent.kind == fmt.EXTENT_HOLE:
            return Piece(position, end - position, None)
        return Piece(position, end - position, self._data[position - self.start : end - self.start])


def compose(layers: Sequence[Layer], number: int, size: int, start: int = 0) -> Iterator[Piece]:
    """The file up to byte ``size``, from ``start`` on, in ascending pieces without gaps; ``layers`` newest first."""
    cursors = [_Cursor(layer, number, start) for layer in layers]
    position = start
    while position < size:
        end = size
        chosen: Optional[_Cursor] = None
        for cursor in cursors:
            cursor.seek(position)
            if cursor.start <= position:
                chosen = cursor
                end = min(end, cursor.end)
                break
            end = min(end, cursor.start)
        yield chosen.piece(position, end) if chosen else Piece(position, end - position, None)
        position = end


def cut_chunks(pieces: Iterable[Piece], size: int) -> Iterator[ChunkPiece]:
    """The pieces of a whole file cut (and joined) at chunk borders. ``data`` is valid until the next one is asked for."""
    buffer = bytearray(fmt.CHUNK_SIZE)
    view = memoryview(buffer)
    filled = False
    for piece in pieces:
        position, end = piece.offset, piece.offset + piece.length
        while position < end:
            chunk, within = divmod(position, fmt.CHUNK_SIZE)
            if not within and piece.data is None and end - position >= fmt.CHUNK_SIZE:
                count = (end - position) // fmt.CHUNK_SIZE
                yield ChunkPiece(chunk, count, None)
                position += count * fmt.CHUNK_SIZE
                continue
            step = min(end - position, fmt.CHUNK_SIZE - within)
            filled = (filled and within > 0) or piece.data is not None
            at = position - piece.offset
            view[within : within + step] = piece.data[at : at + step] if piece.data is not None else _ZEROS[:step]
            position += step
            if within + step == fmt.CHUNK_SIZE or position == size:
                yield ChunkPiece(chunk, 1, view[: within + step] if filled else None)


def hash_chunk(data: Optional[memoryview]) -> bytes:
    """The chunk hash of a chunk's bytes (None: a hole)."""
    if data is None or fmt.is_zero(data):
        return fmt.ZERO_CHUNK
    return fmt.chunk_hash(fmt.block_hashes(data))


def chunk_count(size: int) -> int:
    """How many chunks a file of ``size`` bytes has."""
    return -(-size // fmt.CHUNK_SIZE)


class ChunkTable:
    """The chunk hashes of one file; chunks that are zero are not kept, so that a hole of 1 TB costs nothing."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._hashes: Dict[int, bytes] = {}
        self._sorted: Optional[Sequence[int]] = None

    def set(self, chunk: int, value: bytes) -> None:
        """Chunk number ``chunk`` has this hash now."""
        self._sorted = None
        if value == fmt.ZERO_CHUNK:
            self._hashes.pop(chunk, None)
        else:
            self._hashes[chunk] = value

    def get(self, chunk: int) -> bytes:
        """The hash of chunk number ``chunk``."""
        return self._hashes.get(chunk, fmt.ZERO_CHUNK)

    def chunks(self) -> Sequence[int]:
        """The numbers of the chunks that are not zeros, ascending."""
        if self._sorted is None:
            self._sorted = array("Q", sorted(self._hashes))
        return self._sorted

    def content_hash(self) -> bytes:
        """The content hash that follows from the chunks'."""
        return fmt.content_hash(self._size, self._all_runs())

    def _all_runs(self) -> Iterator[Tuple[bytes, int]]:
        position = 0
        for chunk in sorted(self._hashes):
            if chunk > position:
                yield fmt.ZERO_CHUNK, chunk - position
            yield self._hashes[chunk], 1
            position = chunk + 1
        if chunk_count(self._size) > position:
            yield fmt.ZERO_CHUNK, chunk_count(self._size) - position

    def runs(self, most: int) -> Iterator[Tuple[int, List[bytes]]]:
        """(first chunk, hashes) of the chunks that are not zero, at most ``most`` together."""
        first = 0
        hashes: List[bytes] = []
        for chunk in sorted(self._hashes):
            if hashes and (chunk != first + len(hashes) or len(hashes) == most):
                yield first, hashes
                hashes = []
            if not hashes:
                first = chunk
            hashes.append(self._hashes[chunk])
        if hashes:
            yield first, hashes


def stated_chunks(layers: Sequence[Layer], number: int, size: int) -> ChunkTable:
    """The chunk hashes that the layers' CHUNKS records state for the composed file."""
    table = ChunkTable(size)
    for layer in reversed(layers):
        last = chunk_count(layer.limit)
        for first, hashes in layer.reader.chunk_runs(number):
            for chunk, value in enumerate(hashes, first):
                if chunk < last:
                    table.set(chunk, value)
    return table


def check_table(table: ChunkTable, record: fmt.ObjectRecord, where: str) -> None:
    """IntegrityError unless the chunk hashes lead to the record's content hash."""
    if table.content_hash() != record.content:
        raise fmt.damaged("the chunk hashes of a file do not lead to its content hash", where)


def checked_content(layers: Sequence[Layer], record: fmt.ObjectRecord, where: str) -> Iterator[memoryview]:
    """The bytes of a file, holes as zeros, each piece checked against the content hash before it is given out.

    A piece is valid until the next one is asked for. Raises IntegrityError.
    """
    pieces = compose(layers, record.number, record.size)
    if record.size <= fmt.CHUNK_SIZE:
        data = b"".join(bytes(piece.length) if piece.data is None else piece.data for piece in pieces)
        if fmt.hash_small(data) != record.content:
            raise fmt.damaged("the content of a file does not have its hash", where)
        yield memoryview(data)
        return
    table = stated_chunks(layers, record.number, record.size)
    check_table(table, record, where)
    zeros = memoryview(_ZEROS)
    for chunk in cut_chunks(pieces, record.size):
        for number in range(chunk.first, chunk.first + chunk.chunks):
            if hash_chunk(chunk.data) != table.get(number):
                raise fmt.damaged("the content of a file does not have its hash", where)
            yield chunk.data if chunk.data is not None else zeros[: record.size - number * fmt.CHUNK_SIZE]


def check_content(layers: Sequence[Layer], record: fmt.ObjectRecord, where: str) -> None:
    """Compute the content hash of a file from its bytes; IntegrityError unless it is the record's."""
    if record.size <= fmt.CHUNK_SIZE:
        for _piece in checked_content(layers, record, where):
            pass
        return
    table = ChunkTable(record.size)
    for chunk in cut_chunks(compose(layers, record.number, record.size), record.size):
        if chunk.data is not None:
            table.set(chunk.first, hash_chunk(chunk.data))
    if table.content_hash() != record.content:
        raise fmt.damaged("the content of a file does not have its hash", where)
