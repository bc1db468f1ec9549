"""Receives the base's manifest from the CLI where this host has no home stamps for it. Ships to servers.

The manifest comes as a dump without data: objects, entries and the chunk hashes of large files. It becomes a state without
home stamps: objects are matched by path, read and hashed; only differences travel.
"""

from __future__ import annotations

from typing import Dict, List

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import FrameDecoder, decode_records
from voltool.errors import AgentError, IntegrityError
from voltool.tree.blocks import block_file_name, write_chunk_file
from voltool.tree.stamps import NO_LAYOUT
from voltool.tree.state import BaseState, StateKeeper, StateWriter
from voltool.wire import messages
from voltool.wire.conversation import Conversation


def receive_manifest(conversation: Conversation, keeper: StateKeeper, state_id: str) -> BaseState:
    """Read data frames up to EndOfData into a state; IntegrityError unless it is the state asked for."""
    state = keeper.create("manifest")
    decoder = FrameDecoder("the manifest from the store")
    hasher = fmt.StateHasher()
    taker = _Taker(keeper, state, hasher)
    while True:
        received = conversation.receive()
        if isinstance(received, messages.EndOfData):
            break
        if not isinstance(received, (bytes, bytearray, memoryview)):
            raise AgentError("the manifest of the base did not come")
        for frame in decoder.feed(received):
            taker.take(frame.header.type, decode_records(frame) if frame.header.type in _RECORDS else [])
    decoder.finish()
    taker.finish()
    if hasher.state_id() != state_id:
        raise IntegrityError(
            "the base's manifest is not what it should be",
            why="its state id differs",
            remedy="voltool verify, then a level 0 dump",
        )
    state.publish(state_id, taker.next_number)
    base = keeper.open(state_id)
    assert base is not None
    return base


_RECORDS = (fmt.OBJECTS, fmt.ENTRIES, fmt.CHUNKS)


class _Taker:
    """Puts the frames' records where they belong."""

    def __init__(self, keeper: StateKeeper, state: StateWriter, hasher: fmt.StateHasher) -> None:
        self._keeper = keeper
        self._state = state
        self._hasher = hasher
        self._large: Dict[int, bytes] = {}
        self._current = 0
        self._runs: List[tuple[int, List[bytes], bytes]] = []
        self.next_number = 2

    def take(self, kind: int, records: List[bytes]) -> None:
        """The records of one frame."""
        for record in records:
            if kind == fmt.OBJECTS:
                self._state.objects.add(record)
                self._hasher.add_object(record)
                self.next_number = max(self.next_number, int.from_bytes(record[:8], "big") + 1)
                if int.from_bytes(record[20:28], "big") > fmt.CHUNK_SIZE:
                    self._large[int.from_bytes(record[:8], "big")] = record
            elif kind == fmt.ENTRIES:
                self._state.entries.add(record)
                self._hasher.add_entry(record)
            else:
                self._take_chunks(record)

    def _take_chunks(self, record: bytes) -> None:
        number, first, chunks = fmt.decode_chunk_run(record)
        if number != self._current:
            self.finish()
            self._current = number
        self._runs.append((first, chunks, b""))

    def finish(self) -> None:
        """Write the chunk hashes of the last large file."""
        record = self._large.get(self._current)
        if record is not None and self._runs:
            decoded = fmt.decode_object(record)
            name = block_file_name(self._current, decoded.content, NO_LAYOUT)
            write_chunk_file(self._keeper.blocks + b"/" + name, decoded.size, self._runs)
            self._state.large.append(name)
        self._runs = []
