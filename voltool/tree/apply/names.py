"""Which names each object has: a flat file sorted by object, with a sparse index, read by all workers.

Also the directories: their numbers, parents and depths as arrays of integers, not a Python object each. Ships to servers.
"""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import Dict, List, NamedTuple, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.model import ROOT_OBJECT

#: object, directory, length of the name; then the name
_HEAD = struct.Struct(">QQB")
_STEP = 64
_BUFFER = 1 << 20


class Name(NamedTuple):
    """One name: in which directory object, and what."""

    directory: int
    name: bytes


class NameTable:
    """Written once in order of objects (`add`, `flush`), then read by ranges, also by forked workers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._length = 0
        self._count = 0
        self._objects = array("Q")
        self._offsets = array("Q")

    def add(self, turned: bytes) -> None:
        """The next name, of the same or a higher object: the object's number, the directory's, the name. Raises OSError."""
        buffer = self._buffer
        if self._count % _STEP == 0:
            self._objects.append(int.from_bytes(turned[:8], "big"))
            self._offsets.append(self._length + len(buffer))
        self._count += 1
        buffer += turned[:16]
        buffer.append(len(turned) - 16)
        buffer += turned[16:]
        if len(buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Write out what is buffered; needed before any reading."""
        view = memoryview(bytes(self._buffer))
        while view:
            written = os.pwrite(self._descriptor, view, self._length)
            self._length += written
            view = view[written:]
        self._buffer.clear()

    def span(self, first: int, last: int) -> Tuple[int, int]:
        """Start and end of the part of the file that has all names of objects ``first`` to ``last``."""
        if not self._objects:
            return 0, 0
        start = max(0, bisect_left(self._objects, first) - 1)
        end = bisect_right(self._objects, last)
        return self._offsets[start], self._offsets[end] if end < len(self._offsets) else self._length

    def read(self, span: Tuple[int, int], first: int, last: int) -> Dict[int, List[Name]]:
        """The names of objects ``first`` to ``last`` in a `span` of theirs."""
        start, end = span
        found: Dict[int, List[Name]] = {}
        data = os.pread(self._descriptor, end - start, start)
        position = 0
        unpack = _HEAD.unpack_from
        size = _HEAD.size
        while position < len(data):
            number, directory, length = unpack(data, position)
            position += size
            if first <= number <= last:
                found.setdefault(number, []).append(Name(directory, data[position : position + length]))
            position += length
        return found

    def of(self, number: int) -> List[Name]:
        """The names of one object."""
        return self.read(self.span(number, number), number, number).get(number, [])


class Directories:
    """All directory objects, ascending. ``parents`` and ``depths`` belong to ``numbers`` by index; the root is first."""

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.parents = array("Q")
        self.depths = array("i")

    def index(self, number: int) -> Optional[int]:
        """The index of directory ``number``; None where there is none."""
        at = bisect_left(self.numbers, number)
        return at if at < len(self.numbers) and self.numbers[at] == number else None

    def measure(self) -> None:
        """Fill ``depths``. Raises IntegrityError unless every directory is reached from the root."""
        if not self.numbers or self.numbers[0] != ROOT_OBJECT:
            raise fmt.damaged("it has no root directory")
        unknown = -1
        self.depths = array("i", [unknown]) * len(self.numbers)
        self.depths[0] = 0
        for start in range(1, len(self.numbers)):
            trail = []
            at = start
            while self.depths[at] == unknown:
                trail.append(at)
                self.depths[at] = -2
                parent = self.index(self.parents[at])
                if parent is None:
                    raise fmt.damaged("a name lies in something that is not a directory")
                at = parent
            if self.depths[at] < 0:
                raise fmt.damaged("directories contain each other in a circle")
            depth = self.depths[at]
            for below in reversed(trail):
                depth += 1
                self.depths[below] = depth
