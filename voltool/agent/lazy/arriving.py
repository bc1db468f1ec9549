"""The manifest of a lazy replica arrives: it becomes a state in the staging, and the index that files are found by. Ships to
servers.

The staging is the one in which a catch-up replica's first copy would be put together. No `held.json` says that it holds the
state: it knows it.
"""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, List, Optional, Tuple, Union

from voltool.agent.lazy.index import TreeIndex
from voltool.agent.lazy.indexing import IndexMaker
from voltool.agent.lazy.store import INDEX
from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import Frame, FrameDecoder, decode_payload, decode_records
from voltool.errors import IntegrityError
from voltool.tree.apply.files import translate
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.owners import Owners
from voltool.tree.manifest import ManifestTaker
from voltool.tree.packed import entries_in, objects_in
from voltool.tree.recordfile import Block, RecordFile, RecordFileWriter

_CHUNKS = b"lazy-chunks"


class ManifestArrival:
    """`feed` it the stream (`tree.manifest`, with OWNERS), then `finish`; always `close` it. Methods raise VoltoolError."""

    def __init__(self, held: HeldTree) -> None:
        self._held = held
        self._state = held.keeper.create("lazy")
        self._hasher = fmt.StateHasher()
        self._taker = ManifestTaker(held.keeper, self._state, self._hasher)
        self._decoder = FrameDecoder("the manifest of the replica")
        self._chunks_path = os.path.join(held.staging.path, _CHUNKS)
        self._chunks = RecordFileWriter(self._chunks_path, fmt.CHUNKS)
        self._index = IndexMaker(os.path.join(held.staging.path, INDEX))
        self._owners: List[bytes] = []
        self.state_id = ""

    def feed(self, data: Union[bytes, bytearray, memoryview]) -> None:
        """The next bytes of the stream."""
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except OSError as error:
            raise translate(error, "the manifest of a replica") from error

    def _take(self, frame: Frame) -> None:
        head = frame.header
        if head.type == fmt.OWNERS:
            self._owners += decode_records(frame)
        elif head.type == fmt.CHUNKS:
            records = decode_records(frame)
            self._chunks.extend(records)
            self._taker.take(fmt.CHUNKS, records)
        elif head.type in (fmt.OBJECTS, fmt.ENTRIES) and head.records:
            raw = decode_payload(frame)
            block = Block(int.from_bytes(raw[4:12], "big"), head.records, raw, frame.payload, head.codec)
            if head.type == fmt.OBJECTS:
                objects = objects_in(raw, head.records)
                self._taker.take_objects(block, objects)
                self._index.objects(raw, objects)
            else:
                entries = entries_in(raw, head.records)
                self._taker.take_entries(block)
                self._index.entries(raw, entries)

    def finish(self, state_id: str = "") -> int:
        """All has come: the index is made. How many entries it has. IntegrityError where it is not that state (empty:
        whichever it is), or no tree."""
        try:
            self._decoder.finish()
            self._taker.finish()
            self.state_id = self._hasher.state_id()
            if state_id not in ("", self.state_id):
                raise IntegrityError("the manifest is not that of the volume", why="its state id differs")
            self._held.learn_owners(Owners(numeric=True), self._owners)
            self._state.publish(self.state_id, self._taker.next_number)
            self._chunks.close()
            self._build()
        except OSError as error:
            raise translate(error, "the manifest of a replica") from error
        return self._hasher.entries

    def _build(self) -> None:
        chunks = RecordFile(self._chunks_path)
        try:
            self._index.finish(self.state_id, self._taker.next_number, chunks, _check_all)
        finally:
            chunks.close()
        os.unlink(self._chunks_path)

    def close(self) -> None:
        """Idempotent."""
        self._state.abandon()
        self._chunks.abandon()
        self._index.close()


def _check_all(found: TreeIndex) -> None:
    """It is a tree, and the hashes of chunks are what the state's id vouches for; or nothing is mounted."""
    for position in found.all_directories:
        if found.links(position) > 1:
            raise fmt.damaged("a directory has more than one name")
        found.path(position)
    for position in found.all_large:
        record = found.record(position)
        unread = record.state & fmt.STATE_UNKNOWN and record.content == fmt.NO_HASH
        if not unread and fmt.content_hash(record.size, _root_runs(found, position, record.size)) != record.content:
            raise fmt.damaged(f"the hashes of object {record.number} do not match")


def _root_runs(found: TreeIndex, position: int, size: int) -> Iterator[Tuple[bytes, int]]:
    at = 0
    for first, count, base in found.runs(position):
        yield fmt.ZERO_CHUNK, first - at
        hashes = found.hashes(base, count)
        for chunk in range(count):
            yield hashes[32 * chunk : 32 * chunk + 32], 1
        at = first + count
    yield fmt.ZERO_CHUNK, -(-size // fmt.CHUNK_SIZE) - at


def open_index(held: HeldTree, state_id: str) -> Optional[TreeIndex]:
    """The index of the state, where its manifest has come; None: it has to come (again)."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = TreeIndex(os.path.join(held.staging.path, INDEX))
        if found.state_id == state_id:
            return found
    return None
