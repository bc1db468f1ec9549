"""A set of object numbers as bits: 10 million objects in some 1.3 MB. Part of what is shipped to servers."""

from __future__ import annotations

from typing import Dict, Iterator

_SHIFT = 15
_PAGE_BITS = 1 << _SHIFT
_PAGE_BYTES = _PAGE_BITS // 8
_MASK = _PAGE_BITS - 1
_EMPTY = bytes(_PAGE_BYTES)


class Bitmap:
    """A set of integers >= 0. Dense ranges cost a bit a number; memory follows what is in it, not how large it is."""

    def __init__(self) -> None:
        self._pages: Dict[int, bytearray] = {}

    def add(self, number: int) -> bool:
        """Put ``number`` into the set; whether it was not there."""
        page = self._pages.get(number >> _SHIFT)
        if page is None:
            page = self._pages[number >> _SHIFT] = bytearray(_PAGE_BYTES)
        at, bit = (number & _MASK) >> 3, 1 << (number & 7)
        new = not page[at] & bit
        page[at] |= bit
        return new

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> _SHIFT)
        return page is not None and bool(page[(number & _MASK) >> 3] & (1 << (number & 7)))

    def any_in(self, start: int, stop: int) -> bool:
        """Whether the set has a number in ``start <= number < stop``."""
        return next(self.numbers(start, stop), None) is not None

    def numbers(self, start: int, stop: int) -> Iterator[int]:
        """The numbers in ``start <= number < stop``, ascending."""
        if stop <= start:
            return
        for at in self._pages_between(start >> _SHIFT, (stop - 1) >> _SHIFT):
            page = self._pages[at]
            base = at << _SHIFT
            first = max(start - base, 0)
            last = min(stop - base, _PAGE_BITS)
            for byte in _set_bytes(page, first >> 3, (last + 7) >> 3):
                value = page[byte]
                for bit in range(8):
                    number = byte * 8 + bit
                    if value >> bit & 1 and first <= number < last:
                        yield base + number

    def _pages_between(self, first: int, last: int) -> Iterator[int]:
        if last - first > len(self._pages):
            yield from sorted(at for at in self._pages if first <= at <= last)
            return
        for at in range(first, last + 1):
            if at in self._pages:
                yield at


def _set_bytes(page: bytearray, first: int, last: int) -> Iterator[int]:
    """Which bytes of ``page[first:last]`` are not zero."""
    while first < last:
        part = page[first : min(first + 64, last)]
        if part != _EMPTY[: len(part)]:
            for at, value in enumerate(part):
                if value:
                    yield first + at
        first += len(part)
