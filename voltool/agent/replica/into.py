"""The session with the host of a replica: the order of messages stands in `wire.replicas`. Ships to servers.

`Session` is what the steps share; a step that is no part of keeping a replica up to date has a module of its own
(`_ELSEWHERE`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import time
from typing import Dict, Optional, Tuple

import voltool
from voltool.agent.host import HostState
from voltool.agent.manifest import send_manifest
from voltool.agent.path.held import data_way
from voltool.agent.replica.checks import check_can_exchange, check_path
from voltool.agent.replica.claims import refuse_earlier, refuse_promoted
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.place import place_of
from voltool.agent.replica.promoting import as_before
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.removal import remove_replica
from voltool.agent.replica.room import room_for
from voltool.agent.replica.status import status_of
from voltool.agent.restore import receive_dump, worker_count
from voltool.errors import AgentError, HostError, RefusedError, SpaceError
from voltool.events import Notice
from voltool.model import FILLING, SERVING, ReplicaRecord
from voltool.showing import shown
from voltool.tree.apply.applier import ApplySettings
from voltool.tree.apply.arrival import Arrival
from voltool.tree.apply.ready import rehearse
from voltool.tree.apply.staging import StagingKey
from voltool.tree.apply.waiting import IncrementReception
from voltool.volumes.moving.records import MoveBook
from voltool.wire import messages, moving, replicas, tunnel
from voltool.wire.conversation import Conversation

#: Steps that are carried out elsewhere: ``function(step, session)`` gives the answer.
_ELSEWHERE: Dict[type, Tuple[str, str]] = {
    replicas.ReceiveManifest: ("voltool.agent.lazy.start", "receive_manifest"),
    replicas.ReachSources: ("voltool.agent.lazy.start", "reach_sources"),
    tunnel.ListenTunnel: ("voltool.agent.fetching.relaying", "listen_tunnel"),
    replicas.StartLazy: ("voltool.agent.lazy.start", "start_lazy"),
    replicas.PromoteReplica: ("voltool.agent.replica.promotion", "promote_step"),
}


def replica_in(request: replicas.ReplicaIn, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `ReplicaIn` and the steps of its session. Raises BusyError, RefusedError, SpaceError, IntegrityError."""
    known = ReplicaBook(host.directory).find(request.replica.uuid)
    if known is None and not request.begin:
        conversation.send(replicas.ReplicaStatus(dataclasses.replace(request.replica, phase=""), running=False))
        return _serve_nothing(conversation)
    if request.begin:
        refuse_promoted(host, request.replica.uuid)
    record = _begun(request, known, host)
    place = place_of(record)
    if known is None or request.begin:
        place.make()
    with contextlib.ExitStack() as stack:
        if os.path.isdir(place.directory):
            stack.enter_context(place.lock(f"sync of replica {record.replica_id}"))
        replica = HostReplica(host, record)
        stack.callback(replica.close)
        session = Session(conversation, host, replica)
        session.begin(request, fresh=known is None)
        conversation.send(session.status())
        return session.serve()


def _begun(request: replicas.ReplicaIn, known: Optional[ReplicaRecord], host: HostState) -> ReplicaRecord:
    """The record to work with: the one that is known, which must be of the same replica."""
    wish = request.replica
    if known is None:
        check_path(wish, host, request.forbidden)
        return dataclasses.replace(wish, phase=FILLING, since=time.time_ns())
    if known.replica_id != wish.replica_id and request.begin:
        raise RefusedError(
            "this host has a replica of the volume already",
            where=shown(known.path),
            why=f"it is {known.replica_id}",
            remedy=f"voltool replica remove {known.name} HOST, first",
        )
    return known


def _serve_nothing(conversation: Conversation) -> messages.Message:
    """There is no replica: nothing is to be removed."""
    while True:
        step = conversation.receive()
        if isinstance(step, replicas.EndReplica):
            return messages.Done()
        if not isinstance(step, replicas.RemoveReplica):
            raise RefusedError("there is no replica of the volume on this host", remedy="voltool replica add")
        conversation.send(messages.Done())


class Session:
    """One session; `serve` until it ends. ``gone``: the replica was removed in it."""

    def __init__(self, conversation: Conversation, host: HostState, replica: HostReplica) -> None:
        self.conversation = conversation
        self.host = host
        self.replica = replica
        self.gone = False
        self._home = replica.record.home

    def begin(self, request: replicas.ReplicaIn, *, fresh: bool) -> None:
        """Make the replica, or go on with it; nothing where it is only looked at."""
        replica, wish = self.replica, request.replica
        if fresh:
            check_can_exchange(replica.place)
            replica.save(replica.record)
            self._tell_retired()
        elif request.begin:
            known = as_before(replica.record)
            if known != replica.record or known.name != wish.name:
                replica.save(dataclasses.replace(known, name=wish.name))
        self._home = wish.home
        if request.begin:
            replica.go_on()
            self._tell_changed()

    def _tell_retired(self) -> None:
        retired = MoveBook(self.host.directory).source(self.replica.record.uuid)
        if retired is not None and os.path.isdir(retired.retired_path):
            place = shown(retired.retired_path)
            message = f"{retired.name}: everything is sent: the copy that it left here ({place}) stays as it is"
            self.conversation.report(Notice("info", message))

    def _tell_changed(self) -> None:
        replica = self.replica
        if replica.changed is not None:
            where = shown(os.path.join(replica.place.path, replica.changed))
            message = f"{replica.record.name}: the replica was changed on its host ({where}): what differs comes anew"
            self.conversation.report(Notice("warning", message))

    def status(self) -> replicas.ReplicaStatus:
        """What the replica is now."""
        return status_of(self.replica)

    def serve(self) -> messages.Message:
        """Carry out steps until `EndReplica`."""
        while True:
            step = self.conversation.receive()
            if isinstance(step, replicas.EndReplica):
                return messages.Done()
            self.conversation.send(self._step(step))

    def _step(self, step: object) -> messages.Message:
        if isinstance(step, replicas.RemoveReplica):
            if not self.gone:
                refuse_promoted(self.host, self.replica.record.uuid)
                self.replica.close()
                remove_replica(self.replica.record, self.host, purge=step.purge)
            self.gone = True
            return messages.Done()
        if self.gone:
            raise RefusedError("the replica was removed", where=shown(self.replica.place.path))
        if isinstance(step, moving.SendManifest):
            return self._send_manifest()
        if isinstance(step, moving.ReceiveDump):
            return self._receive(step)
        if isinstance(step, replicas.SwapReplica):
            return self._swap(step)
        if type(step) in _ELSEWHERE:
            module, function = _ELSEWHERE[type(step)]
            answer: messages.Message = getattr(importlib.import_module(module), function)(step, self)
            return answer
        raise AgentError("that is no step of a replica's session with its host", why=type(step).__name__)

    def _send_manifest(self) -> messages.Message:
        keeper = self.replica.keeper
        state = keeper.open(self.replica.held_state)
        if state is None:
            raise HostError(
                "the manifest of the replica cannot be read",
                where=shown(self.replica.place.states),
                remedy="voltool replica remove, and add it again",
            )
        with contextlib.closing(state):
            send_manifest(self.conversation, state, keeper, voltool.__version__)
        return messages.EndOfData()

    # -------------------------------------------------------------------------------------------------------- arrival

    def _receive(self, step: moving.ReceiveDump) -> moving.Arrived:
        replica = self.replica
        with room_for(replica, step.size):
            size = self._receive_increment(step) if replica.held_state else self._receive_all(step)
        state = replica.keeper.open(replica.held_state)
        assert state is not None
        with contextlib.closing(state):
            entries = state.entries.count()
        return moving.Arrived(replica.held_state, entries, size, self._lost())

    def _receive_all(self, step: moving.ReceiveDump) -> int:
        held = self.replica.begin_first()
        record = self.replica.record
        key = StagingKey(self.replica.place.next, record.uuid, "", f"replica {record.replica_id}")
        settings = ApplySettings(key=key, workers=step.workers or worker_count(), subject=record.name)
        arrival = Arrival(held, settings, self.conversation)
        with contextlib.closing(arrival):
            with data_way(self.conversation, over_path=step.over_path) as way:
                receive_dump(way, arrival.feed, step.bandwidth)
            applied = arrival.arrive()
        self.replica.losses.merge(arrival.lost())
        rehearse(held, self.replica.attributes)
        return applied.bytes

    def _receive_increment(self, step: moving.ReceiveDump) -> int:
        """The increment comes into a file of its own first: one that brings nothing costs no new tree."""
        base = self.replica.held_state
        increment = self.replica.place.increment
        try:
            with contextlib.closing(IncrementReception(increment)) as reception:
                with data_way(self.conversation, over_path=step.over_path) as way:
                    receive_dump(way, reception.feed, step.bandwidth)
                state_id = reception.complete(base)
        except SpaceError:
            os.unlink(increment)
            raise
        if state_id == base:
            os.unlink(increment)
            return 0
        self.replica.begin_next()
        return self.replica.apply()

    def _swap(self, step: replicas.SwapReplica) -> replicas.ReplicaStatus:
        refuse_earlier(self.replica.record, step.epoch)
        served = dataclasses.replace(
            self.replica.record,
            phase=SERVING,
            home=self._home,
            state_id=step.state_id,
            epoch=step.epoch,
            sequence=step.sequence,
            clone_time_ns=step.clone_time_ns,
        )
        self.replica.swap(served)
        return self.status()

    def _lost(self) -> Tuple[str, ...]:
        """What the file system here cannot hold; what the home could not read is told with its dump."""
        losses = self.replica.losses
        lost = [f"{what}: {count} times" for what, (count, _first) in sorted(losses.attributes.items())]
        unheld = [lost for lost in losses.objects if not lost.unread]
        lost += [f"object {each.number}: {each.why}" for each in unheld[:10]]
        return tuple(lost)
