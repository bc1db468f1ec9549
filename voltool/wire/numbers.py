"""Numbers in a row as they cross the wire: 8 bytes each, big-endian on every machine. No I/O. Ships to servers."""

from __future__ import annotations

import sys
from array import array
from typing import Iterable

SIZE = 8


def encode_numbers(numbers: Iterable[int]) -> bytes:
    """Their bytes."""
    return _big_endian(array("Q", numbers)).tobytes()


def decode_numbers(data: bytes) -> array[int]:
    """The numbers of a whole number of them; ValueError for a part of one."""
    return _big_endian(array("Q", data))


def _big_endian(numbers: array[int]) -> array[int]:
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
