"""The session with the new home of a volume that moves: the order of messages stands in `wire.moving`. Ships to servers."""

from __future__ import annotations

import contextlib
import os
from typing import Optional, Tuple, Union

import voltool
from voltool.agent.host import HostState
from voltool.agent.manifest import send_manifest
from voltool.agent.moving.lazy_ground import LazyTarget
from voltool.agent.moving.target_ground import HostTarget
from voltool.agent.path.held import data_way
from voltool.agent.restore import receive_dump, worker_count
from voltool.errors import AgentError, HostError, RefusedError
from voltool.events import Notice
from voltool.model import PREPARED, Hooks, TargetMove
from voltool.showing import shown
from voltool.tree.apply.applier import ApplySettings
from voltool.tree.apply.arrival import Arrival
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.ready import rehearse
from voltool.tree.apply.staging import StagingKey
from voltool.tree.apply.waiting import IncrementFile
from voltool.volumes.fstab import advice_when_come
from voltool.volumes.hooks import hook_of, run_hook
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.moving.target import MovingTarget
from voltool.wire import messages, moving, replicas
from voltool.wire.conversation import Conversation

#: Steps of a lazy move alone.
_LAZY_STEPS = (moving.FetchFrom, replicas.ReachSources, replicas.ReceiveManifest)


def move_in(request: moving.MoveIn, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `MoveIn` and the steps of its session. Raises BusyError, RefusedError, SpaceError, IntegrityError."""
    ground = ground_of(host, request.move)
    target = MovingTarget(ground)
    with contextlib.closing(ground):
        if request.begin:
            check_target(request.move)
            move: Optional[TargetMove] = target.begin(request.move)
        else:
            move = target.status()
        held = ground.held_state() if ground.held is not None and move is not None else ""
        conversation.send(moving.TargetStatus(move, held))
        return _Session(conversation, host, ground, target).serve()


def ground_of(host: HostState, move: TargetMove) -> HostTarget:
    """What this move's new home stands on; that of a move which is known here already decides."""
    known = MoveBook(host.directory).target(move.uuid)
    lazy = known.lazy if known is not None and known.move_id == move.move_id else move.lazy
    return LazyTarget(host, move.uuid) if lazy else HostTarget(host, move.uuid)


def check_target(move: TargetMove) -> None:
    """RefusedError for a path that is no place for a volume."""
    if not move.path.startswith(b"/") or b"\0" in move.path or os.path.normpath(move.path) != move.path:
        raise RefusedError("a volume needs an absolute path", where=shown(move.path), remedy="HOST:/path")
    parent = os.path.dirname(move.path)
    if os.path.realpath(parent) != parent:
        raise RefusedError(
            "the target's path goes through a symlink",
            where=shown(move.path),
            remedy=f"{shown(os.path.join(os.path.realpath(parent), os.path.basename(move.path)))}",
        )


def _after_online(move: TargetMove, hooks: Hooks) -> str:
    """The volume is in service whatever its hook says; why it failed, empty: it did not."""
    try:
        run_hook(hook_of(hooks, "after_online"), "after_online", move.name, move.path)
    except HostError as error:
        return error.why or error.what
    return ""


class _Session:
    """One session; `serve` until it ends."""

    def __init__(self, conversation: Conversation, host: HostState, ground: HostTarget, target: MovingTarget) -> None:
        self._conversation = conversation
        self._host = host
        self._ground = ground
        self._target = target

    def serve(self) -> messages.Message:
        """Carry out steps until `EndMove`."""
        while True:
            step = self._conversation.receive()
            if isinstance(step, moving.EndMove):
                return messages.Done()
            self._conversation.send(self._step(step))

    def _step(self, step: object) -> messages.Message:
        if isinstance(step, moving.SendManifest):
            held = self._open()
            with contextlib.closing(held.state()) as state:
                send_manifest(self._conversation, state, held.keeper, voltool.__version__)
            return messages.EndOfData()
        if isinstance(step, moving.ReceiveDump):
            return self._receive(step)
        if isinstance(self._ground, LazyTarget) and isinstance(step, _LAZY_STEPS):
            return self._lazy_step(self._ground, step)
        if isinstance(step, moving.GetReady):
            self._ground.get_ready()
            return messages.Done()
        if isinstance(step, moving.Prepare):
            prepared = self._target.prepare(step.epoch, step.state_id, step.sequence)
            run_hook(hook_of(step.hooks, "before_online"), "before_online", prepared.name, prepared.path)
            return moving.TargetStatus(prepared, step.state_id, lost=self._lost())
        if isinstance(step, moving.Publish):
            published = self._target.publish(step.proof)
            advice = "" if published.lazy else advice_when_come(published.path)  # what serves it mounts it again
            if advice:
                self._conversation.report(Notice("warning", f"{published.name}: at the new home: {advice}"))
            return moving.TargetStatus(published, hook_failed=_after_online(published, step.hooks))
        if isinstance(step, moving.AbortMove):
            move = self._target.status()
            if move is not None:
                self._target.abort(move.move_id)
            return messages.Done()
        raise AgentError("that is no step of a move", why=type(step).__name__)

    def _lazy_step(
        self, ground: LazyTarget, step: Union[moving.FetchFrom, replicas.ReachSources, replicas.ReceiveManifest]
    ) -> messages.Message:
        if isinstance(step, replicas.ReachSources):
            return ground.reach(step)
        if isinstance(step, moving.FetchFrom):
            ground.fetch_from(step)
            return moving.TargetStatus(self._target.status(), ground.held_state())
        self._target.reopen()
        return ground.receive(step, self._conversation)

    def _receive(self, step: moving.ReceiveDump) -> moving.Arrived:
        held = self._open()
        move = self._target.status()
        if move is not None and move.phase == PREPARED:
            self._target.reopen()
        receive = self._receive_all if held.record is None else self._receive_increment
        size = receive(held, step)
        assert held.record is not None
        with contextlib.closing(held.state()) as state:
            entries = state.entries.count()
        return moving.Arrived(held.record.state_id, entries, size, self._lost())

    def _receive_all(self, held: HeldTree, step: moving.ReceiveDump) -> int:
        move = self._target.status()
        assert move is not None
        key = StagingKey(move.path, move.uuid, "", f"move {move.move_id}")
        settings = ApplySettings(key=key, workers=step.workers or worker_count(), subject=move.name)
        arrival = Arrival(held, settings, self._conversation)
        with contextlib.closing(arrival):
            with data_way(self._conversation, over_path=step.over_path) as way:
                receive_dump(way, arrival.feed, step.bandwidth)
            applied = arrival.arrive()
        self._ground.losses.merge(arrival.lost())
        rehearse(held, self._ground.attributes)
        held.keep_losses(self._ground.losses)
        return applied.bytes

    def _receive_increment(self, held: HeldTree, step: moving.ReceiveDump) -> int:
        with contextlib.closing(IncrementFile(held)) as increment:
            with data_way(self._conversation, over_path=step.over_path) as way:
                receive_dump(way, increment.feed, step.bandwidth)
            return self._ground.take(increment)

    def _lost(self) -> Tuple[str, ...]:
        """What the target cannot hold. What the old home could not read is not among it: files that go while they are
        dumped, and the last round, when all is at rest, tells of the others."""
        losses = self._ground.losses
        lost = [f"{what}: {count} times" for what, (count, _first) in sorted(losses.attributes.items())]
        unheld = [lost for lost in losses.objects if not lost.unread]
        lost += [f"object {each.number}: {each.why}" for each in unheld[:10]]
        return tuple(lost)

    def _open(self) -> HeldTree:
        if self._ground.held is None:
            raise RefusedError("nothing is being received", remedy="voltool move --status")
        return self._ground.held
