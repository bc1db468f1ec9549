"""May a directory that stands be restored into? What of voltool's it is, or has inside, decides. Ships to servers."""

from __future__ import annotations

import contextlib
import os
from typing import List

from voltool.agent.host import HostState
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import MovedError, NotFoundError, RefusedError
from voltool.model import PUBLISHED, RETIRED, VolumeRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import refuse_locked
from voltool.volumes.mounts import is_within
from voltool.volumes.moving.records import MoveBook


def take_standing(target: bytes, host: HostState, stack: contextlib.ExitStack) -> List[VolumeRecord]:
    """Refuse a directory that is not to be touched; of a volume (or a part of one) hold the lock file as long as ``stack`` lasts.

    Gives these volumes. Raises NotFoundError, RefusedError, MovedError, BusyError.
    """
    found: List[VolumeRecord] = []
    if not os.path.isdir(target) or os.path.islink(target):
        raise NotFoundError(
            "there is no directory to restore into", where=shown(target), remedy="without --in-place, it is made anew"
        )
    _refuse_moves(target, MoveBook(host.directory))
    if is_within(os.path.realpath(host.directory), target):
        raise RefusedError(
            "the directory holds voltool's own state of this host",
            where=shown(host.directory),
            remedy="restore to another place, and copy what is needed",
        )
    for entry in records.list_entries(host.directory):
        if not entry.lives:
            continue
        if is_within(target, entry.path):
            home = records.open_home(host.directory, entry.uuid, entry.path)
            stack.enter_context(home.lock("restore --in-place"))
            refuse_locked(LockBook(host.directory, entry.uuid), entry.path)
            found.append(home.record)
        elif is_within(entry.path, target):
            raise RefusedError(
                "a volume lies inside the directory",
                where=shown(entry.path),
                remedy="restore into the volume itself, or with --only beside it to another place",
            )
    ReplicaBook(host.directory).refuse_overlap(target)
    return found


def _refuse_moves(target: bytes, book: MoveBook) -> None:
    for move in (*book.sources(), *book.archived()):
        if move.phase == RETIRED:
            own = os.path.join(target, records.AREA_NAME)  # is never touched
            inside = _touch(target, move.retired_path) and not is_within(move.retired_path, own)
            if inside and os.path.lexists(move.retired_path):
                raise RefusedError(
                    "the directory holds the retired copy of a volume",
                    where=shown(move.retired_path),
                    why=f"{move.name} has moved to {move.target.host}",
                    remedy=f"voltool retired purge {move.name} HOST, if it is not needed any more",
                )
            if target == move.path and move in book.sources():
                raise MovedError(
                    "the volume has moved",
                    where=shown(move.path),
                    why=f"it lives at {move.target.host}:{shown(move.target.path)}",
                    remedy="restore into its new home",
                )
        elif _touch(target, move.path):
            raise RefusedError(
                "the volume is on its way to another host",
                where=shown(move.path),
                why=f"the move to {move.target.host} is {move.phase}",
                remedy=f"voltool move --resume {move.name}, or --abort {move.name}",
            )
    for arriving in book.targets():
        if arriving.phase != PUBLISHED and _touch(target, arriving.path):
            raise RefusedError(
                "a volume is on its way to this place",
                where=shown(arriving.path),
                remedy=f"voltool move --resume {arriving.name}, or --abort {arriving.name}",
            )


def _touch(one: bytes, other: bytes) -> bool:
    return is_within(one, other) or is_within(other, one)
