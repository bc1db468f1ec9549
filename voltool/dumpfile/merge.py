"""Makes one complete level 0 dump out of a chain, as a stream of bytes; memory is flat.

Frames of which everything is wanted pass through as they are stored; of others the wanted objects are packed anew; large
files with patches are composed and their content hash is checked. What else a receiver must check (checksums, hashes of
what passes through, the state id) it checks itself: apply and verify do. Part of what is shipped to servers.
"""

from __future__ import annotations

import dataclasses
import heapq
import stat
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union, cast

from voltool import __version__
from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.compose import ChunkTable, Piece, compose, cut_chunks, hash_chunk
from voltool.dumpfile.frames import Frame, FrameDecoder, decode_data, decode_records
from voltool.dumpfile.plan import MergePlan, selected_entries, selected_objects
from voltool.dumpfile.selection import Chosen
from voltool.dumpfile.writer import DumpWriter, PackedFrame, pack_frame

_ALL = 1 << 64
#: Hashes in one CHUNKS record: some 512 KiB.
_HASHES_PER_RUN = 1 << 14


class _Raw(NamedTuple):
    """A DATA frame that passes through."""

    first: int
    frame: Frame


class _Small(NamedTuple):
    """One small file out of a frame that does not."""

    first: int
    extents: List[fmt.Extent]
    parts: List[memoryview]


class _Composed(NamedTuple):
    """A large file to be put together from several dumps."""

    first: int


_Item = Union[_Raw, _Small, _Composed]


class Merge:
    """A merge, planned: constructing it reads all manifests and checks them (IntegrityError).

    ``total_bytes`` and ``total_files`` are what `stream` will send (files by their size); ``done_bytes`` and
    ``done_files`` say how far it is. Data of objects up to ``resume_after`` is left out, and these objects' records are
    final in OBJECTS. With a ``selection`` the stream is a complete dump of that part, with a state id of its own. With a
    ``dump_id`` it is a dump in its own right, to be kept; without, it has the newest dump's id, for whoever applies it.
    """

    def __init__(
        self, chain: Chain, *, resume_after: int = 0, selection: Optional[Chosen] = None, dump_id: str = ""
    ) -> None:
        self._chain = chain
        self._header = dataclasses.replace(chain.header, level=0, base_state_id=None, base_dump_id=None)
        if dump_id:
            self._header = dataclasses.replace(self._header, dump_id=dump_id, tool_version=__version__)
        self._resume_after = resume_after
        self._selection = selection
        self._plan: Optional[MergePlan] = None
        self.done_bytes = 0
        self.done_files = 0
        self._completed_bytes = 0
        self._codec = codecs.default_codec()
        if len(chain.readers) == 1 and not resume_after and selection is None and not dump_id:
            self.total_bytes = chain.totals.data_bytes
            self.total_files = chain.totals.entries
            return
        plan = self._plan = MergePlan(chain, resume_after, selection)
        self.total_bytes = plan.content_bytes
        self.total_files = plan.content_files

    def stream(self) -> Iterator[bytes]:
        """The bytes of the merged dump, in order. Raises IntegrityError in the middle where a dump turns out damaged;
        what came before is then without a trailer and thus no dump."""
        if self._plan is None:
            return self._copy()
        return self._write(self._plan)

    def _copy(self) -> Iterator[bytes]:
        decoder = FrameDecoder(self._chain.newest.name)
        for data in self._chain.newest.raw():
            for frame in decoder.feed(data):
                if frame.header.type == fmt.DATA:
                    self.done_bytes += _content_bytes(frame.header)
                elif frame.header.type == fmt.CONTENT:
                    self.done_files += frame.header.records
            yield data
        decoder.finish()

    def _write(self, plan: MergePlan) -> Iterator[bytes]:
        pieces: List[bytes] = []
        writer = DumpWriter(lambda data: pieces.append(bytes(data)), self._codec)
        writer.begin(self._header)
        writer.owners(self._chain.owners())
        for packed in self._frames(plan):
            writer.frame(packed)
            yield from pieces
            pieces.clear()
        writer.finish(plan.state_id, plan.objects, plan.entries)
        yield from pieces

    def _frames(self, plan: MergePlan) -> Iterator[PackedFrame]:
        objects = selected_objects(self._chain, self._selection)
        yield from pack_records(fmt.OBJECTS, (self._before_data(record) for record in objects), self._codec)
        yield from pack_records(fmt.ENTRIES, selected_entries(self._chain, self._selection), self._codec)
        yield from _DataPhase(self, self._chain, plan, self._finals(), self._codec).frames()

    def _before_data(self, record: bytes) -> bytes:
        if not _is_file(record) or int.from_bytes(record[:8], "big") <= self._resume_after:
            return record
        at = fmt.STATE_OFFSET
        return record[:at] + bytes((record[at] | fmt.STATE_PENDING,)) + record[at + 1 :]

    def _finals(self) -> Iterator[bytes]:
        for record in selected_objects(self._chain, self._selection):
            if _is_file(record) and int.from_bytes(record[:8], "big") > self._resume_after:
                yield record

    def sent_data(self, length: int) -> None:
        """Count bytes of content of files that are not complete yet."""
        self.done_bytes += length

    def completed(self, record: bytes) -> None:
        """Count a file that is complete."""
        final = fmt.decode_object(record)
        if final.size and final.content != fmt.NO_HASH:
            self._completed_bytes += final.size
            self.done_files += 1
        self.done_bytes = self._completed_bytes


def merge(chain: Chain, *, resume_after: int = 0, selection: Optional[Chosen] = None) -> Iterator[bytes]:
    """The bytes of one complete level 0 dump out of the chain; see `Merge`."""
    return Merge(chain, resume_after=resume_after, selection=selection).stream()


def pack_records(kind: int, records: Iterable[bytes], codec: int) -> Iterator[PackedFrame]:
    """Records as frames of some 1 MiB, one in memory at a time."""
    batch: List[bytes] = []
    size = 0
    for record in records:
        if batch and size + len(record) > fmt.TARGET_RAW:
            yield _pack_batch(kind, batch, codec)
            batch, size = [], 0
        batch.append(record)
        size += len(record) + 4
    if batch:
        yield _pack_batch(kind, batch, codec)


def _pack_batch(kind: int, batch: List[bytes], codec: int) -> PackedFrame:
    return pack_frame(kind, fmt.pack_records(batch), len(batch), codec, int.from_bytes(batch[0][:8], "big"))


class _DataPhase:
    """DATA, CHUNKS and CONTENT of a merge, in the order of object numbers."""

    def __init__(self, merge_: Merge, chain: Chain, plan: MergePlan, finals: Iterator[bytes], codec: int) -> None:
        self._merge = merge_
        self._chain = chain
        self._plan = plan
        self._finals = _Ahead(finals)
        self._chunks = _Ahead(heapq.merge(*[self._chunk_records(dump) for dump in range(len(chain.readers))]))
        self._codec = codec
        self._extents: List[fmt.Extent] = []
        self._parts: List[memoryview] = []
        self._size = 0

    def frames(self) -> Iterator[PackedFrame]:
        """All frames. A batch ends when an item of another object comes that does not fit into it."""
        current = 0
        for item in self._items():
            joins = isinstance(item, _Small) and 0 < self._size < fmt.TARGET_RAW
            if item.first != current and not joins:
                yield from self._close(item.first)
            current = item.first
            if isinstance(item, _Small):
                self._add_small(item)
            elif isinstance(item, _Raw):
                header, payload = item.frame
                self._merge.sent_data(_content_bytes(header))
                yield PackedFrame(fmt.DATA, header.codec, header.raw, header.records, header.key, header.key2, payload)
            else:
                yield from self._composed(item.first)
        yield from self._close(_ALL)

    def _items(self) -> Iterator[_Item]:
        sources: List[Iterator[_Item]] = [self._items_of(dump) for dump in range(len(self._chain.readers))]
        sources.append(_Composed(number) for number in self._plan.composed)
        return heapq.merge(*sources, key=lambda item: item.first)

    def _items_of(self, dump: int) -> Iterator[_Item]:
        index = self._chain.readers[dump].index
        wanted, unwanted = self._plan.wanted[dump], self._plan.unwanted[dump]
        count = index.count(fmt.DATA)
        for nth in range(count):
            start = index.key_of(fmt.DATA, nth)
            stop = self._plan.last_number[dump] + 1 if nth + 1 == count else index.key_of(fmt.DATA, nth + 1)
            stop = max(stop, start + 1)
            if not wanted.any_in(start, stop):
                continue
            frame = self._chain.readers[dump].frame(index.position_of(fmt.DATA, nth))
            if unwanted.any_in(start, stop) or self._plan.elsewhere(dump, start, stop):
                yield from self._sift(dump, frame)
            else:
                yield _Raw(start, frame)

    def _sift(self, dump: int, frame: Frame) -> Iterator[_Item]:
        """The wanted objects of a frame that has, or may have, others too."""
        where = self._chain.readers[dump].name
        wanted = self._plan.wanted[dump]
        extents, raw = decode_data(frame, where)
        numbers = sorted({extent.number for extent in extents})
        if not numbers:
            return
        first, last = numbers[0], numbers[-1]
        if all(number in wanted for number in numbers) and not self._plan.elsewhere(dump, first, last + 1):
            yield _Raw(first, frame)
            return
        current: Optional[_Small] = None
        for extent, data in fmt.iter_extents_with_data(raw, extents):
            if current is None or extent.number != current.first:
                if current is not None and extent.number < current.first:
                    raise fmt.damaged("the objects in a data frame are not in order", where)
                if current is not None and current.first in wanted:
                    yield current
                current = _Small(extent.number, [], [])
            current.extents.append(extent)
            if extent.kind == fmt.EXTENT_DATA:
                current.parts.append(data)
        if current is not None and current.first in wanted:
            yield current

    def _add_small(self, item: _Small) -> None:
        size = sum(len(part) for part in item.parts) + len(item.extents) * fmt.EXTENT_SIZE
        if size > 2 * fmt.CHUNK_SIZE:
            raise fmt.damaged("a large file shares a data frame with others", self._chain.newest.name)
        self._extents += item.extents
        self._parts += item.parts
        self._size += size

    def _flush(self) -> Iterator[PackedFrame]:
        if self._extents:
            raw = fmt.encode_data(self._extents, cast("List[bytes]", self._parts))
            first = self._extents[0]
            self._merge.sent_data(len(raw) - len(self._extents) * fmt.EXTENT_SIZE)
            yield pack_frame(fmt.DATA, raw, len(self._extents), self._codec, first.number, first.offset)
            self._extents, self._parts, self._size = [], [], 0

    def _close(self, before: int) -> Iterator[PackedFrame]:
        """End the batch: what is packed, the chunk hashes and the final records of objects below ``before``."""
        yield from self._flush()
        yield from pack_records(fmt.CHUNKS, self._chunks.below(before), self._codec)
        yield from pack_records(fmt.CONTENT, self._completed(before), self._codec)

    def _completed(self, before: int) -> Iterator[bytes]:
        for record in self._finals.below(before):
            self._merge.completed(record)
            yield record

    def _chunk_records(self, dump: int) -> Iterator[bytes]:
        reader = self._chain.readers[dump]
        wanted = self._plan.wanted[dump]
        for position in reader.index.of_type(fmt.CHUNKS):
            for record in decode_records(reader.frame(position), reader.name):
                if int.from_bytes(record[:8], "big") in wanted:
                    yield record

    def _composed(self, number: int) -> Iterator[PackedFrame]:
        where = self._chain.newest.name
        record = self._chain.object(number)
        layers = self._chain.layers(self._chain.versions_of(number))
        if record is None or not layers:
            raise fmt.damaged("a file that was there before is gone now", where)
        table = ChunkTable(record.size)
        passed: List[Piece] = []
        pieces = _noting(compose(layers, number, record.size), passed)
        flags = fmt.EXTENT_FRESH
        for chunk in cut_chunks(pieces, record.size):
            if chunk.data is not None:
                table.set(chunk.first, hash_chunk(chunk.data))
            for extent, data in _as_extents(number, passed):
                if self._size + len(data) > fmt.TARGET_RAW + fmt.EXTENT_SIZE:
                    yield from self._flush()
                self._extents.append(extent._replace(flags=flags))
                self._parts.append(data)
                self._size += len(data) + fmt.EXTENT_SIZE
                flags = 0
            passed.clear()
        if table.content_hash() != record.content:
            raise fmt.damaged("the content of a file does not have its hash", where)
        yield from self._flush()
        runs = (fmt.encode_chunk_run(number, first, hashes) for first, hashes in table.runs(_HASHES_PER_RUN))
        yield from pack_records(fmt.CHUNKS, runs, self._codec)


class _Ahead:
    """An iterator of records, ascending by number, that can be taken up to a number."""

    def __init__(self, records: Iterator[bytes]) -> None:
        self._records = records
        self._next = next(records, None)

    def below(self, before: int) -> Iterator[bytes]:
        """The records of numbers below ``before`` that were not taken yet."""
        while self._next is not None and int.from_bytes(self._next[:8], "big") < before:
            record = self._next
            self._next = next(self._records, None)
            yield record


def _noting(pieces: Iterable[Piece], passed: List[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        passed.append(piece)
        yield piece


def _as_extents(number: int, pieces: Iterable[Piece]) -> Iterator[Tuple[fmt.Extent, memoryview]]:
    """Pieces as extents of at most TARGET_RAW bytes of data each."""
    for piece in pieces:
        if piece.data is None:
            yield fmt.Extent(number, piece.offset, piece.length, fmt.EXTENT_HOLE, 0), memoryview(b"")
            continue
        for at in range(0, piece.length, fmt.TARGET_RAW):
            data = piece.data[at : at + fmt.TARGET_RAW]
            yield fmt.Extent(number, piece.offset + at, len(data), fmt.EXTENT_DATA, 0), data


def _content_bytes(header: fmt.FrameHeader) -> int:
    return header.raw - header.records * fmt.EXTENT_SIZE


def _is_file(record: bytes) -> bool:
    return stat.S_ISREG(int.from_bytes(record[8:12], "big"))
