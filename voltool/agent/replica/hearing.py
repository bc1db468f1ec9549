"""The verb HearEpoch: the volume lives elsewhere with another epoch. Who has the lower one retires his copy, with whatever was
written to it after the state that was promoted; the same number and another token is a split. Ships to servers.

The steps of retiring are those of a move's old home: lock, take the tree away, `MOVED` (the commit), then find what is in
the copy alone, `RETIRED`. Cut off anywhere, the next one who says the epoch goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from typing import Iterator, Optional, Tuple

from voltool import durable
from voltool.agent.guardian import start_guardian
from voltool.agent.host import HostState
from voltool.agent.manifest import receive_manifest
from voltool.agent.moving.out import check_movable
from voltool.agent.moving.retired import aside_list
from voltool.agent.moving.source_ground import HostSource
from voltool.agent.replica.aside import Aside, Copy, find_aside
from voltool.agent.replica.judging import judge_epoch
from voltool.agent.replica.splitting import SPLIT_OWNER, keep_closed
from voltool.agent.replica.standing import is_registered
from voltool.errors import BusyError, IntegrityError, VoltoolError
from voltool.events import Notice
from voltool.model import MOVED, RETIRED, Heard, SourceMove, Split
from voltool.showing import shown
from voltool.tree.state import BaseState, StateKeeper
from voltool.volumes import records
from voltool.volumes.heard import remove_heard, save_heard
from voltool.volumes.hooks import hook_of
from voltool.volumes.lock.hold import (
    LockWish,
    check_can_lock,
    is_own_mount_point,
    lock_tree,
    new_token,
    refuse_locked,
    unlock_tree,
)
from voltool.volumes.moving.by_exchange import check_exchange
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.moving.source import MovingSource
from voltool.volumes.moving.stepping_down import SteppingDown
from voltool.volumes.records import VolumeHome
from voltool.volumes.splits import save_split
from voltool.volumes.traits import synchronize
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation

#: So long may the tree's taking away last, once nobody writes, before the guardian undoes the lock (seconds).
_SECONDS = 600
_OWNER = "a promotion"


def hear_epoch(request: replicas.HearEpoch, conversation: Conversation, host: HostState) -> replicas.EpochHeard:
    """Handle `HearEpoch`. Raises BusyError with who still writes, RefusedError, HostError, NotFoundError (not mounted)."""
    known = MoveBook(host.directory).source(request.uuid)
    if known is not None and known.phase == RETIRED:
        return _heard_before(known, request, host)
    if known is not None and known.phase == MOVED and not known.promoted:
        raise BusyError(
            "the volume is on its way to another host",
            where=shown(known.path),
            why=f"to {known.target.host}:{shown(known.target.path)}, in service nowhere",
            remedy=f"voltool move --resume {known.name}, then voltool replica list {known.name}",
        )
    if not is_registered(request.uuid, host):
        return replicas.EpochHeard(replicas.NOTHING, request.epoch)
    home = records.open_home(host.directory, request.uuid, b"", moving=True, split=True)
    with home.lock(_OWNER):
        own = (records.read_record(home.area) or home.record).epoch
        outcome = judge_epoch(own, request.epoch)
        if outcome == replicas.SPLIT:
            save_split(home.area, Split(own, request.epoch, request.home, int(time.time())))
            _keep_closed(home, conversation, host)
        if outcome != replicas.RETIRED_NOW:
            return replicas.EpochHeard(outcome, own)
        save_heard(home.area, Heard(request.epoch, request.home))  # whatever hinders it now
        return _Hearing(request, conversation, host, home).retire()


def _heard_before(known: SourceMove, request: replicas.HearEpoch, host: HostState) -> replicas.EpochHeard:
    """The copy here was retired: for whoever asks here next, it points to the latest home."""
    assert known.epoch is not None
    area = os.path.dirname(known.retired_path)
    if is_registered(request.uuid, host):
        SteppingDown(HostSource(host, request.uuid, area)).leave_retired()
    if request.epoch.number > known.epoch.number:
        known = dataclasses.replace(known, target=request.home, epoch=request.epoch)
        MoveBook(host.directory).save_source(known, area)
    return _reply(replicas.KNOWN, known)


def _reply(outcome: str, move: SourceMove) -> replicas.EpochHeard:
    assert move.epoch is not None
    return replicas.EpochHeard(outcome, move.epoch, move.aside, move.aside_count, move.retired_path, move.target)


def _keep_closed(home: VolumeHome, conversation: Conversation, host: HostState) -> None:
    """What hinders that does not hinder the split's being known: dumps and moves are refused from here on in any case."""
    try:
        keep_closed(host, home)
    except VoltoolError as error:
        message = f"{home.record.name}: it is split and should be read-only, but cannot be made so yet: {error}"
        conversation.report(Notice("warning", message))


class _Hearing:
    """A lower epoch retires."""

    def __init__(
        self, request: replicas.HearEpoch, conversation: Conversation, host: HostState, home: VolumeHome
    ) -> None:
        self._request = request
        self._conversation = conversation
        self._host = host
        self._home = home
        self._ground = HostSource(host, home.record.uuid, home.area)
        self._steps = SteppingDown(self._ground)

    def retire(self) -> replicas.EpochHeard:
        """All of it, or what is left of it."""
        known = MovingSource(self._ground).recover()
        if known is None or known.phase != MOVED:
            known = self._leave()
        return _reply(replicas.RETIRED_NOW, self._settle(known))

    def _leave(self) -> SourceMove:
        path = self._home.record.path
        check_can_lock()
        by_entries = is_own_mount_point(self._ground.book, path)
        check_movable(self._ground.book, path)
        if not by_entries:
            check_exchange(self._home.area)
        with self._locked(path):
            move = SourceMove(
                move_id=self._request.epoch.token,
                uuid=self._home.record.uuid,
                name=self._home.record.name,
                path=path,
                target=self._request.home,
                phase=MOVED,
                since=int(time.time()),
                root_inode=os.lstat(path).st_ino,
                retired_path=os.path.join(self._home.area, b"retired-" + self._request.epoch.token[:12].encode()),
                epoch=self._request.epoch,
                state_id=self._request.state_id,
                by_entries=by_entries,
                promoted=True,
            )
            moved = self._steps.leave(move)
            self._ground.leave_lock()
        return moved

    @contextlib.contextmanager
    def _locked(self, path: bytes) -> Iterator[None]:
        """Nobody writes inside; left by an error, all is as before."""
        ground, request = self._ground, self._request
        kept = ground.book.read()
        if kept is not None and kept.owner == SPLIT_OWNER:
            unlock_tree(ground.book, kept.token)
        refuse_locked(ground.book, path)
        ground.unlock()  # what a crash has left
        token = new_token()
        # A hook, and the wait for writers, may take their time without a word from us.
        silence = float(_SECONDS + request.timeout + request.hooks.timeout)
        lease = start_guardian(ground.book, token, silence=silence, ward=ground)
        ground.lease = lease
        wish = LockWish(
            uuid=request.uuid,
            name=self._home.record.name,
            path=path,
            owner=request.owner or _OWNER,
            seconds=_SECONDS,
            timeout=request.timeout,
            before_lock=hook_of(request.hooks, "before_lock"),
            after_unlock=hook_of(request.hooks, "after_unlock"),
            token=token,
        )
        try:
            lock_tree(ground.book, wish, alive=lease.beat)
            yield
        except BaseException:
            MovingSource(ground).recover()
            if ground.is_given_up():
                ground.leave_lock()
            else:
                ground.unlock()
            raise

    # ------------------------------------------------------------------------------------------------- what is aside

    def _settle(self, move: SourceMove) -> SourceMove:
        self._ground.leave_lock()
        aside = self._aside(move)
        own = aside.state_id if aside.count == 0 else ""
        remove_heard(self._home.area)
        return self._steps.settle(move, own, aside.paths, aside.count)

    def _aside(self, move: SourceMove) -> Aside:
        copy = Copy(
            move.retired_path,
            move.by_entries,
            tmp=os.path.join(self._home.area, b"tmp"),
            listed=aside_list(move),
        )
        try:
            found = self._state(move)
            if found is None:
                return Aside((), -1)
            state, keeper = found
            with contextlib.closing(state):
                aside = find_aside(copy, state, keeper)
            if aside.count == 0:
                self._take_along(aside.state_id, keeper)
        except (VoltoolError, OSError) as error:
            message = (
                f"{move.name}: what was written here after the promotion cannot be told, all of it is kept: {error}"
            )
            self._conversation.report(Notice("warning", message))
            return Aside((), -1)
        return aside

    def _state(self, move: SourceMove) -> Optional[Tuple[BaseState, StateKeeper]]:
        """The state that was promoted: kept here, best with its home stamps; else its manifest comes from whoever has it."""
        without = None
        for directory in self._kept():
            keeper = StateKeeper(directory)
            state = keeper.open(move.state_id) if move.state_id else None
            if state is not None and state.stamps is not None:
                return state, keeper
            if state is not None:
                without = (state, keeper)
        if without is not None or not move.state_id:
            return without
        self._conversation.send(messages.NeedManifest(move.state_id))
        durable.make_directory(os.path.join(self._home.area, b"states"))
        keeper = StateKeeper(os.path.join(self._home.area, b"states"))
        try:
            return receive_manifest(self._conversation, keeper, move.state_id), keeper
        except IntegrityError:
            return None  # nobody has it

    def _kept(self) -> Iterator[bytes]:
        """Where this host keeps states of the volume: for its dumps, and for each replica."""
        yield os.path.join(self._home.area, b"states")
        replicas_here = os.path.join(self._home.area, b"replicas")
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(replicas_here)):
                states = os.path.join(replicas_here, name, b"states")
                if os.path.isdir(states):
                    yield states

    def _take_along(self, state_id: str, keeper: StateKeeper) -> None:
        """The copy is what that state says: for a way back it is looked for among the volume's own states."""
        states = os.path.join(self._home.area, b"states")
        if keeper.directory != states:
            durable.make_directory(states)
            place = os.path.join(states, state_id.encode())
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(os.fsdecode(os.path.join(keeper.directory, state_id.encode())), os.fsdecode(place))
            synchronize(place)
