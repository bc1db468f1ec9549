"""What the chunks of a large file hash to, known from the bytes as they were written, so that they need not be read again.

A file that is being made is empty and has its size: where the data of a chunk came in one frame alone, its bytes are those of
that frame and zeros around them. Any other chunk is read back. Part of what is shipped to servers.
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, Sequence, Tuple

from voltool.dumpfile import format as fmt
from voltool.tree.apply.files import Piece

_HASH = 32
_PAGE = 1024
#: The hash of a chunk (of zeros: ZERO_CHUNK) by its index; empty: not known, it must be read back.
Hashed = List[Tuple[int, bytes]]


def hash_pieces(pieces: Sequence[Piece], size: int) -> Hashed:
    """The chunks of a file of ``size`` bytes that these pieces (of one frame) put data into, each once, in order."""
    parts: Dict[int, List[Tuple[int, memoryview]]] = {}
    for extent, data in pieces:
        if extent.kind == fmt.EXTENT_DATA:
            for index, at, part in _cut(extent.offset, data):
                parts.setdefault(index, []).append((at, part))
    return [(index, _hash(parts[index], min(fmt.CHUNK_SIZE, size - index * fmt.CHUNK_SIZE))) for index in sorted(parts)]


def _cut(offset: int, data: memoryview) -> Iterator[Tuple[int, int, memoryview]]:
    """Data at ``offset`` as (chunk, offset in it, bytes)."""
    position = 0
    while position < len(data):
        index, at = divmod(offset + position, fmt.CHUNK_SIZE)
        part = data[position : position + fmt.CHUNK_SIZE - at]
        yield index, at, part
        position += len(part)


def _hash(parts: Sequence[Tuple[int, memoryview]], length: int) -> bytes:
    end = 0
    for at, part in parts:
        if at < end:
            return b""  # they overlap
        end = at + len(part)
    if end > length:
        return b""  # more than the file's size
    at, view = parts[0]
    if at or len(view) != length:
        whole = bytearray(length)
        for at, part in parts:
            whole[at : at + len(part)] = part
        view = memoryview(whole)
    return fmt.ZERO_CHUNK if fmt.is_zero(view) else fmt.chunk_hash(fmt.block_hashes(view))


class ChunkTally:
    """The known hashes of one file. Costs 33 bytes a chunk that data came for."""

    def __init__(self) -> None:
        self._hashes: Dict[int, bytearray] = {}
        self._known: Dict[int, bytearray] = {}

    def add(self, hashed: Iterable[Tuple[int, bytes]]) -> None:
        """What `hash_pieces` said of one frame. A chunk that comes a second time is not known any more."""
        for index, value in hashed:
            page, at = divmod(index, _PAGE)
            if page not in self._known:
                self._known[page], self._hashes[page] = bytearray(_PAGE), bytearray(_PAGE * _HASH)
            if value and not self._known[page][at]:
                self._known[page][at] = 1
                self._hashes[page][at * _HASH : (at + 1) * _HASH] = value
            else:
                self._known[page][at] = 2

    def agrees(self, index: int, expected: bytes) -> bool:
        """Whether this chunk is known and has this hash."""
        page, at = divmod(index, _PAGE)
        known = self._known.get(page)
        if known is None or known[at] != 1:
            return False
        return self._hashes[page][at * _HASH : (at + 1) * _HASH] == expected

    def doubtful(self, first: int, hashes: bytes) -> Iterator[Tuple[int, bytes]]:
        """The parts of a run of expected hashes that must be read back: first chunk, hashes. A chunk that is known to be wrong
        is among them."""
        begin = count = 0
        wanted = [hashes[at : at + _HASH] for at in range(0, len(hashes), _HASH)]
        for position, expected in enumerate(wanted):
            if self.agrees(first + position, expected):
                if count:
                    yield first + begin, b"".join(wanted[begin : begin + count])
                count = 0
            else:
                begin = begin if count else position
                count += 1
        if count:
            yield first + begin, b"".join(wanted[begin : begin + count])
