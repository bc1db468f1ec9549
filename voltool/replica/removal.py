"""`voltool replica remove`: the replica's host and the volume's home forget it, then the catalog. The data goes only where that
is wished, and where it cannot be the last copy."""

from __future__ import annotations

import time
from dataclasses import dataclass

from voltool.errors import HostError, NotFoundError, RefusedError, UnreachableError, VoltoolError
from voltool.events import Notice
from voltool.model import FILLING, LAZY, KnownReplica, KnownVolume, Peer, ReplicaRecord
from voltool.policy.replicas import FORMER
from voltool.remote.follow import at_home
from voltool.replica.lazy import stop_serving
from voltool.replica.ports import World
from voltool.replica.retrying import when_free
from voltool.replica.sessions import ReplicaSession, ReplicaSettings, SourceSession
from voltool.replica.target import Target
from voltool.showing import shown
from voltool.wire.conversation import expect
from voltool.wire.replicas import ListReplicas, ReplicasReply


@dataclass(frozen=True)
class Removed:
    """``stays``: the replica's tree is still there, as a plain directory; ``host_told``, ``home_told``: who knows that it is none
    any more."""

    target: Target
    stays: bool
    host_told: bool
    home_told: bool


def remove(world: World, name: str, host: str, *, purge: bool, forget_host: bool) -> Removed:
    """Remove the replica of ``name`` on ``host``; with ``purge`` its tree too. ``forget_host``: the host is lost and not asked.

    NotFoundError where there is none; UnreachableError where its host cannot be told. Where the home cannot be told, a notice
    says what stays there; then nothing is purged, for it may be the last copy: RefusedError. What a lazy replica has of its
    files goes in any case.
    """
    volume = world.catalog.volume(name)
    known = _known(world, volume, host, ask=not forget_host)
    target = Target(volume, known)
    if known.role == FORMER:
        return _forget_former(world, target, forget_host=forget_host)
    if purge and forget_host:
        raise RefusedError("a host that is lost cannot be told to purge", where=host, remedy="one of the two options")
    if purge:
        _check_home(world, volume)
    phase = known.phase if forget_host else when_free(lambda: _tell_host(world, target, purge=purge))
    home_told = _tell_home(world, target)
    if known.phase == LAZY:
        stop_serving(world, target)
    world.catalog.remove_replica(known.replica_id)
    stays = forget_host or (not purge and phase != LAZY)
    return Removed(target, stays, host_told=not forget_host, home_told=home_told)


def _known(world: World, volume: KnownVolume, host: str, *, ask: bool) -> KnownReplica:
    found = next((each for each in world.catalog.replicas(volume.uuid) if each.host == host), None)
    if found is not None:
        return found
    if not ask:
        return _kept_at_home(world, volume, host)
    with world.hosts.connect(host) as agent:
        agent.send(ListReplicas())
        statuses = expect(agent, ReplicasReply).replicas
    for record in (each.replica for each in statuses if each.replica.uuid == volume.uuid):
        return KnownReplica(record.replica_id, volume.uuid, host, record.path, phase=record.phase)
    raise _none_there(volume, host)


def _kept_at_home(world: World, volume: KnownVolume, host: str) -> KnownReplica:
    """A replica on a lost host that only the volume's home knows of."""
    with world.hosts.connect(volume.host) as agent:
        agent.send(ListReplicas())
        bases = expect(agent, ReplicasReply).bases
    for base in bases:
        if base.uuid == volume.uuid and host in (base.replica.host, base.replica.hostname):
            return KnownReplica(base.replica_id, volume.uuid, host, base.replica.path)
    raise _none_there(volume, host)


def _none_there(volume: KnownVolume, host: str) -> NotFoundError:
    return NotFoundError(
        f"{volume.name} has no replica on {host}", where=host, remedy=f"voltool replica list {volume.name}"
    )


def _forget_former(world: World, target: Target, *, forget_host: bool) -> Removed:
    host, name = target.replica.host, target.volume.name
    if not forget_host:
        raise RefusedError(
            "that host is no replica: it was the volume's home before a promotion, and has not been told yet",
            where=f"{host}:{shown(target.replica.path)}",
            remedy=f"voltool replica sync {name} tells it; --forget-host where it is lost for good",
        )
    world.catalog.remove_replica(target.replica.replica_id)
    return Removed(target, stays=True, host_told=False, home_told=True)


def _check_home(world: World, volume: KnownVolume) -> None:
    """Whether the volume is alive at its home; RefusedError where nobody can say so."""
    from voltool.move.where import where

    try:
        where(world, volume.name)
    except VoltoolError as error:
        raise RefusedError(
            "the replica is not purged: it may be the last copy",
            where=f"{volume.host}:{shown(volume.path)}",
            why=f"the volume's home does not confirm that it has it: {error}",
            remedy="without --purge its tree stays, as a plain directory",
        ) from None


def _tell_host(world: World, target: Target, *, purge: bool) -> str:
    """The phase that it had by its host's word; empty: the host has none."""
    volume, replica = target.volume, target.replica
    home = Peer(volume.host, "", "", volume.path)
    record = ReplicaRecord(replica.replica_id, volume.uuid, volume.name, replica.path, home, FILLING, int(time.time()))
    try:
        with world.hosts.connect(replica.host) as agent:
            session = ReplicaSession(agent, record, ReplicaSettings(), begin=False)
            phase = session.record.phase
            session.remove(purge=purge)
            session.end()
    except UnreachableError as error:
        lost = f"voltool replica remove {volume.name} {replica.host} --forget-host"
        error.remedy = f"the same when it answers; if it is lost for good: {lost}"
        raise
    except NotFoundError:
        world.reporter.report(Notice("info", f"{replica.host} has no such replica"))
        return ""
    return phase


def _tell_home(world: World, target: Target) -> bool:
    """Whether the home has released what it kept for the replica."""
    replica = target.replica

    def act(volume: KnownVolume) -> None:
        with world.hosts.connect(volume.host) as agent:
            place = Peer(replica.host, "", "", replica.path)
            session = SourceSession(agent, volume, replica.replica_id, place, ReplicaSettings())
            session.forget()
            session.end()

    try:
        when_free(lambda: at_home(world, target.volume, act))
    except (UnreachableError, HostError, NotFoundError) as error:
        message = (
            f"{target.volume.host} was not told ({error.what}): the clone that it keeps for the replica stays there until"
            " replica_base_age has passed, or the next dump of the volume needs the room"
        )
        world.reporter.report(Notice("warning", message))
        return False
    return True
