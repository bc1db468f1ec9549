"""A dump of which only the manifest travels: what a lazy move sends before its switch. Ships to servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

from voltool.agent.bases import BaseBook
from voltool.agent.dump import dump_home
from voltool.agent.host import HostState
from voltool.events import Event, Notice
from voltool.tree.manifest import state_manifest
from voltool.tree.produce import owner_records
from voltool.tree.state import StateKeeper
from voltool.volumes.records import VolumeHome
from voltool.wire import messages
from voltool.wire.conversation import Buffer, Conversation


def dump_manifest(
    step: messages.StartDump, conversation: Conversation, host: HostState, home: VolumeHome
) -> messages.Message:
    """The conversation of `StartDump` with ``manifest_only``. The caller holds the volume's lock. What was dumped before is not
    read again: the newest state that is known here is the base."""
    keeper = StateKeeper(os.path.join(home.area, b"states"))
    newest = BaseBook(home.area).newest()
    base = newest.state_id if newest is not None and _is_known(keeper, newest.state_id) else None
    if base is None:
        message = f"{home.record.name}: no state of the volume is known here: every file is read first"
        conversation.report(Notice("info", message))
    wanted = dataclasses.replace(step, base_state_id=base, level=9 if base else 0, codec="none", manifest_only=False)
    reply = dump_home(wanted, _WithoutData(conversation), host, home)
    if isinstance(reply, messages.DumpReply):
        state = keeper.open(reply.result.totals.state_id)
        assert state is not None
        with contextlib.closing(state):
            owners = owner_records(record[12:20] for record in state.objects)
            for data in state_manifest(reply.result.header, state, keeper, owners):
                conversation.send_data(data)
        conversation.send(messages.EndOfData())
    return reply


def _is_known(keeper: StateKeeper, state_id: str) -> bool:
    state = keeper.open(state_id)
    if state is None:
        return False
    state.close()
    return True


class _WithoutData:
    """A conversation in which the data of the dump goes nowhere."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def send(self, message: messages.Message) -> None:
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
