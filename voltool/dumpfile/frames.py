"""Cuts a stream of dump bytes into checked frames, without I/O: bytes in, frames out.

Whoever receives a dump front to back uses it: the CLI while it writes a dump to a store, apply while it reads a stream,
verify. It checks everything that can be checked without decompressing: preamble, checksums, numbering, order, caps
(before anything is allocated), the index against the frames, the running digest and the trailer, after which nothing may
follow. It must not know what records mean. Part of what is shipped to servers.
"""

from __future__ import annotations

import hashlib
from typing import Iterator, List, NamedTuple, Optional, Tuple, Union

from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.header import decode_header
from voltool.model import DumpHeader, DumpTotals

Buffer = Union[bytes, bytearray, memoryview]

#: The order of frame types in a dump; within a rank they may alternate.
_RANK = {
    fmt.HEADER: 0,
    fmt.OWNERS: 1,
    fmt.OBJECTS: 2,
    fmt.ENTRIES: 3,
    fmt.DATA: 4,
    fmt.CHUNKS: 4,
    fmt.CONTENT: 4,
    fmt.INDEX: 5,
}


class Frame(NamedTuple):
    """A checked frame. ``payload`` is as stored: see `decode_records` and `decode_data`."""

    header: fmt.FrameHeader
    payload: bytes


def decode_payload(frame: Frame, where: str = "") -> bytes:
    """The decompressed payload; IntegrityError when it is not what the header says."""
    return codecs.decompress(frame.header.codec, frame.payload, frame.header.raw, where)


def decode_records(frame: Frame, where: str = "") -> List[bytes]:
    """The records of an OWNERS, OBJECTS, ENTRIES, CHUNKS, CONTENT or INDEX frame."""
    return fmt.unpack_records(decode_payload(frame, where), frame.header.records, where)


def decode_data(frame: Frame, where: str = "") -> Tuple[List[fmt.Extent], bytes]:
    """The extents of a DATA frame and its raw payload (`format.iter_extents_with_data` pairs them)."""
    raw = decode_payload(frame, where)
    return fmt.decode_extents(raw, frame.header.records, where), raw


class FrameDecoder:
    """Feed it a dump in pieces of any size; it returns the frames that became complete.

    ``header`` is set once the HEADER frame has passed, ``trailer`` and ``totals`` once the whole dump has: until then a
    dump does not exist. HEADER and INDEX frames are returned like all others; unknown ancillary frames are checked and
    left out. Every method raises IntegrityError; after one the decoder is of no use.
    """

    def __init__(self, where: str = "") -> None:
        self.header: Optional[DumpHeader] = None
        self.trailer: Optional[fmt.Trailer] = None
        self.position = 0
        self._where = where
        self._parts: List[memoryview] = []
        self._available = 0
        self._needed = fmt.PREAMBLE_SIZE
        self._begun = False
        self._frame: Optional[fmt.FrameHeader] = None
        self._checker = StreamChecker(where)

    @property
    def totals(self) -> Optional[DumpTotals]:
        """What the trailer says, once it has been checked."""
        if self.trailer is None:
            return None
        return totals_of(self.trailer, self.position)

    def feed(self, data: Buffer) -> List[Frame]:
        """Take the next bytes of the dump; the frames they complete, in order.

        A mutable buffer may be reused by the caller afterwards: what is kept of it is copied.
        """
        if not isinstance(data, bytes):
            data = bytes(data)
        if data:
            self._parts.append(memoryview(data))
            self._available += len(data)
        frames: List[Frame] = []
        while self._available >= self._needed and self._available:
            frame = self._step()
            if frame is not None:
                frames.append(frame)
        return frames

    def finish(self) -> fmt.Trailer:
        """Say that no more bytes come; the trailer, or IntegrityError where the dump is cut off."""
        if self.trailer is None or self._available:
            raise fmt.damaged("it has no trailer: it is cut off or was never finished", self._where)
        return self.trailer

    def _step(self) -> Optional[Frame]:
        if self.trailer is not None:
            raise fmt.damaged("something follows its trailer", self._where)
        if not self._begun:
            fmt.check_preamble(self._take(fmt.PREAMBLE_SIZE), self._where)
            self._begun = True
            self._needed = fmt.FRAME_SIZE
            return None
        if self._frame is not None:
            return self._end_frame(self._frame)
        if self._needed == fmt.TRAILER_SIZE:
            self._take_trailer()
        elif bytes(self._peek(12)) == fmt.TRAILER_MAGIC:
            self._needed = fmt.TRAILER_SIZE
        else:
            self._begin_frame()
        return None

    def _begin_frame(self) -> None:
        offset = self.position
        head = self._take(fmt.FRAME_SIZE)
        self._frame = fmt.decode_frame_header(head, self._where)
        self._checker.add(self._frame, head, offset)
        self._needed = self._frame.stored

    def _end_frame(self, header: fmt.FrameHeader) -> Optional[Frame]:
        payload = self._take(header.stored)
        fmt.check_payload(header, payload, self._where)
        self._frame = None
        self._needed = fmt.FRAME_SIZE
        frame = Frame(header, payload)
        if header.type == fmt.HEADER:
            self.header = decode_header(decode_payload(frame, self._where), self._where)
        elif header.type == fmt.INDEX:
            self._checker.add_index(decode_records(frame, self._where))
        return frame if header.type in fmt.FRAME_NAMES else None

    def _take_trailer(self) -> None:
        trailer = fmt.decode_trailer(self._take(fmt.TRAILER_SIZE), self._where)
        self._checker.finish(trailer)
        self.trailer = trailer
        self._needed = 1

    def _peek(self, length: int) -> memoryview:
        if len(self._parts[0]) < length:
            self._parts = [memoryview(b"".join(self._parts))]
        return self._parts[0][:length]

    def _take(self, length: int) -> bytes:
        self.position += length
        self._available -= length
        taken: List[memoryview] = []
        used = 0
        while length:
            part = self._parts[used]
            if len(part) > length:
                taken.append(part[:length])
                self._parts[used] = part[length:]
                break
            taken.append(part)
            length -= len(part)
            used += 1
        del self._parts[:used]
        return bytes(taken[0]) if len(taken) == 1 else b"".join(taken)


class StreamChecker:
    """What all frames of a dump together must fulfil: numbering, order, index, digest. Fed with headers in order."""

    def __init__(self, where: str = "") -> None:
        self._where = where
        self._digest = hashlib.sha256()
        self._expected_index = hashlib.sha256()
        self._index = hashlib.sha256()
        self._frames = 0
        self._index_frames = 0
        self._index_offset = 0
        self._data_bytes = 0
        self._end = 0
        self._rank = -1

    def add(self, header: fmt.FrameHeader, head: bytes, offset: int) -> None:
        """The next frame's header, its 60 bytes, and where it begins."""
        if header.number != self._frames + self._index_frames:
            raise fmt.damaged("a frame is missing or out of its order", self._where)
        rank = _RANK.get(header.type, max(self._rank, 0))
        if rank < self._rank or (self._rank < 0) != (header.type == fmt.HEADER):
            raise fmt.damaged("a frame is not where its type belongs", self._where)
        self._rank = rank
        self._digest.update(head)
        self._end = offset + fmt.FRAME_SIZE + header.stored
        if header.type == fmt.INDEX:
            self._index_offset = self._index_offset or offset
            self._index_frames += 1
            return
        if self._index_frames:
            raise fmt.damaged("a frame follows the index", self._where)
        self._frames += 1
        self._expected_index.update(
            fmt.INDEX_ENTRY.pack(header.type, offset, header.stored, header.records, header.key, header.key2)
        )
        if header.type == fmt.DATA:
            self._data_bytes += header.raw - header.records * fmt.EXTENT_SIZE

    def add_index(self, records: List[bytes]) -> None:
        """The records of the next INDEX frame."""
        for record in records:
            self._index.update(record)

    def finish(self, trailer: fmt.Trailer) -> None:
        """Compare everything with the trailer."""
        if trailer.digest != self._digest.digest():
            raise fmt.damaged("its digest does not match: frames were altered, left out or added", self._where)
        if self._index.digest() != self._expected_index.digest():
            raise fmt.damaged("its index does not describe its frames", self._where)
        if (trailer.frames, trailer.index_frames, trailer.index_offset, trailer.data_bytes) != (
            self._frames,
            self._index_frames,
            self._index_offset,
            self._data_bytes,
        ):
            raise fmt.damaged("its trailer does not describe its frames", self._where)


def totals_of(trailer: fmt.Trailer, stored_bytes: int) -> DumpTotals:
    """The totals a trailer states, for a dump of ``stored_bytes`` bytes."""
    return DumpTotals(trailer.state_id.hex(), trailer.entries, trailer.objects, trailer.data_bytes, stored_bytes)


def overlay_content(
    objects: Iterator[bytes], content: Iterator[bytes], where: str = "", *, differences: bool = False
) -> Iterator[bytes]:
    """The final object records of one dump: its OBJECTS records, each PENDING one replaced by its CONTENT record.

    Both come sorted by number; that, and that no record stays pending, is checked (IntegrityError). With ``differences``
    (a dump above level 0) CONTENT may have records of files that the base has, too.
    """
    last = b""
    final = next(content, None)
    for record in objects:
        key = record[:8]
        if key <= last:
            raise fmt.damaged("its object records are not in order", where)
        last = key
        while differences and final is not None and final[:8] < key:
            yield final
            final = _next_in_order(content, final[:8], where)
        if final is not None and final[:8] <= key:
            if final[:8] != key:
                raise fmt.damaged("it has content of an object it does not have", where)
            yield final
            final = _next_in_order(content, key, where)
        else:
            if len(record) < fmt.OBJECT_SIZE or record[fmt.STATE_OFFSET] & fmt.STATE_PENDING:
                raise fmt.damaged("the content of an object never came", where)
            yield record
    if final is not None and not differences:
        raise fmt.damaged("it has content of an object it does not have", where)
    while final is not None:
        yield final
        final = _next_in_order(content, final[:8], where)


def _next_in_order(content: Iterator[bytes], last: bytes, where: str) -> Optional[bytes]:
    final = next(content, None)
    if final is not None and final[:8] <= last:
        raise fmt.damaged("its content records are not in order", where)
    return final
