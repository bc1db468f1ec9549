"""A volume that lives on two hosts with the same epoch: read-only on both until the user chooses. Ships to servers.

The record (`volumes.splits`) holds over a reboot and makes whatever opens the volume refuse; the read-only mount does not,
so it is made anew whenever somebody tells this host of the split.
"""

from __future__ import annotations

import dataclasses

from voltool.agent.host import HostState
from voltool.errors import RefusedError
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.lock.book import LOCKED, LockBook
from voltool.volumes.lock.hold import LockWish, is_in_force, lock_tree, unlock_tree
from voltool.volumes.records import VolumeHome
from voltool.volumes.splits import remove_split
from voltool.wire import replicas
from voltool.wire.conversation import Conversation

#: The owner of such a lock, for people, and by which it is known.
SPLIT_OWNER = "a split of the volume"
#: No guardian ends it: the user does, by his choice.
_SECONDS = 100 * 365 * 86_400
_PATIENCE = 5.0


def keep_closed(host: HostState, home: VolumeHome) -> None:
    """Make the split volume read-only, if it is not. The caller holds its lock file. Raises BusyError with who still writes,
    RefusedError where no lock can be made, HostError."""
    book = LockBook(host.directory, home.record.uuid)
    if is_closed(book):
        return
    wish = LockWish(home.record.uuid, home.record.name, home.record.path, SPLIT_OWNER, _SECONDS, _PATIENCE)
    lock_tree(book, wish)


def is_closed(book: LockBook) -> bool:
    """Whether the lock of a split stands."""
    record = book.read()
    return record is not None and record.owner == SPLIT_OWNER and record.phase == LOCKED and is_in_force(record)


def open_again(host: HostState, home: VolumeHome) -> None:
    """Undo `keep_closed`. Idempotent."""
    book = LockBook(host.directory, home.record.uuid)
    record = book.read()
    if record is not None and record.owner == SPLIT_OWNER:
        unlock_tree(book, record.token)


def choose_home(
    request: replicas.ChooseHome,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> replicas.Promoted:
    """Handle `ChooseHome`. Raises RefusedError, NotFoundError, MovedError, BusyError."""
    home = records.open_home(host.directory, request.uuid, b"", split=True)
    with home.lock("a choice between two homes"):
        record = records.read_record(home.area) or home.record
        own = record.epoch
        if (own.number, own.token) != (request.epoch.number, request.epoch.token):
            if own.number >= request.epoch.number:
                raise RefusedError(
                    "the volume has a later epoch here",
                    where=shown(record.path),
                    why=f"epoch {own.number}",
                    remedy=f"voltool replica list {record.name}",
                )
            sequence = max(record.sequence, request.sequence)
            home.save(dataclasses.replace(record, epoch=request.epoch, sequence=sequence))
        remove_split(home.area)
        open_again(host, home)
    return replicas.Promoted(home.record)
