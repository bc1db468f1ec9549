"""The verbs LockVolume and UnlockVolume: a lock that a guardian keeps after the connection has ended. Ships to servers."""

from __future__ import annotations

import contextlib
from typing import Callable, Iterator, Optional

from voltool.agent.guardian import LockLease, start_guardian
from voltool.agent.host import HostState
from voltool.errors import BusyError
from voltool.model import VolumeRecord
from voltool.showing import shown
from voltool.volumes.hooks import hook_of
from voltool.volumes.lock.book import LOCKED, LockBook
from voltool.volumes.lock.hold import (
    LockWish,
    check_can_lock,
    end_lock,
    is_in_force,
    lock_tree,
    new_token,
    refuse_locked,
)
from voltool.volumes.lock.search import walk_files
from voltool.volumes.records import open_home
from voltool.wire import messages
from voltool.wire.conversation import Conversation

#: After so many files the guardian hears from us.
_BEAT_EVERY = 10_000


def lock_volume(request: messages.LockVolume, conversation: Conversation, host: HostState) -> messages.LockReply:
    """Lock the volume and leave it to its guardian. Raises BusyError with who still writes; RefusedError; HostError."""
    del conversation
    check_can_lock()
    home = open_home(host.directory, request.uuid, request.path)
    book = LockBook(host.directory, request.uuid)
    path = home.record.path
    with home.lock("lock"):
        refuse_locked(book, path)
        end_lock(book)  # what a crash has left
        token = new_token()
        # A hook may take its time without a word from us.
        lease = start_guardian(book, token, silence=60.0 + request.hooks.timeout)
        wish = LockWish(
            uuid=request.uuid,
            name=home.record.name,
            path=path,
            owner=request.owner,
            seconds=request.seconds,
            timeout=request.timeout,
            files=lambda: _beating(walk_files(path), lease),
            before_lock=hook_of(request.hooks, "before_lock"),
            after_unlock=hook_of(request.hooks, "after_unlock"),
            token=token,
        )
        with contextlib.closing(lease):
            record, result = lock_tree(book, wish, alive=lease.beat)
            _keep(lease, lambda: end_lock(book, token))
    return messages.LockReply(record.until, len(result.unexamined), result.leaseless)


def unlock_volume(request: messages.UnlockVolume, conversation: Conversation, host: HostState) -> messages.UnlockReply:
    """Undo the lock, whoever made it. Raises NotFoundError; HostError when the hook fails."""
    del conversation
    open_home(host.directory, request.uuid, request.path)
    record = end_lock(LockBook(host.directory, request.uuid))
    return messages.UnlockReply("" if record is None else record.owner)


def lock_info(host: HostState, uuid: str) -> Optional[messages.LockInfo]:
    """The lock on a volume, where one stands."""
    record = LockBook(host.directory, uuid).read()
    if record is None or record.phase != LOCKED or not is_in_force(record):
        return None
    return messages.LockInfo(record.owner, record.since, record.until)


def assert_same_lock(host: HostState, record: VolumeRecord, before: Optional[messages.LockInfo]) -> None:
    """BusyError where the lock of a while ago stands no more: what was read since is not what its header says."""
    if lock_info(host, record.uuid) != before:
        raise BusyError(
            "the volume's lock ended before the dump did",
            where=shown(record.path),
            why="the dump would say that nobody could write meanwhile",
            remedy=f"voltool lock {record.name} --for a longer time, or dump without a lock",
        )


def _keep(lease: LockLease, undo: Callable[[], object]) -> None:
    try:
        lease.keep()
    except BaseException:
        undo()
        raise


def _beating(files: Iterator[bytes], lease: LockLease) -> Iterator[bytes]:
    for number, path in enumerate(files):
        if number % _BEAT_EVERY == 0:
            lease.beat()
        yield path
