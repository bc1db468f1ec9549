"""The two connections of a replica: to its volume's home and to its own host; and a round over them. The connections may stay
open from one round to the next; the sessions do not, for whoever holds one keeps others from the replica."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from voltool.errors import MovedError, PathBrokenError, RefusedError
from voltool.events import Notice
from voltool.model import FILLING, LAZY, KnownReplica, KnownVolume, Peer, ReplicaRecord
from voltool.remote.ahead import Ahead
from voltool.remote.follow import at_home
from voltool.remote.paths import AUTO, RELAY, open_path
from voltool.replica import driver, lazy
from voltool.replica.contact import settle_homes
from voltool.replica.ports import Brought, World
from voltool.replica.sessions import ReplicaSession, ReplicaSettings, SourceSession
from voltool.replica.target import Target
from voltool.showing import shown
from voltool.wire.conversation import IntroducedConversation
from voltool.wire.replicas import ReplicaStatus

#: So often may the direct path break in one sync; before the last time the relay is taken, where that is allowed.
_MOST_BREAKS = 3


@dataclass(frozen=True)
class Round:
    """What the last of ``rounds`` brought, ``bytes`` of all of them, what the replica's host says now, and where the volume
    lives."""

    brought: Brought
    bytes: int
    rounds: int
    status: ReplicaStatus
    volume: KnownVolume


@dataclass(frozen=True)
class Connected:
    """``direct``: dumps go over the direct path between the two."""

    here: IntroducedConversation
    there: IntroducedConversation
    direct: bool


class Pair:
    """Connections that are made when they are first needed; after an error none is left. ``begun``: the replica's host has
    a record of the replica."""

    def __init__(self) -> None:
        self.begun = False
        self._stack = contextlib.ExitStack()
        self._home = ""
        self._open: Connected | None = None

    def has_begun(self) -> None:
        """The replica's host has a record of it by now."""
        self.begun = True

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

    def connected(self, world: World, target: Target, path: str) -> Connected:
        """Conversations with the agents at the volume's home and at the replica's host, and the ``path`` between the two."""
        home = target.volume.host
        if self._open is None or self._home != home:
            self.close()
            hosts = self._stack.enter_context(Ahead(world.hosts))
            hosts.begin(target.replica.host)
            hosts.begin(home)
            there = self._stack.enter_context(hosts.connect(target.replica.host))
            here = self._stack.enter_context(hosts.connect(home))
            _refuse_itself(_peer(target.volume, here), _peer(target.replica, there))
            direct = open_path(here, there, path, world.reporter, target.volume.name)
            self._open, self._home = Connected(here, there, direct), home
        return self._open


@dataclass(frozen=True)
class How:
    """How a round goes: ``settings`` of the data's way; ``until_level``: one round after the other, as long as that helps;
    ``forbidden``: see `wire.replicas.ReplicaIn`."""

    settings: ReplicaSettings
    until_level: bool = True
    forbidden: tuple[bytes, ...] = ()


def bring(world: World, target: Target, how: How, pair: Pair) -> Round:
    """Bring a replica up to date, from wherever the volume lives now, which the catalog then knows. Where the replica's
    host knows of a later home than the catalog does, all hosts are asked, and who is none any more is told."""
    try:
        return _bring(world, target, how, pair)
    except MovedError:
        pair.close()
        settle_homes(world, target.volume, [target.replica.host])
        raise
    except BaseException:  # an agent whose session failed is gone; the other one waits in the middle of its own
        pair.close()
        raise


def _bring(world: World, target: Target, how: How, pair: Pair) -> Round:
    """Over the direct path again where it broke: what has arrived is kept; at last through this machine, where that is
    allowed."""
    for breaks in range(1, _MOST_BREAKS):
        try:
            return _at_home(world, target, how, pair)
        except PathBrokenError as error:
            pair.close()
            text = f"{target.volume.name}: {error}; it goes on from what has arrived"
            if breaks == _MOST_BREAKS - 1 and how.settings.path == AUTO:
                how = dataclasses.replace(how, settings=dataclasses.replace(how.settings, path=RELAY))
                text += ", through this machine"
            world.reporter.report(Notice("warning", text))
    return _at_home(world, target, how, pair)


def _at_home(world: World, target: Target, how: How, pair: Pair) -> Round:
    return at_home(world, target.volume, lambda volume: _rounds(world, Target(volume, target.replica), how, pair))


def _rounds(world: World, target: Target, how: How, pair: Pair) -> Round:
    volume, replica = target.volume, target.replica
    try:
        is_lazy = lazy.wants_lazy(target, how.settings)
        ends = pair.connected(world, target, RELAY if is_lazy else how.settings.path)
        home, place = _peer(volume, ends.here), _peer(replica, ends.there)
        since = int(time.time())
        record = ReplicaRecord(replica.replica_id, volume.uuid, volume.name, replica.path, home, FILLING, since)
        served = None if is_lazy else _session(ends, record, how, pair)
        if served is not None and served.record.phase == LAZY:  # who made it so did not come to tell the catalog
            served.end()
            served = None
        if served is None:
            wish = lazy.LazyWish(Target(volume, replica), how.settings, place, record, how.forbidden)
            mounted = lazy.mount(world, wish, ends.here, ends.there, pair.has_begun)
            if mounted is not None:
                return Round(mounted.brought, mounted.brought.bytes, 1, mounted.status, volume)
            pair.close()
            ends = pair.connected(world, target, how.settings.path)
            served = _session(ends, record, how, pair)
        source = SourceSession(ends.here, volume, replica.replica_id, place, how.settings)
        done = driver.sync(source, served, world.reporter, until_level=how.until_level)
        source.end()
        served.end()
    except MovedError:
        pair.close()
        raise
    assert done.brought is not None, "a sync has one round at the least"
    _tell_lost(world, target, served.lost)
    return Round(done.brought, done.bytes, done.rounds, served.status, volume)


def _session(ends: Connected, record: ReplicaRecord, how: How, pair: Pair) -> ReplicaSession:
    served = ReplicaSession(ends.there, record, how.settings, begin=True, direct=ends.direct, forbidden=how.forbidden)
    pair.has_begun()  # before the home keeps anything for it: most of what can be refused is refused there
    return served


def _tell_lost(world: World, target: Target, lost: tuple[str, ...]) -> None:
    for what in lost:
        world.reporter.report(
            Notice("warning", f"{target.volume.name}: {target.replica.host} cannot hold everything: {what}")
        )


def _peer(place: KnownVolume | KnownReplica, agent: IntroducedConversation) -> Peer:
    return Peer(place.host, agent.agent.machine_id, agent.agent.hostname, place.path)


def _refuse_itself(home: Peer, place: Peer) -> None:
    """Two names may lead to one machine."""
    if home.machine_id and home.machine_id == place.machine_id and home.path == place.path:
        where = f"{place.host}:{shown(place.path)}"
        raise RefusedError("the volume itself is there", where=where, remedy="another host, or another path")
