"""A complete manifest as a dump without data: objects, entries and the chunk hashes of large files. Ships to servers.

It tells a host that has no home stamps for a state what that state is: objects are then matched by path, read and hashed, and
only differences travel.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.codec import default_codec
from voltool.dumpfile.writer import DumpWriter, PackedFrame
from voltool.model import DumpHeader
from voltool.tree.blocks import BlockTable, block_file_name, block_file_number, write_chunk_file
from voltool.tree.packed import ObjectColumns
from voltool.tree.recordfile import Block
from voltool.tree.stamps import NO_LAYOUT
from voltool.tree.state import BaseState, StateKeeper, StateWriter

#: Chunk hashes in one record.
_RUN_CHUNKS = 8192
#: Pieces of the stream that are given away together: two for each block, of up to 32 KiB.
_TOGETHER = 32


def manifest_stream(
    header: DumpHeader,
    objects: Iterable[bytes],
    entries: Iterable[bytes],
    chunks: Iterable[bytes],
    owners: Sequence[bytes] = (),
) -> Iterator[bytes]:
    """The bytes, level 0 in form. The records come sorted and final; the state id is computed as they pass. ``owners``: names
    of users and groups, where the receiver is to set owners."""
    waiting: List[bytes] = []
    hasher = fmt.StateHasher()
    writer = _begin(waiting, header, owners)
    for kind, records in (
        (fmt.OBJECTS, _passing(objects, hasher.add_object)),
        (fmt.ENTRIES, _passing(entries, hasher.add_entry)),
        (fmt.CHUNKS, chunks),
    ):
        for batch in _batches(records):
            writer.records(kind, batch, key_of=_number)
            yield from _taken(waiting)
    writer.finish(hasher.state_id(), hasher.objects, hasher.entries)
    yield from _taken(waiting)


def state_manifest(
    header: DumpHeader, state: BaseState, keeper: StateKeeper, owners: Sequence[bytes] = ()
) -> Iterator[bytes]:
    """The manifest of a state that this host keeps, with its blocks as they lie there. ``owners`` as of `manifest_stream`."""
    waiting: List[bytes] = []
    hasher = fmt.StateHasher()
    writer = _begin(waiting, header, owners)
    for kind, file, see in (
        (fmt.OBJECTS, state.objects, hasher.add_objects),
        (fmt.ENTRIES, state.entries, hasher.add_entries),
    ):
        for block in file.blocks():
            see(block.raw, block.records)
            writer.frame(PackedFrame(kind, block.codec, len(block.raw), block.records, block.first, 0, block.payload))
            if len(waiting) >= _TOGETHER:
                yield from _taken(waiting)
    for batch in _batches(_kept_chunks(state, keeper)):
        writer.records(fmt.CHUNKS, batch, key_of=_number)
        yield from _taken(waiting)
    writer.finish(hasher.state_id(), hasher.objects, hasher.entries)
    yield from _taken(waiting)


def _begin(waiting: List[bytes], header: DumpHeader, owners: Sequence[bytes]) -> DumpWriter:
    writer = DumpWriter(lambda data: waiting.append(bytes(data)), default_codec())
    writer.begin(replace(header, level=0, base_state_id=None, base_dump_id=None))
    if owners:
        writer.owners(list(owners))
    return writer


def _number(record: bytes) -> int:
    return int.from_bytes(record[:8], "big")


def chunk_runs(number: int, hashes: Dict[int, bytes]) -> Iterator[bytes]:
    """CHUNKS records for the chunk hashes of one object, by index."""
    indexes = sorted(hashes)
    start = 0
    for at in range(1, len(indexes) + 1):
        if at == len(indexes) or indexes[at] != indexes[at - 1] + 1 or at - start >= _RUN_CHUNKS:
            yield fmt.encode_chunk_run(number, indexes[start], [hashes[index] for index in indexes[start:at]])
            start = at


class ManifestTaker:
    """Puts records of a manifest into a state in the making; `finish` when all have come. ``next_number``: see `StateWriter`."""

    def __init__(self, keeper: StateKeeper, state: StateWriter, hasher: fmt.StateHasher) -> None:
        self._keeper = keeper
        self._state = state
        self._hasher = hasher
        self._large: Dict[int, bytes] = {}
        self._current = 0
        self._runs: List[Tuple[int, List[bytes], bytes]] = []
        self.next_number = 2

    def take(self, kind: int, records: Iterable[bytes]) -> None:
        """Records of one kind (OBJECTS, ENTRIES or CHUNKS), in order."""
        for record in records:
            if kind == fmt.OBJECTS:
                self._take_object(record)
            elif kind == fmt.ENTRIES:
                self._state.entries.add(record)
                self._hasher.add_entry(record)
            else:
                self._take_chunks(record)

    def take_objects(self, block: Block, objects: ObjectColumns) -> None:
        """All objects of a block, in order; ``objects``: what they were found to be."""
        self._state.objects.add_block(block)
        self._hasher.add_objects(block.raw, block.records)
        self.next_number = max(self.next_number, max(objects.numbers, default=0) + 1)
        if max(objects.sizes, default=0) <= fmt.CHUNK_SIZE:
            return
        ends = (*objects.starts[1:], len(block.raw))
        for number, size, start, end in zip(objects.numbers, objects.sizes, objects.starts, ends):
            if size > fmt.CHUNK_SIZE:
                self._large[number] = block.raw[start + 4 : end]

    def take_entries(self, block: Block) -> None:
        """All entries of a block, in order."""
        self._state.entries.add_block(block)
        self._hasher.add_entries(block.raw, block.records)

    def _take_object(self, record: bytes) -> None:
        number = int.from_bytes(record[:8], "big")
        self._state.objects.add(record)
        self._hasher.add_object(record)
        self.next_number = max(self.next_number, number + 1)
        if int.from_bytes(record[20:28], "big") > fmt.CHUNK_SIZE:
            self._large[number] = record

    def _take_chunks(self, record: bytes) -> None:
        number, first, chunks = fmt.decode_chunk_run(record)
        if number != self._current:
            self.finish()
            self._current = number
        self._runs.append((first, chunks, b""))

    def finish(self) -> None:
        """Write the chunk hashes of the last large file; idempotent."""
        record = self._large.get(self._current)
        if record is not None and self._runs:
            decoded = fmt.decode_object(record)
            name = block_file_name(self._current, decoded.content, NO_LAYOUT)
            write_chunk_file(os.path.join(self._keeper.blocks, name), decoded.size, self._runs)
            self._state.large.append(name)
        self._runs = []


def _kept_chunks(state: BaseState, keeper: StateKeeper) -> Iterator[bytes]:
    numbers = sorted(block_file_number(name) for name in state.large())
    if not numbers:
        return
    layouts = _layouts(state)
    for record in state.objects.near(numbers):
        if int.from_bytes(record[20:28], "big") <= fmt.CHUNK_SIZE:
            continue
        known = fmt.decode_object(record)
        name = block_file_name(known.number, known.content, layouts.get(known.number, NO_LAYOUT))
        table = BlockTable.open(os.path.join(keeper.blocks, name))
        try:
            hashes = {index: table.chunk(index)[0] for index in range(table.chunks)}
        finally:
            table.close()
        yield from chunk_runs(
            known.number, {index: value for index, value in hashes.items() if value != fmt.ZERO_CHUNK}
        )


def _layouts(state: BaseState) -> Dict[int, bytes]:
    """The layout digests of large files, which are part of their block files' names."""
    if state.stamps is None:
        return {}
    return {
        int.from_bytes(home[8:16], "big"): home[-8:]
        for home in state.stamps
        if int.from_bytes(home[28:36], "big") > fmt.CHUNK_SIZE
    }


def _passing(records: Iterable[bytes], see: Callable[[bytes], None]) -> Iterator[bytes]:
    for record in records:
        see(record)
        yield record


def _taken(waiting: List[bytes]) -> Iterator[bytes]:
    if waiting:
        yield b"".join(waiting)
        waiting.clear()


def _batches(records: Iterable[bytes]) -> Iterator[List[bytes]]:
    batch: List[bytes] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record) + 4
        if size >= fmt.TARGET_RAW // 2:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
