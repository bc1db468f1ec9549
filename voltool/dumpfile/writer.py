"""Writes a dump front to back: frames with numbers and checksums, the index, the trailer, the state id.

Knows nothing of where the bytes go: ``sink`` is called with them in order. Records must come sorted and are checked.
Part of what is shipped to servers.
"""

from __future__ import annotations

import hashlib
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence

from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.header import encode_header
from voltool.model import DumpHeader, DumpTotals

#: Index entries kept before they are packed to bytes that a frame can take.
_INDEX_PER_FRAME = fmt.TARGET_RAW // (fmt.INDEX_ENTRY_SIZE + 4)


class PackedFrame(NamedTuple):
    """A frame's payload ready to be written: compressed elsewhere (a worker), numbered here. The payload may be a view of memory
    that is used again: who takes it writes it or copies it at once."""

    type: int
    codec: int
    raw: int
    records: int
    key: int
    key2: int
    payload: codecs.Buffer


def pack_frame(kind: int, raw: codecs.Buffer, records: int, codec: int, key: int = 0, key2: int = 0) -> PackedFrame:
    """Compress ``raw`` for a frame of type ``kind``."""
    used, stored = codecs.compress(raw, codec)
    return PackedFrame(kind, used, len(raw), records, key, key2, stored)


class DumpWriter:
    """One dump: ``begin``, ``owners``, ``objects``, ``entries``, any number of ``frame`` / ``content``, ``finish``.

    The state id is given to ``finish`` by the caller, who alone knows the complete manifest (a dump above level 0 holds
    only differences).
    """

    def __init__(self, sink: Callable[[codecs.Buffer], None], codec: int) -> None:
        self._sink = sink
        self._codec = codec
        self._digest = hashlib.sha256()
        self._index = bytearray()
        self._index_entries = 0
        self._frames = 0
        self.stored_bytes = 0
        self.data_bytes = 0

    def begin(self, header: DumpHeader) -> None:
        """Write preamble and header."""
        self._emit(fmt.encode_preamble())
        raw = encode_header(header)
        self.frame(pack_frame(fmt.HEADER, raw, 0, fmt.CODEC_NONE))

    def owners(self, records: Iterable[bytes]) -> None:
        """Write the owner table."""
        self.records(fmt.OWNERS, sorted(records), key_of=None)

    def objects(self, records: Iterable[bytes]) -> None:
        """Write the object records known before data: sorted by number; tombstones allowed above level 0."""
        self.records(fmt.OBJECTS, records, key_of=_first_number)

    def entries(self, records: Iterable[bytes]) -> None:
        """Write the entry records, sorted."""
        self.records(fmt.ENTRIES, records, key_of=_first_number)

    def content(self, records: Sequence[bytes]) -> None:
        """Write final object records of a batch, after its data."""
        self.records(fmt.CONTENT, records, key_of=_first_number)

    def chunks(self, records: Sequence[bytes]) -> None:
        """Write chunk-hash records of the data before."""
        self.records(fmt.CHUNKS, records, key_of=_first_number)

    def records(self, kind: int, records: Iterable[bytes], key_of: Optional[Callable[[bytes], int]]) -> None:
        """Write records as frames of type ``kind``, some 1 MiB each."""
        batch: List[bytes] = []
        size = 0
        for record in records:
            if size + len(record) > fmt.TARGET_RAW and batch:
                self._record_frame(kind, batch, key_of)
                batch, size = [], 0
            batch.append(record)
            size += len(record) + 4
        if batch:
            self._record_frame(kind, batch, key_of)

    def _record_frame(self, kind: int, batch: List[bytes], key_of: Optional[Callable[[bytes], int]]) -> None:
        key = key_of(batch[0]) if key_of else 0
        self.frame(pack_frame(kind, fmt.pack_records(batch), len(batch), self._codec, key))

    def frame(self, packed: PackedFrame) -> None:
        """Write one frame as it is."""
        number = self._frames
        head = fmt.encode_frame_header(
            packed.type, packed.codec, packed.payload, packed.raw, packed.records, number, packed.key, packed.key2
        )
        self._digest.update(head)
        if packed.type != fmt.INDEX:
            self._note(packed, self.stored_bytes)
        self._frames += 1
        self._emit(head)
        self._emit(packed.payload)
        if packed.type == fmt.DATA:
            self.data_bytes += packed.raw - packed.records * fmt.EXTENT_SIZE

    def _note(self, packed: PackedFrame, offset: int) -> None:
        self._index += fmt.INDEX_ENTRY.pack(
            packed.type, offset, len(packed.payload), packed.records, packed.key, packed.key2
        )
        self._index_entries += 1

    def finish(self, state_id: str, objects: int, entries: int) -> DumpTotals:
        """Write index and trailer; the totals of the finished dump."""
        frames = self._frames
        index_offset = self.stored_bytes
        index = memoryview(bytes(self._index))
        step = _INDEX_PER_FRAME * fmt.INDEX_ENTRY_SIZE
        for at in range(0, len(index), step):
            part = index[at : at + step]
            entries_in_part = [
                bytes(part[i : i + fmt.INDEX_ENTRY_SIZE]) for i in range(0, len(part), fmt.INDEX_ENTRY_SIZE)
            ]
            self.frame(pack_frame(fmt.INDEX, fmt.pack_records(entries_in_part), len(entries_in_part), self._codec))
        trailer = fmt.Trailer(
            state_id=bytes.fromhex(state_id),
            objects=objects,
            entries=entries,
            data_bytes=self.data_bytes,
            frames=frames,
            index_offset=index_offset,
            index_frames=self._frames - frames,
            reserved=0,
            digest=self._digest.digest(),
        )
        self._emit(fmt.encode_trailer(trailer))
        return DumpTotals(state_id, entries, objects, self.data_bytes, self.stored_bytes)

    def _emit(self, data: codecs.Buffer) -> None:
        self._sink(data)
        self.stored_bytes += len(data)


def _first_number(record: bytes) -> int:
    return int.from_bytes(record[:8], "big")
