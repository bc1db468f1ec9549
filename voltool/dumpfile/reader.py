"""Reads a dump that can be seeked in: header, trailer, index, records in order, and single frames found by the index.

What it returns has been checked as far as one frame goes (checksums, caps, agreement with the index); whether records fit
each other is for `chain`, `structure` and `verify`. Knows nothing of stores. Part of what is shipped to servers.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Dict, Iterator, List, Optional, Protocol, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import (
    Frame,
    decode_data,
    decode_payload,
    decode_records,
    overlay_content,
    totals_of,
)
from voltool.dumpfile.header import decode_header
from voltool.dumpfile.index import Index
from voltool.dumpfile.lru import Lru

#: How many bytes of decoded record frames are kept for look-ups, and what Python's object around a record costs.
_KEPT_RECORDS = 24 << 20
_RECORD_COST = 60
#: How much is read at once when a whole dump is read.
_READ_SIZE = 1 << 20


class RandomAccess(Protocol):
    """Bytes that can be read anywhere; a store's reader is one."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes, fewer only at the end."""


#: The extents of each object in one DATA frame, with their bytes (of a hole: none).
ObjectExtents = Dict[int, List[Tuple[fmt.Extent, memoryview]]]
#: What an extent of a kept frame costs, in bytes: Python's objects around it.
_EXTENT_COST = 400


class DumpReader:
    """One complete dump. ``name`` is how errors call it. Several threads may read it where ``source`` allows it.

    Opening reads the header, the trailer and the index and raises IntegrityError unless they agree. ``header``,
    ``trailer``, ``totals``, ``index`` and ``name`` are then there. ``kept_data`` keeps decoded DATA frames (cost in bytes),
    for whoever reads in no order; several readers may share it.
    """

    def __init__(self, source: RandomAccess, name: str, kept_data: Optional[Lru[ObjectExtents]] = None) -> None:
        self.name = name
        self._source = source
        self._kept: Lru[List[bytes]] = Lru(_KEPT_RECORDS)
        self._kept_data = kept_data
        self._data_objects: Tuple[int, Dict[int, bool]] = (-1, {})
        fmt.check_preamble(source.read_at(0, fmt.PREAMBLE_SIZE), name)
        end = source.size - fmt.TRAILER_SIZE
        self.trailer = fmt.decode_trailer(source.read_at(max(end, 0), fmt.TRAILER_SIZE), name)
        self.totals = totals_of(self.trailer, source.size)
        self.index = self._load_index(end)
        self.header = decode_header(decode_payload(self.frame(0), name), name)

    @property
    def state_id(self) -> str:
        """The state this dump (with its bases) restores to, as its trailer states it."""
        return self.totals.state_id

    def _load_index(self, end: int) -> Index:
        index = Index(self.name)
        offset = self.trailer.index_offset
        for number in range(self.trailer.index_frames):
            if not fmt.PREAMBLE_SIZE < offset < end:
                break
            frame = self._read_frame(offset)
            if frame.header.type != fmt.INDEX or frame.header.number != self.trailer.frames + number:
                raise fmt.damaged("its index is not where its trailer says", self.name)
            index.add(decode_records(frame, self.name))
            offset += fmt.FRAME_SIZE + frame.header.stored
        if offset != end:
            raise fmt.damaged("its index and its trailer do not agree", self.name)
        index.finish(self.trailer)
        return index

    def _read_frame(self, offset: int, stored: Optional[int] = None) -> Frame:
        if stored is None:
            header = fmt.decode_frame_header(self._source.read_at(offset, fmt.FRAME_SIZE), self.name)
            payload = self._source.read_at(offset + fmt.FRAME_SIZE, header.stored)
        else:
            data = self._source.read_at(offset, fmt.FRAME_SIZE + stored)
            header = fmt.decode_frame_header(data[: fmt.FRAME_SIZE], self.name)
            payload = data[fmt.FRAME_SIZE :]
        fmt.check_payload(header, payload, self.name)
        return Frame(header, payload)

    def frame(self, position: int) -> Frame:
        """Frame number ``position``, checked against its checksums and the index."""
        entry = self.index.entry(position)
        frame = self._read_frame(entry.offset, entry.stored)
        header = frame.header
        if (header.number, header.type, header.records, header.key, header.key2) != (
            position,
            entry.type,
            entry.records,
            entry.key,
            entry.key2,
        ):
            raise fmt.damaged("its index does not describe its frames", self.name)
        return frame

    def raw(self) -> Iterator[bytes]:
        """All bytes of the dump in order, in pieces, unchecked."""
        for offset in range(0, self._source.size, _READ_SIZE):
            data = self._source.read_at(offset, _READ_SIZE)
            if len(data) != min(_READ_SIZE, self._source.size - offset):
                raise fmt.damaged("it became shorter while it was read", self.name)
            yield data

    def records(self, kind: int) -> Iterator[bytes]:
        """All records of a type as they stand in the dump, one frame in memory at a time."""
        for position in self.index.of_type(kind):
            yield from decode_records(self.frame(position), self.name)

    def objects(self) -> Iterator[bytes]:
        """The final object records (tombstones too), sorted by number: OBJECTS overlaid by CONTENT."""
        return overlay_content(
            self.records(fmt.OBJECTS), self.records(fmt.CONTENT), self.name, differences=self.header.level > 0
        )

    def entries(self) -> Iterator[bytes]:
        """The entry records (tombstones too), sorted; IntegrityError where they are not."""
        last = b""
        for record in self.records(fmt.ENTRIES):
            if len(record) < 18 or record[:-8] <= last:
                raise fmt.damaged("its entry records are malformed or not in order", self.name)
            last = record[:-8]
            yield record

    def object(self, number: int) -> Optional[bytes]:
        """The final record (or tombstone) of object ``number``; None where this dump has none."""
        record = self._find(fmt.OBJECTS, number)
        if record is None and self.header.level > 0:
            return self._find(fmt.CONTENT, number)
        if record is not None and record[fmt.STATE_OFFSET] & fmt.STATE_PENDING:
            record = self._find(fmt.CONTENT, number)
            if record is None:
                raise fmt.damaged("the content of an object never came", self.name)
        return record

    def _find(self, kind: int, number: int) -> Optional[bytes]:
        key = number.to_bytes(8, "big")
        for nth in self.index.overlapping(kind, number):
            records = self._kept_records(self.index.position_of(kind, nth))
            at = bisect_left(records, key)
            if at < len(records) and records[at][:8] == key:
                return records[at]
        return None

    def entries_of(self, directory: int, name: Optional[bytes] = None) -> Iterator[bytes]:
        """The entry records (tombstones too) of one directory, sorted; with ``name`` that one alone."""
        prefix = directory.to_bytes(8, "big") + (name + b"\0" if name is not None else b"")
        frames = self.index.overlapping(fmt.ENTRIES, directory)
        if name is not None and frames:
            only = self._last_before(frames, prefix)
            frames = range(only, only + 1)
        for nth in frames:
            records = self._kept_records(self.index.position_of(fmt.ENTRIES, nth))
            for at in range(bisect_left(records, prefix), len(records)):
                if not records[at].startswith(prefix):
                    break
                yield records[at]

    def _last_before(self, frames: range, prefix: bytes) -> int:
        """Of the frames of one large directory the one in which the entry with ``prefix`` is, if any is."""
        low, high = frames.start, frames.stop
        while high - low > 1:
            middle = (low + high) // 2
            records = self._kept_records(self.index.position_of(fmt.ENTRIES, middle))
            low, high = (middle, high) if records and records[0][:-8] <= prefix else (low, middle)
        return low

    def _kept_records(self, position: int) -> List[bytes]:
        records = self._kept.get(position)
        if records is None:
            frame = self.frame(position)
            records = decode_records(frame, self.name)
            self._kept.put(position, records, frame.header.raw + len(records) * _RECORD_COST)
        return records

    def data_frames(self, number: int, offset: int = 0) -> Iterator[int]:
        """Positions of the DATA frames that may hold bytes of object ``number`` from ``offset`` on, in order."""
        frames = self.index.overlapping(fmt.DATA, number)
        low, high = frames.start, frames.stop
        if high - low > 1 and self.index.key_of(fmt.DATA, low) != number:
            low += 1  # an object that begins a frame is in none before
        while offset and high - low > 1:
            middle = (low + high) // 2
            begins = self.index.key_of(fmt.DATA, middle), self._first_offset(middle)
            low, high = (middle, high) if begins <= (number, offset) else (low, middle)
        for nth in range(low, frames.stop):
            yield self.index.position_of(fmt.DATA, nth)

    def _first_offset(self, nth: int) -> int:
        """Where in its file the ``nth`` DATA frame begins."""
        return self.index.entry(self.index.position_of(fmt.DATA, nth)).key2

    def extents(self, number: int, offset: int = 0) -> Iterator[Tuple[fmt.Extent, memoryview]]:
        """The extents of object ``number`` with their bytes (of a hole: none), those before ``offset`` perhaps left out.

        One frame in memory at a time. IntegrityError unless they ascend without overlap.
        """
        end = 0
        for position in self.data_frames(number, offset):
            for extent, data in self._extents_in(position, number):
                if extent.number != number:
                    continue
                if extent.offset < end:
                    raise fmt.damaged("the extents of an object overlap or are not in order", self.name)
                end = extent.offset + extent.length
                yield extent, data

    def _extents_in(self, position: int, number: int) -> Iterator[Tuple[fmt.Extent, memoryview]]:
        """The extents of a DATA frame: all, or, where frames are kept, those of the object."""
        if self._kept_data is None:
            extents, raw = decode_data(self.frame(position), self.name)
            return fmt.iter_extents_with_data(raw, extents)
        found = self._kept_data.get((self.name, position))
        if found is None:
            extents, raw = decode_data(self.frame(position), self.name)
            found = {}
            for extent, data in fmt.iter_extents_with_data(raw, extents):
                found.setdefault(extent.number, []).append((extent, data))
            self._kept_data.put((self.name, position), found, len(raw) + len(extents) * _EXTENT_COST)
        return iter(found.get(number, ()))

    def begins_fresh(self, number: int) -> Optional[bool]:
        """Whether this dump's data of object ``number`` is a whole version; None where it has no data of it."""
        for position in self.data_frames(number):
            if self._kept_data is not None:
                for extent, _data in self._extents_in(position, number):
                    return bool(extent.flags & fmt.EXTENT_FRESH)
                continue
            fresh = self._first_extents(position).get(number)
            if fresh is not None:
                return fresh
        return None

    def _first_extents(self, position: int) -> Dict[int, bool]:
        """Of a DATA frame: the objects in it, and whether the first extent of each there begins a whole version.

        Kept for the frame asked for last: objects are asked for in order.
        """
        asked, firsts = self._data_objects
        if asked != position:
            extents, _raw = decode_data(self.frame(position), self.name)
            firsts = {}
            for extent in extents:
                firsts.setdefault(extent.number, bool(extent.flags & fmt.EXTENT_FRESH))
            self._data_objects = (position, firsts)
        return firsts

    def chunk_runs(self, number: int) -> Iterator[Tuple[int, List[bytes]]]:
        """(index of the first chunk, chunk hashes) of object ``number``, in order."""
        for nth in self.index.overlapping(fmt.CHUNKS, number):
            frame = self.frame(self.index.position_of(fmt.CHUNKS, nth))
            for record in decode_records(frame, self.name):
                owner, first, hashes = fmt.decode_chunk_run(record, self.name)
                if owner == number:
                    yield first, hashes
