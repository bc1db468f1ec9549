"""Decompresses an LZ4 block in plain Python, for a machine that has nothing but python3: the last resort, and slow (some MB/s).

Source: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md. Part of what is shipped to servers.
"""

from __future__ import annotations

from typing import Tuple

_LEAST_MATCH = 4
_MORE = 15


def decompress_block(stored: bytes, raw: int) -> bytes:
    """The ``raw`` bytes of the block; ValueError where it does not hold just as many. Never makes more than that."""
    try:
        return _decompress(stored, raw)
    except IndexError:
        raise ValueError("the block ends in the middle") from None


def _decompress(stored: bytes, raw: int) -> bytes:
    out = bytearray()
    position, end = 0, len(stored)
    while True:
        token = stored[position]
        length, position = _length(stored, position + 1, token >> 4)
        if length > end - position or length > raw - len(out):
            raise ValueError("literals lead beyond the end")
        out += stored[position : position + length]
        position += length
        if position == end:  # the last sequence has no match
            break
        offset = stored[position] | stored[position + 1] << 8
        length, position = _length(stored, position + 2, token & _MORE)
        length += _LEAST_MATCH
        if not 0 < offset <= len(out) or length > raw - len(out):
            raise ValueError("a match leads outside")
        start = len(out) - offset
        if offset >= length:
            out += out[start : start + length]
        else:  # it overlaps what it makes: the last ``offset`` bytes over and over
            out += (out[start:] * (length // offset + 1))[:length]
    if len(out) != raw:
        raise ValueError("it holds fewer bytes than it should")
    return bytes(out)


def _length(stored: bytes, position: int, length: int) -> Tuple[int, int]:
    if length == _MORE:
        while True:
            more = stored[position]
            position += 1
            length += more
            if more != 255:
                break
    return length, position
