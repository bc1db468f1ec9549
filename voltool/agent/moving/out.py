"""The session with the old home of a volume that moves: the order of messages stands in `wire.moving`. Ships to servers.

The volume's lock file is held for the whole session, so nobody dumps, moves or forgets the volume meanwhile. However the
session ends, a lock that stands is undone, unless the volume was given up under it.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Iterator, Optional

from voltool.agent.dump import dump_home
from voltool.agent.guardian import LockLease, start_guardian
from voltool.agent.host import HostState
from voltool.agent.lazymove.home import refuse_lazy
from voltool.agent.moving.manifest_only import dump_manifest
from voltool.agent.moving.source_ground import HostSource, OnlyHooks
from voltool.errors import AgentError, NotFoundError, RefusedError
from voltool.events import Notice
from voltool.model import MOVED, RETIRED, SourceMove
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.fstab import advice_when_left
from voltool.volumes.hooks import hook_of
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import (
    LockWish,
    check_can_lock,
    is_own_mount_point,
    lock_tree,
    new_token,
    refuse_locked,
)
from voltool.volumes.lock.search import walk_files
from voltool.volumes.mounts import is_within, nested_mounts
from voltool.volumes.moving.by_exchange import check_exchange
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.moving.source import MovingSource
from voltool.volumes.records import AREA_NAME, VolumeHome
from voltool.volumes.registry import driver_named
from voltool.wire import messages, moving
from voltool.wire.conversation import Conversation

#: After so many files the guardian hears from us.
_BEAT_EVERY = 10_000
_PLACE = b"retired-"
_NAMED = 10


def move_out(request: moving.MoveOut, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `MoveOut` and the steps of its session. Raises BusyError, RefusedError, NotFoundError, MovedError."""
    known = MoveBook(host.directory).source(request.move.uuid)
    if known is not None and known.phase == RETIRED and (not request.begin or known.move_id == request.move.move_id):
        return _over(known, conversation)
    home = _open(request.move, known, host)
    with home.lock(f"move {request.move.move_id}"):
        session = _Session(conversation, host, home)
        try:
            status = session.begin(request.move) if request.begin else MovingSource(session.ground).recover()
            conversation.send(moving.SourceStatus(status, home.record))
            return session.serve()
        finally:
            session.close()


def list_moves(
    request: moving.ListMoves,  # noqa: ARG001 - a handler's signature
    conversation: Conversation,  # noqa: ARG001
    host: HostState,
) -> moving.MovesReply:
    """Handle `ListMoves`."""
    book = MoveBook(host.directory)
    return moving.MovesReply(tuple(book.sources()), tuple(book.targets()))


def _over(move: SourceMove, conversation: Conversation) -> messages.Message:
    """A move that is over needs no volume here any more."""
    conversation.send(moving.SourceStatus(move))
    while True:
        step = conversation.receive()
        if isinstance(step, moving.EndMove):
            return messages.Done()
        if not isinstance(step, moving.SettleMove):
            raise RefusedError(
                "the move is over",
                where=shown(move.path),
                why=f"the volume lives at {move.target.host}:{shown(move.target.path)}",
            )
        conversation.send(moving.SourceStatus(move))


def _open(move: SourceMove, known: Optional[SourceMove], host: HostState) -> VolumeHome:
    if known is not None and (known.phase == RETIRED or known.promoted):
        records.open_home(host.directory, move.uuid, b"")  # says where it is, or finds that it has come back
    try:
        return records.open_home(host.directory, move.uuid, move.path, moving=True)
    except NotFoundError:
        # `settle` was cut off between taking the volume out of the registry and its record.
        if known is None or known.phase != MOVED:
            raise
        return records.forgotten_home(host.directory, move.uuid, known)


class _Session:
    """One session; `serve` until it ends."""

    def __init__(self, conversation: Conversation, host: HostState, home: VolumeHome) -> None:
        self._conversation = conversation
        self._host = host
        self._home = home
        self.ground = HostSource(host, home.record.uuid, home.area)
        self._source = MovingSource(self.ground)

    def begin(self, wish: SourceMove) -> SourceMove:
        """Begin the move, or go on with it."""
        path = self._home.record.path
        refuse_lazy(self._host, self._home.record.uuid)
        known = self._source.recover()
        if known is None or known.phase == RETIRED:
            check_movable(self.ground.book, path)
            if not is_own_mount_point(self.ground.book, path):
                check_exchange(self._home.area)
        status = os.lstat(path)
        place = os.path.join(self._home.area, _PLACE + wish.move_id[:12].encode())
        return self._source.begin(
            dataclasses.replace(
                wish,
                name=self._home.record.name,
                path=path,
                root_inode=status.st_ino,
                retired_path=place,
                by_entries=is_own_mount_point(self.ground.book, path),
            )
        )

    def serve(self) -> messages.Message:
        """Carry out steps until `EndMove`."""
        while True:
            step = self._conversation.receive()
            if isinstance(step, moving.EndMove):
                return messages.Done()
            self._conversation.send(self._step(step))

    def _step(self, step: object) -> messages.Message:
        if isinstance(step, messages.StartDump):
            make = dump_manifest if step.manifest_only else dump_home
            return make(step, self._conversation, self._host, self._home)
        if isinstance(step, moving.PrepareLock):
            driver_named(self._home.record.driver).prepare(self._home.record)
            return messages.Done()
        if isinstance(step, moving.HoldLock):
            return self._lock(step)
        if isinstance(step, moving.ReleaseLock):
            self.ground.unlock()
            return messages.Done()
        if isinstance(step, moving.Switch):
            return moving.SourceStatus(self._source.switch(step.epoch, step.state_id))
        if isinstance(step, moving.SettleMove):
            retired = self._source.settle()
            if retired.by_entries:
                advice = advice_when_left(retired.path)
                self._conversation.report(Notice("info", f"{retired.name}: at the old home: {advice}"))
            return moving.SourceStatus(retired)
        if isinstance(step, moving.AbortMove):
            self._source.abort()
            return messages.Done()
        if isinstance(step, moving.ForgetMove):
            self._source.forget()
            return messages.Done()
        raise AgentError("that is no step of a move", why=type(step).__name__)

    def _lock(self, step: moving.HoldLock) -> messages.LockReply:
        if step.only_hooks:
            self.ground.unlock()
            self.ground.only_hooks = OnlyHooks(self._home.record.name, self._home.record.path, step.hooks)
            self.ground.only_hooks.begin()
            return messages.LockReply(int(time.time()) + step.seconds, 0, 0)
        check_can_lock()
        refuse_locked(self.ground.book, self._home.record.path)
        self.ground.unlock()  # what a crash has left
        token = new_token()
        path = self._home.record.path
        # The time-out of silence is the lock's own limit: while the new home works nothing is said here.
        silence = float(step.seconds + step.hooks.timeout)
        lease = start_guardian(self.ground.book, token, silence=silence, ward=self.ground)
        self.ground.lease = lease
        wish = LockWish(
            uuid=self._home.record.uuid,
            name=self._home.record.name,
            path=path,
            owner=step.owner,
            seconds=step.seconds,
            timeout=step.timeout,
            files=lambda: _beating(walk_files(path), lease),
            before_lock=hook_of(step.hooks, "before_lock"),
            after_unlock=hook_of(step.hooks, "after_unlock"),
            token=token,
        )
        record, result = lock_tree(self.ground.book, wish, alive=lease.beat)
        return messages.LockReply(record.until, len(result.unexamined), result.leaseless)

    def close(self) -> None:
        """The end: a switch that was not committed and a lock that still stands are undone."""
        move = self.ground.load()
        if move is not None and move.phase in (MOVED, RETIRED):
            self.ground.leave_lock()
            return
        self._source.recover()
        self.ground.unlock()


def check_movable(book: LockBook, path: bytes) -> None:
    """RefusedError for what the switch could not take away from its path. A mount point can be emptied, but not the root."""
    if path == b"/":
        raise RefusedError(
            "the root of the whole system cannot be moved",
            where="/",
            remedy="voltool dump and voltool restore; or move the directories in it that matter",
        )
    nested = [point for point in nested_mounts(path) if not is_within(point, os.path.join(path, AREA_NAME))]
    if nested:
        raise RefusedError(
            "something is mounted inside the volume",
            where=", ".join(shown(point) for point in nested[:_NAMED]),
            why="what is mounted there is not part of the volume, and would stay behind",
            remedy="unmount it, or move it outside of the volume",
        )
    if is_own_mount_point(book, path) and os.statvfs(path).f_flag & os.ST_RDONLY and book.read() is None:
        raise RefusedError(
            "the volume's file system is mounted read-only",
            where=shown(path),
            why="its tree could not be taken away from the mount point",
            remedy=f"mount -o remount,rw {shown(path)}",
        )


def _beating(files: Iterator[bytes], lease: LockLease) -> Iterator[bytes]:
    for number, path in enumerate(files):
        if number % _BEAT_EVERY == 0:
            lease.beat()
        yield path
