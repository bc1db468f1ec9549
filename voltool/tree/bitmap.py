"""A growing set of small integers, a bit each. Ships to servers."""

from __future__ import annotations


class Bitmap:
    """Object numbers seen; 10 million take 1.25 MB."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Add ``number``; whether it was new."""
        at, bit = number >> 3, 1 << (number & 7)
        if at >= len(self._bits):
            self._bits.extend(bytes(max(4096, at + 1 - len(self._bits), len(self._bits) // 4)))
        new = not self._bits[at] & bit
        self._bits[at] |= bit
        return new

    def discard(self, number: int) -> None:
        """Take ``number`` out."""
        at = number >> 3
        if at < len(self._bits):
            self._bits[at] &= ~(1 << (number & 7))

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bits) and bool(self._bits[at] & (1 << (number & 7)))
