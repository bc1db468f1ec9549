"""Receives the base's manifest from the CLI where this host has no home stamps for it. Ships to servers.

The manifest comes as a dump without data: objects, entries and the chunk hashes of large files. It becomes a state without
home stamps: objects are matched by path, read and hashed; only differences travel.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any, Callable, Iterable, Optional

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import FrameDecoder, decode_records
from voltool.errors import AgentError, IntegrityError
from voltool.events import Event
from voltool.model import Consistency, DumpHeader, Epoch
from voltool.tree.apply.owners import Owners
from voltool.tree.manifest import ManifestTaker, state_manifest
from voltool.tree.produce import owner_records
from voltool.tree.state import BaseState, StateKeeper, StateWriter
from voltool.wire import messages
from voltool.wire.conversation import Buffer, Conversation
from voltool.wire.messages import Message


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


#: Of what has only the form of a dump: it belongs to no volume.
NO_DUMP = DumpHeader(
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
)


def send_manifest(conversation: Conversation, state: BaseState, keeper: StateKeeper, tool_version: str) -> None:
    """Give a kept state's manifest away, as data frames (`EndOfData` is the caller's)."""
    for data in state_manifest(replace(NO_DUMP, tool_version=tool_version), state, keeper):
        conversation.send_data(data)


def manifest_of_dump(
    make: Callable[[Conversation], Message], conversation: Conversation, keeper: StateKeeper
) -> Message:
    """Make a dump of which only the manifest travels, with the names of owners: what it left in ``keeper`` is sent in the place
    of its data, then `EndOfData`. What ``make`` returns."""
    reply = make(_WithoutData(conversation))
    if isinstance(reply, messages.DumpReply):
        state = keeper.open(reply.result.totals.state_id)
        assert state is not None
        with contextlib.closing(state):
            owners = owner_records(_owners(state))
            for data in state_manifest(reply.result.header, state, keeper, owners):
                conversation.send_data(data)
        conversation.send(messages.EndOfData())
    return reply


def _owners(state: BaseState) -> Iterable[bytes]:
    """(uid, gid) packed, of all objects. Home stamps, which have them too, are looked at many at a time; where an object has no
    stamp (it could not be read) they do not say all."""
    if state.stamps is not None and state.stamps.count == state.objects.count():
        return state.stamps.owners(without=frozenset())
    return (record[12:20] for record in state.objects)


class _WithoutData:
    """A conversation in which the data of the dump goes nowhere."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def send(self, message: Message) -> None:
        """See `Conversation`."""
        if not isinstance(message, messages.EndOfData):
            self._conversation.send(message)

    def send_data(self, data: Buffer) -> None:
        """See `Conversation`."""

    def receive(self) -> Any:
        """See `Conversation`."""
        return self._conversation.receive()

    def report(self, event: Event) -> None:
        """See `Conversation`."""
        self._conversation.report(event)


_RECORDS = (fmt.OBJECTS, fmt.ENTRIES, fmt.CHUNKS)
