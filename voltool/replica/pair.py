"""The two connections of a replica: to its volume's home and to its own host; and a round over them. The connections may stay
open from one round to the next; the sessions do not, for whoever holds one keeps others from the replica."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from voltool.errors import MovedError, RefusedError
from voltool.events import Notice
from voltool.model import FILLING, KnownVolume, Peer, ReplicaRecord
from voltool.remote.follow import at_home
from voltool.replica import driver, lazy
from voltool.replica.ports import Brought, Hosts, World
from voltool.replica.sessions import ReplicaSession, ReplicaSettings, SourceSession
from voltool.replica.target import Target
from voltool.showing import shown
from voltool.wire.conversation import IntroducedConversation
from voltool.wire.replicas import ReplicaStatus


@dataclass(frozen=True)
class Round:
    """What the last of ``rounds`` brought, ``bytes`` of all of them, what the replica's host says now, and where the volume
    lives."""

    brought: Brought
    bytes: int
    rounds: int
    status: ReplicaStatus
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


@dataclass(frozen=True)
class How:
    """How a round goes: ``settings`` of the data's way; ``until_level``: one round after the other, as long as that helps;
    ``forbidden``: see `wire.replicas.ReplicaIn`."""

    settings: ReplicaSettings
    until_level: bool = True
    forbidden: tuple[bytes, ...] = ()


def bring(world: World, target: Target, how: How, pair: Pair) -> Round:
    """Bring a replica up to date, from wherever the volume lives now, which the catalog then knows."""
    try:
        return at_home(world, target.volume, lambda volume: _rounds(world, Target(volume, target.replica), how, pair))
    except BaseException:  # an agent whose session failed is gone; the other one waits in the middle of its own
        pair.close()
        raise


def _rounds(world: World, target: Target, how: How, pair: Pair) -> Round:
    volume, replica = target.volume, target.replica
    try:
        here, there = pair.connected(world.hosts, volume.host, replica.host)
        home = Peer(volume.host, here.agent.machine_id, here.agent.hostname, volume.path)
        place = Peer(replica.host, there.agent.machine_id, there.agent.hostname, replica.path)
        _refuse_itself(home, place)
        since = int(time.time())
        record = ReplicaRecord(replica.replica_id, volume.uuid, volume.name, replica.path, home, FILLING, since)
        if lazy.wants_lazy(target, how.settings):
            wish = lazy.LazyWish(Target(volume, replica), how.settings, place, record, how.forbidden)
            mounted = lazy.mount(world, wish, here, there)
            pair.begun = True
            if mounted is not None:
                return Round(mounted.brought, mounted.brought.bytes, 1, mounted.status, volume)
        source = SourceSession(here, volume, replica.replica_id, place, how.settings)
        served = ReplicaSession(there, record, how.settings, begin=True, forbidden=how.forbidden)
        pair.begun = True
        done = driver.sync(source, served, world.reporter, until_level=how.until_level)
        source.end()
        served.end()
    except MovedError:
        pair.close()
        raise
    assert done.brought is not None, "a sync has one round at the least"
    _tell_lost(world, target, served.lost)
    return Round(done.brought, done.bytes, done.rounds, served.status, volume)


def _tell_lost(world: World, target: Target, lost: tuple[str, ...]) -> None:
    for what in lost:
        world.reporter.report(
            Notice("warning", f"{target.volume.name}: {target.replica.host} cannot hold everything: {what}")
        )


def _refuse_itself(home: Peer, place: Peer) -> None:
    """Two names may lead to one machine."""
    if home.machine_id and home.machine_id == place.machine_id and home.path == place.path:
        where = f"{place.host}:{shown(place.path)}"
        raise RefusedError("the volume itself is there", where=where, remedy="another host, or another path")
