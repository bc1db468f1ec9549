"""The verb StartRestore: a dump stream off the wire becomes a tree at its target. Ships to servers.

Joins the conversation and `tree.apply`; the order of messages stands in `wire.messages.StartRestore`. What goes wrong
leaves staging as it is: the same restore goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Callable

from voltool.agent.host import HostState
from voltool.agent.path.held import DataWay, data_way
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import AgentError, SpaceError, UsageError
from voltool.events import Notice
from voltool.showing import shown
from voltool.tree.apply.applier import Applier, ApplySettings
from voltool.tree.apply.staging import Staging, StagingKey, open_staging, stale
from voltool.volumes import records
from voltool.volumes.traits import traits_of
from voltool.wire import messages
from voltool.wire.conversation import Conversation

_MOST_WORKERS = 4
#: File systems that may hold more than their free bytes.
_COMPRESSING = frozenset({"btrfs", "zfs", "zfs-fuse", "bcachefs", "f2fs"})


def restore(request: messages.StartRestore, conversation: Conversation, host: HostState) -> messages.RestoreReply:
    """Handle `StartRestore`. Raises RefusedError (the target has content), SpaceError, IntegrityError, BusyError, ..."""
    key = StagingKey(resolve_target(request.target), request.volume_uuid, request.state_id, request.selection)
    ReplicaBook(host.directory).refuse_overlap(key.target)
    with contextlib.ExitStack() as stack:
        staging = open_staging(key, into_existing=request.into_existing)
        stack.callback(staging.close)
        check_room(staging, request.least_bytes, request.objects)
        records.remember_area(host.directory, staging.path)
        tell_about_staging(staging, conversation)
        settings = ApplySettings(
            key=key,
            numeric_owner=request.numeric_owner,
            workers=request.workers or worker_count(),
            subject=request.volume_name,
            total_bytes=request.total_bytes,
        )
        applier = Applier(staging, settings, conversation)
        stack.callback(applier.close)
        conversation.send(messages.RestoreReady(applier.resume_after))
        with data_way(conversation, over_path=request.over_path) as way:
            receive_dump(way, applier.feed, request.bandwidth)
        applied = applier.finish()
        records.forget_area(host.directory, staging.path)
    return messages.RestoreReply(applied.entries, applied.bytes, applied.problems)


def check_room(staging: Staging, least_bytes: int, objects: int) -> None:
    """Raise SpaceError where what comes cannot fit. Not where the file system may compress: then nobody can tell."""
    space = os.fstatvfs(staging.descriptor)
    needed = least_bytes - staging.progress.data_bytes
    free = space.f_bavail * space.f_frsize
    why = ""
    if needed > free and traits_of(staging.descriptor).kind not in _COMPRESSING:
        why = f"{needed} bytes are needed and {free} are free"
    elif staging.fresh and space.f_files > 0 and objects > space.f_favail:
        why = f"{objects} inodes are needed and {space.f_favail} are free"
    if why:
        if staging.fresh:
            staging.remove()
        raise SpaceError(
            "the target has no room for what is restored",
            where=shown(staging.target),
            why=why,
            remedy="make room there, choose another target, or restore a part with --only",
        )


class Throttle:
    """Keeps what passes below ``bandwidth`` bytes/s (0: as fast as it comes), by waiting."""

    def __init__(self, bandwidth: int) -> None:
        self._bandwidth = bandwidth
        self._due = time.monotonic()

    def passed(self, length: int) -> None:
        """So many bytes have come."""
        if self._bandwidth:
            now = time.monotonic()
            self._due = max(self._due, now - 1.0) + length / self._bandwidth
            if self._due > now:
                time.sleep(self._due - now)


def receive_dump(way: DataWay, feed: Callable[[bytes], None], bandwidth: int) -> None:
    """Feed what comes until `EndOfData`, no faster than ``bandwidth`` bytes/s (0: as fast as it comes)."""
    throttle = Throttle(bandwidth)
    while True:
        item = way.receive()
        if isinstance(item, messages.EndOfData):
            return
        if not isinstance(item, bytes):
            raise AgentError("something else came where a dump should", why=type(item).__name__)
        feed(item)
        throttle.passed(len(item))


def resolve_target(target: bytes) -> bytes:
    """The target's own path: links in its parents are followed, the last component is not."""
    if not target.startswith(b"/") or b"\0" in target:
        raise UsageError("a target must be an absolute path", where=shown(target))
    target = os.path.normpath(target)
    if target.startswith(b"//"):
        target = target[1:]
    parent, name = os.path.split(target)
    return os.path.join(os.path.realpath(parent), name) if name else parent


def tell_about_staging(staging: Staging, conversation: Conversation) -> None:
    """Say that an interrupted restore goes on, and what others have left there."""
    if not staging.fresh:
        conversation.report(Notice("info", f"an interrupted restore to {shown(staging.target)} goes on"))
    for path in stale(staging):
        conversation.report(Notice("info", f"{shown(path)} is left of another restore; voltool host clean removes it"))


def worker_count() -> int:
    """How many worker processes a restore gets where nobody says."""
    return max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0))))
