"""Where a file has data and where holes, from lseek(2) SEEK_DATA and SEEK_HOLE. Ships to servers."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Iterator, List, Sequence, Tuple

from voltool.tree.stamps import NO_LAYOUT

Segment = Tuple[int, int]


def data_segments(descriptor: int, start: int, end: int) -> Iterator[Segment]:
    """The (offset, length) of data in ``[start, end)``; what is between is holes. One segment where holes are unknown."""
    position = start
    while position < end:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                yield position, end - position
                return
            raise
        if position >= end:
            return
        hole = min(os.lseek(descriptor, position, os.SEEK_HOLE), end)
        if hole <= position:
            hole = end
        yield position, hole - position
        position = hole


def layout_digest(segments: Sequence[Segment], size: int) -> bytes:
    """Eight bytes that tell layouts apart; all zero for a file without holes."""
    if (len(segments) == 1 and segments[0] == (0, size)) or (not segments and size == 0):
        return NO_LAYOUT
    return hashlib.blake2b(repr(list(segments)).encode(), digest_size=8).digest()


def with_holes(segments: Sequence[Segment], start: int, end: int) -> List[Tuple[int, int, bool]]:
    """``[start, end)`` as (offset, length, is data), holes filled in between."""
    pieces = []
    position = start
    for offset, length in segments:
        if offset > position:
            pieces.append((position, offset - position, False))
        pieces.append((offset, length, True))
        position = offset + length
    if position < end:
        pieces.append((position, end - position, False))
    return pieces
