"""A dump of which only the manifest travels: what a lazy move sends before its switch. Ships to servers."""

from __future__ import annotations

import dataclasses
import os

from voltool.agent.bases import BaseBook
from voltool.agent.dump import dump_home
from voltool.agent.host import HostState
from voltool.agent.manifest import manifest_of_dump
from voltool.events import Notice
from voltool.tree.state import StateKeeper
from voltool.volumes.records import VolumeHome
from voltool.wire import messages
from voltool.wire.conversation import Conversation


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
    return manifest_of_dump(lambda silent: dump_home(wanted, silent, host, home), conversation, keeper)


def _is_known(keeper: StateKeeper, state_id: str) -> bool:
    state = keeper.open(state_id)
    if state is None:
        return False
    state.close()
    return True
