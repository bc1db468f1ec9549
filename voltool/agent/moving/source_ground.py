"""The old home for real: records, lock, the tree's departure, the second scan. Ships to servers."""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Iterator, Optional, Tuple

from voltool import durable
from voltool.agent.bases import BaseBook
from voltool.agent.guardian import LockLease
from voltool.agent.host import HostState
from voltool.errors import HostError, RefusedError
from voltool.model import MOVED, RETIRED, Hooks, SourceMove
from voltool.showing import shown
from voltool.spool import SortedSpool
from voltool.tree.state import BaseState, StateKeeper
from voltool.tree.unchanged import first_difference, is_root_alike, is_root_unchanged
from voltool.volumes import records
from voltool.volumes.btrfs import is_as_cloned
from voltool.volumes.hooks import hook_of, run_hook
from voltool.volumes.labels import clones_in
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import end_lock, leave_read_only
from voltool.volumes.moving.departure import Departure, departure_of
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.moving.source import MovingSource


class OnlyHooks:
    """In the place of a lock, where none can be made: the user's programs stop who writes, and start him again."""

    def __init__(self, name: str, path: bytes, hooks: Hooks) -> None:
        self._name = name
        self._path = path
        self._hooks = hooks

    def begin(self) -> None:
        """``before_lock``; when it fails ``after_unlock`` runs, and HostError is raised."""
        try:
            run_hook(hook_of(self._hooks, "before_lock"), "before_lock", self._name, self._path)
        except BaseException:
            with contextlib.suppress(HostError):
                self.end()
            raise

    def end(self) -> None:
        """``after_unlock``. HostError when it fails."""
        run_hook(hook_of(self._hooks, "after_unlock"), "after_unlock", self._name, self._path)


class HostSource:
    """A `SourceGround` on this host; also the `Ward` of the lock's guardian. ``lease`` while the volume is locked."""

    def __init__(self, host: HostState, uuid: str, area: bytes) -> None:
        self._host = host
        self._uuid = uuid
        self._area = area
        self._moves = MoveBook(host.directory)
        self.book = LockBook(host.directory, uuid)
        self.lease: Optional[LockLease] = None
        self.only_hooks: Optional[OnlyHooks] = None

    # ------------------------------------------------------------------------------------------------------- records

    def load(self) -> Optional[SourceMove]:
        """See `SourceGround`."""
        return self._moves.source(self._uuid)

    def save(self, move: SourceMove) -> None:
        """See `SourceGround`."""
        self._moves.save_source(move, self._area)

    def remove(self) -> None:
        """See `SourceGround`."""
        self._moves.remove_source(self._uuid, self._area)

    def step(self) -> AbstractContextManager[None]:
        """See `SourceGround`."""
        return self.book.step("move")

    # ---------------------------------------------------------------------------------------------------- lock, tree

    def assert_locked(self) -> None:
        """See `SourceGround`."""
        if self.only_hooks is not None:
            return  # nothing holds; the comparison after the exchange sees what was written before it
        if self.lease is None:
            raise RefusedError("the volume is not locked", remedy="voltool move --resume")
        self.lease.assert_held()

    def assert_unchanged(self, state_id: str) -> None:
        """See `SourceGround`."""
        move = self.load()
        if move is None:
            raise RefusedError("the volume is not being moved", remedy="voltool move --status")
        away = self.is_away(move)
        place = move.retired_path if away else move.path
        if not (away and move.by_entries) and self._is_as_cloned(place, state_id):
            return
        tmp = os.path.join(self._area, b"tmp")
        durable.make_directory(tmp)
        with self._compared(move, place, state_id) as (root, state), SortedSpool(tmp) as spool:
            difference = first_difference(root, state, spool, by_entries=away and move.by_entries)
        with contextlib.suppress(OSError):
            os.rmdir(tmp)
        if difference is not None:
            raise _changed(move, difference)
        if away and move.by_entries:
            with self._compared(move, move.path, state_id) as (root, state):
                if not is_root_alike(root, state):
                    raise _changed(move, b"")

    def _is_as_cloned(self, place: bytes, state_id: str) -> bool:
        """Whether the file system itself says that the tree is what was read last. Then no entry needs to be looked at."""
        base = BaseBook(self._area).find(state_id)
        return base is not None and bool(base.label) and is_as_cloned(clones_in(self._area), base.label, place)

    @contextlib.contextmanager
    def _compared(self, move: SourceMove, place: bytes, state_id: str) -> Iterator[Tuple[int, BaseState]]:
        """The tree's root at ``place`` and the state that was sent last."""
        state = StateKeeper(os.path.join(self._area, b"states")).open(state_id)
        if state is None:
            raise RefusedError(
                "what was sent last is not known any more",
                where=shown(move.path),
                remedy=f"voltool move --resume {move.name}",
            )
        with contextlib.closing(state):
            root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                yield root, state
            finally:
                os.close(root)

    def is_away(self, move: SourceMove) -> bool:
        """See `SourceGround`."""
        return self._departure(move).is_away(move)

    def take_away(self, move: SourceMove) -> None:
        """See `SourceGround`."""
        if not move.promoted:
            with self._compared(move, move.path, move.state_id) as (root, state):
                if not is_root_unchanged(root, state):
                    raise _changed(move, b"")
        self._departure(move).take_away(move)

    def bring_back(self, move: SourceMove) -> None:
        """See `SourceGround`."""
        self._departure(move).bring_back(move)

    def _departure(self, move: SourceMove) -> Departure:
        return departure_of(move, self.book, self._area)

    def unlock(self) -> None:
        """See `SourceGround`."""
        only_hooks, self.only_hooks = self.only_hooks, None
        if only_hooks is not None:
            only_hooks.end()
            return
        lease, self.lease = self.lease, None
        record = self.book.read()
        try:
            if record is not None and (lease is None or record.token == lease.token):
                end_lock(self.book, record.token)
        finally:
            if lease is not None:
                lease.close()

    def leave(self, move: SourceMove) -> None:
        """See `SourceGround`."""
        self.leave_lock()
        self._departure(move).forget(move)
        records.forget(self._host.directory, move.uuid)

    def leave_lock(self) -> None:
        """After the commit: the lock's mounts are taken off the retired tree, which stays as it is; no hook. Idempotent."""
        self.only_hooks = None
        with self.step():
            leave_read_only(self.book)
        lease, self.lease = self.lease, None
        if lease is not None:
            lease.close()

    # ------------------------------------------------------------------------------------------------ for the guardian

    def is_given_up(self) -> bool:
        """See `Ward`."""
        move = self.load()
        return move is not None and move.phase in (MOVED, RETIRED)

    def recover(self) -> None:
        """See `Ward`."""
        MovingSource(self).recover()


def _changed(move: SourceMove, path: bytes) -> RefusedError:
    return RefusedError(
        "the volume changed under the lock",
        where=shown(os.path.join(move.path, path) if path else move.path),
        why="somebody wrote past the lock; what he wrote is in the volume, which stays here",
        remedy="find out who it was",
    )
