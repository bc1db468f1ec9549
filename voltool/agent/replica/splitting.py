"""A volume that lives on two hosts with the same epoch: read-only on both until the user chooses. Ships to servers.

The record (`volumes.splits`) holds over a reboot and makes whatever opens the volume refuse; the read-only mount does not,
so it is made anew whenever somebody tells this host of the split.
"""

from __future__ import annotations

from voltool.agent.host import HostState
from voltool.volumes.lock.book import LOCKED, LockBook
from voltool.volumes.lock.hold import LockWish, is_in_force, lock_tree, unlock_tree
from voltool.volumes.records import VolumeHome

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
