"""The verbs ShowStanding and SendBeginning: what a volume is to this host, and the state that it came here with. Ships to
servers."""

from __future__ import annotations

import contextlib
import os
from typing import Optional, Tuple

import voltool
from voltool.agent.host import HostState
from voltool.agent.manifest import send_manifest
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import NotFoundError, RefusedError
from voltool.model import MOVED, PUBLISHED, RETIRED, RETIRING, Epoch, Peer
from voltool.tree.state import StateKeeper
from voltool.volumes import records
from voltool.volumes.heard import read_heard
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.splits import read_split
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation

#: In a volume's area: the manifest of the state with which it came here by a promotion, for those who did not hear of that yet.
BEGINNING = b"beginning"


def show_standing(
    request: replicas.ShowStanding,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> replicas.Standing:
    """Handle `ShowStanding`."""
    book = MoveBook(host.directory)
    move = book.source(request.uuid)
    if move is not None and (move.phase == RETIRED or (move.promoted and move.phase in (RETIRING, MOVED))):
        done = move.phase == RETIRED and not (move.promoted and is_registered(request.uuid, host))
        return replicas.Standing(
            replicas.AWAY if done else replicas.LEAVING,
            move.epoch,
            path=move.path,
            home=move.target,
            aside_count=move.aside_count,
        )
    if move is not None and move.phase in (RETIRING, MOVED):
        return replicas.Standing(replicas.BETWEEN, move.epoch, path=move.path, home=move.target)
    for entry in records.list_entries(host.directory):
        if entry.uuid == request.uuid and not entry.forgotten:
            try:
                home = records.open_home(host.directory, entry.uuid, entry.path, split=True)
            except (NotFoundError, RefusedError):
                return replicas.Standing(replicas.ABSENT, path=entry.path)
            record = home.record
            began, came_from = _beginning(book, request.uuid, record.epoch)
            return replicas.Standing(
                replicas.HOME,
                record.epoch,
                record.sequence,
                record.path,
                came_from,
                began,
                read_split(home.area, record),
                read_heard(home.area, record),
            )
    replica = ReplicaBook(host.directory).find(request.uuid)
    if replica is not None:
        return replicas.Standing(replicas.NOTHING, replica.epoch, replica.sequence, replica.path, replica.home)
    return replicas.Standing(replicas.NOTHING)


def send_beginning(request: replicas.SendBeginning, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `SendBeginning`."""
    home = records.open_home(host.directory, request.uuid, b"", split=True)
    for directory in (os.path.join(home.area, BEGINNING), os.path.join(home.area, b"states")):
        if os.path.isdir(directory):
            keeper = StateKeeper(directory)
            state = keeper.open(request.state_id)
            if state is not None:
                with contextlib.closing(state):
                    send_manifest(conversation, state, keeper, voltool.__version__)
                return messages.EndOfData()
    raise NotFoundError(
        "the state with which the volume came here is not kept", remedy="nothing: it is a matter of speed"
    )


def is_registered(uuid: str, host: HostState) -> bool:
    """Whether this host takes itself for the volume's home, or is not done with giving that up."""
    return any(entry.uuid == uuid and not entry.forgotten for entry in records.list_entries(host.directory))


def _beginning(book: MoveBook, uuid: str, epoch: Epoch) -> Tuple[str, Optional[Peer]]:
    """The state with which the volume came here, and from where."""
    came = book.target(uuid)
    if came is None or came.phase != PUBLISHED or came.epoch is None or came.epoch.number > epoch.number:
        return "", None
    return came.state_id, came.source
