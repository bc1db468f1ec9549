"""The index of a dump in memory: where each frame is, 40 bytes a frame, found by type and key.

A dump of 1 TB has a million frames, so there is no Python object per frame. Knows no file: `reader` gives it records.
Part of what is shipped to servers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import Dict, Iterable, Iterator

from voltool.dumpfile import format as fmt

#: Types whose frames are sorted by their key, first object number (of ENTRIES: directory).
_SORTED = (fmt.OBJECTS, fmt.ENTRIES, fmt.DATA, fmt.CHUNKS, fmt.CONTENT)


class Index:
    """All frames of a dump but the INDEX frames themselves.

    ``where`` names the dump in errors. After the last `add`, `finish` checks that the frames fill the dump without a gap.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._packed = bytearray()
        self._positions: Dict[int, array[int]] = {}
        self._keys: Dict[int, array[int]] = {}
        self._end = fmt.PREAMBLE_SIZE

    def __len__(self) -> int:
        return len(self._packed) // fmt.INDEX_ENTRY_SIZE

    def add(self, records: Iterable[bytes]) -> None:
        """The records of the next INDEX frame; IntegrityError when they are not in order or leave a gap."""
        unpack = fmt.INDEX_ENTRY.unpack
        for record in records:
            if len(record) != fmt.INDEX_ENTRY_SIZE:
                raise fmt.damaged("an index record has a wrong length", self._where)
            kind, offset, stored, _records, key, _key2 = unpack(record)
            if offset != self._end or stored > fmt.MAX_STORED:
                raise fmt.damaged("its index does not describe its frames", self._where)
            fmt.check_frame_type(kind, self._where)
            self._end += fmt.FRAME_SIZE + stored
            self._note(kind, key)
            self._packed += record

    def _note(self, kind: int, key: int) -> None:
        keys = self._keys.setdefault(kind, array("Q"))
        if kind in _SORTED and len(keys) and key < keys[-1]:
            raise fmt.damaged("its frames are not in the order of their objects", self._where)
        keys.append(key)
        self._positions.setdefault(kind, array("I")).append(len(self))

    def finish(self, trailer: fmt.Trailer) -> None:
        """IntegrityError unless the index ends where the trailer says."""
        if self._end != trailer.index_offset or len(self) != trailer.frames:
            raise fmt.damaged("its index and its trailer do not agree", self._where)
        if len(self._keys.get(fmt.HEADER, ())) != 1 or self._packed[0] != fmt.HEADER:
            raise fmt.damaged("it does not begin with its header", self._where)

    def entry(self, position: int) -> fmt.IndexEntry:
        """The frame that is number ``position`` of the dump."""
        return fmt.IndexEntry(*fmt.INDEX_ENTRY.unpack_from(self._packed, position * fmt.INDEX_ENTRY_SIZE))

    def of_type(self, kind: int) -> Iterator[int]:
        """The positions of all frames of a type, in order."""
        return iter(self._positions.get(kind, ()))

    def count(self, kind: int) -> int:
        """How many frames of a type there are."""
        return len(self._keys.get(kind, ()))

    def key_of(self, kind: int, nth: int) -> int:
        """The key of the ``nth`` frame of a type."""
        return self._keys[kind][nth]

    def position_of(self, kind: int, nth: int) -> int:
        """The position of the ``nth`` frame of a type."""
        return self._positions[kind][nth]

    def overlapping(self, kind: int, key: int) -> range:
        """Which frames of a type (as ``nth``) may hold records of ``key``: those that begin with it and the one before."""
        keys = self._keys.get(kind)
        if not keys:
            return range(0)
        return range(max(bisect_left(keys, key) - 1, 0), bisect_right(keys, key))
