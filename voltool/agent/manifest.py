"""Receives the base's manifest from the CLI where this host has no home stamps for it. Ships to servers.

The manifest comes as a dump without data: objects, entries and the chunk hashes of large files. It becomes a state without
home stamps: objects are matched by path, read and hashed; only differences travel.
"""

from __future__ import annotations

from typing import Optional

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import FrameDecoder, decode_records
from voltool.errors import AgentError, IntegrityError
from voltool.model import Consistency, DumpHeader, Epoch
from voltool.tree.apply.owners import Owners
from voltool.tree.manifest import ManifestTaker, state_manifest
from voltool.tree.state import BaseState, StateKeeper, StateWriter
from voltool.wire import messages
from voltool.wire.conversation import Conversation


def receive_manifest(
    conversation: Conversation, keeper: StateKeeper, state_id: str, owners: Optional[Owners] = None
) -> BaseState:
    """Read data frames up to EndOfData into a state; IntegrityError unless it is the state asked for. ``owners`` learns the
    names that come with it."""
    state = keeper.create("manifest")
    try:
        return _receive(conversation, keeper, state, state_id, owners)
    finally:
        state.abandon()


def _receive(
    conversation: Conversation, keeper: StateKeeper, state: StateWriter, state_id: str, owners: Optional[Owners]
) -> BaseState:
    decoder = FrameDecoder("the manifest from the store")
    hasher = fmt.StateHasher()
    taker = ManifestTaker(keeper, state, hasher)
    while True:
        received = conversation.receive()
        if isinstance(received, messages.EndOfData):
            break
        if not isinstance(received, (bytes, bytearray, memoryview)):
            raise AgentError("the manifest of the base did not come")
        for frame in decoder.feed(received):
            if frame.header.type in _RECORDS:
                taker.take(frame.header.type, decode_records(frame))
            elif frame.header.type == fmt.OWNERS and owners is not None:
                owners.learn(decode_records(frame))
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


def send_manifest(conversation: Conversation, state: BaseState, keeper: StateKeeper, tool_version: str) -> None:
    """Give a kept state's manifest away, as data frames (`EndOfData` is the caller's)."""
    header = DumpHeader(
        dump_id="0" * 32,
        volume_uuid="0" * 32,
        volume_name="",
        level=0,
        sequence=0,
        epoch=Epoch(0, "", ""),
        clone_time_ns=0,
        boot_id="",
        host="",
        driver="",
        consistency=Consistency.LIVE,
        source_path=b"",
        tool_version=tool_version,
    )
    for data in state_manifest(header, state, keeper):
        conversation.send_data(data)


_RECORDS = (fmt.OBJECTS, fmt.ENTRIES, fmt.CHUNKS)
