"""The two connections of a replica: to its volume's home and to its own host; and a round over them. The connections may stay
open from one round to the next; the sessions do not, for whoever holds one keeps others from the replica."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from voltool.errors import RefusedError
from voltool.model import FILLING, KnownVolume, Peer, ReplicaRecord
from voltool.remote.follow import at_home
from voltool.replica import driver
from voltool.replica.options import ReplicaOptions, Target
from voltool.replica.ports import Brought, Hosts, World
from voltool.replica.sessions import ReplicaSession, SourceSession, end_session
from voltool.showing import shown
from voltool.wire.conversation import IntroducedConversation
from voltool.wire.replicas import ReplicaOut


@dataclass(frozen=True)
class Round:
    """What a round brought, the record of the replica's host then, and where the volume lives."""

    brought: Brought
    record: ReplicaRecord
    volume: KnownVolume


class Pair:
    """Connections that are made when they are first needed; after an error none is left. ``begun``: the replica's host has
    a record of the replica."""

    def __init__(self) -> None:
        self.begun = False
        self._stack = contextlib.ExitStack()
        self._home = ""
        self._open: tuple[IntroducedConversation, IntroducedConversation] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._open = None
        stack, self._stack = self._stack, contextlib.ExitStack()
        stack.close()

    def connected(self, hosts: Hosts, home: str, host: str) -> tuple[IntroducedConversation, IntroducedConversation]:
        """Conversations with the agents at the volume's home and at the replica's host."""
        if self._open is None or self._home != home:
            self.close()
            there = self._stack.enter_context(hosts.connect(host))
            here = self._stack.enter_context(hosts.connect(home))
            self._open, self._home = (here, there), home
        return self._open


def bring(world: World, target: Target, options: ReplicaOptions, pair: Pair) -> Round:
    """Bring a replica up to date: one round, from wherever the volume lives now, which the catalog then knows."""
    try:
        return at_home(
            world, target.volume, lambda volume: _round(world, Target(volume, target.replica), options, pair)
        )
    except BaseException:
        pair.close()
        raise


def _round(world: World, target: Target, options: ReplicaOptions, pair: Pair) -> Round:
    volume, replica = target.volume, target.replica
    here, there = pair.connected(world.hosts, volume.host, replica.host)
    try:
        home = Peer(volume.host, here.agent.machine_id, here.agent.hostname, volume.path)
        place = Peer(replica.host, there.agent.machine_id, there.agent.hostname, replica.path)
        _refuse_itself(home, place)
        request = ReplicaOut(volume.uuid, volume.path, replica.replica_id, place, options.base_age)
        source = SourceSession(here, request, options)
        record = ReplicaRecord(
            replica.replica_id, volume.uuid, volume.name, replica.path, home, FILLING, int(time.time())
        )
        served = ReplicaSession(there, record, options, begin=True)
        pair.begun = True
        brought = driver.run(source, served, world.reporter, volume.name)
        for agent in (here, there):
            end_session(agent)
    except BaseException:  # an agent whose session failed is gone; the other one waits in the middle of its own
        pair.close()
        raise
    return Round(brought, served.record, volume)


def _refuse_itself(home: Peer, place: Peer) -> None:
    """Two names may lead to one machine."""
    if home.machine_id and home.machine_id == place.machine_id and home.path == place.path:
        where = f"{place.host}:{shown(place.path)}"
        raise RefusedError("the volume itself is there", where=where, remedy="another host, or another path")
