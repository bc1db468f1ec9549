"""The verb EstimateDump: what a dump against each of several bases would read now. Changes nothing on its host; ships there."""

from __future__ import annotations

import contextlib
import os
from typing import List, Optional

from voltool.agent.host import HostState
from voltool.agent.pace import Pace
from voltool.events import PhaseEnded, PhaseStarted
from voltool.spool import SortedSpool
from voltool.tree.estimate import differences
from voltool.tree.stamps import HomeStamps
from voltool.tree.state import BaseState, StateKeeper
from voltool.tree.walk import Walker
from voltool.volumes.mounts import nested_mounts
from voltool.volumes.records import VolumeHome, open_home
from voltool.volumes.traits import traits_of
from voltool.wire import messages
from voltool.wire.conversation import Conversation

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def estimate(request: messages.EstimateDump, conversation: Conversation, host: HostState) -> messages.EstimateReply:
    """Handle `EstimateDump`: the volume itself is walked, without a clone and without its lock. Raises NotFoundError, ..."""
    home = open_home(host.directory, request.uuid, request.path)
    record = home.record
    with contextlib.ExitStack() as stack:
        root = os.open(record.path, _DIRECTORY)
        stack.callback(os.close, root)
        stamps = _stamps(home, request.base_state_ids, stack) if traits_of(root).stable_inodes else []
        conversation.report(PhaseStarted(record.name, "scan"))
        pace = Pace(conversation, record.name, 0)
        inside = record.path.rstrip(b"/") + b"/"
        walk = Walker(
            root,
            stack.enter_context(SortedSpool(home.area)),
            live=True,
            excludes=record.excludes,
            mounts=frozenset(point[len(inside) :] for point in nested_mounts(record.path)),
            tick=lambda entries, size: pace.progress("scan", size, entries),
        ).walk()
        conversation.report(PhaseEnded(record.name, "scan"))
        known = stamps or [None] * len(request.base_state_ids)
        full, *others = differences(walk, [None, *known])
        return messages.EstimateReply(
            entries=walk.entries,
            full=messages.Estimate(full.objects, full.files, full.bytes, known=True),
            against=tuple(
                messages.Estimate(one.objects, one.files, one.bytes, known=base is not None)
                for one, base in zip(others, known)
            ),
        )


def _stamps(home: VolumeHome, state_ids: tuple[str, ...], stack: contextlib.ExitStack) -> List[Optional[HomeStamps]]:
    """The home stamps of each state, where this host has them."""
    directory = os.path.join(home.area, b"states")
    if not os.path.isdir(directory):
        return []
    keeper = StateKeeper(directory)
    states = [keeper.open(state_id) for state_id in state_ids]
    for state in states:
        if state is not None:
            stack.callback(state.close)
    return [_stamps_of(state) for state in states]


def _stamps_of(state: Optional[BaseState]) -> Optional[HomeStamps]:
    return None if state is None else state.stamps
