"""A lazy replica whose host reaches none that serve its files: they come through this machine, as long as the command runs.

The replica's process finds one more host to ask, at a port of its own loopback, where a tunnel begins (`remote.tunnel`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

from voltool.errors import HostError, UnreachableError
from voltool.events import Notice
from voltool.model import LAZY
from voltool.remote.doors import NO_DOOR, let_come
from voltool.remote.paths import DIRECT, RELAY
from voltool.remote.tunnel import carry
from voltool.replica.ports import World
from voltool.replica.serving import Servers
from voltool.replica.sessions import ReplicaSession
from voltool.replica.target import Target
from voltool.wire.conversation import IntroducedConversation
from voltool.wire.replicas import WAY_REVERSE, FetchSource
from voltool.wire.tunnel import EnterTunnel, LeaveTunnel

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Way:
    """Whom the replica's host shall ask for files: ``sources``. ``through``: the host to which a tunnel is needed, and ``why``;
    empty: none is."""

    sources: tuple[FetchSource, ...]
    through: str = ""
    why: str = ""


def find_way(world: World, session: ReplicaSession, target: Target, servers: Servers, mode: str) -> Way:
    """Let the ``servers`` serve, and see how their files come to the replica's host: it connects to them, they connect to it, or
    through a tunnel, whose beginning waits there from now on. ``mode``: of `remote.paths`. UnreachableError for a new replica
    that only a tunnel would reach, where that is not wanted."""
    sources = servers.begin()
    why = ""
    if mode != RELAY:
        stay = mode == DIRECT and session.record.phase == LAZY
        way = _without_tunnel(world, session, target, servers, sources, stay=stay)
        if way.sources:
            return way
        why = way.why
    if mode == DIRECT:
        raise UnreachableError(
            "no host that has the files can be reached directly", where=target.replica.host, why=why,
            remedy="let a port through and name it in the configuration ([hosts.NAME] ports = ...); or --path relay: through"
            " this machine, as long as the command runs",
        )  # fmt: skip
    first = sources[0]
    tunnel = FetchSource(
        f"{first.host} through the command line", (_LOOPBACK,), session.listen_tunnel(), first.certificate
    )
    # Before the others: to wait for one that does not answer takes seconds each time.
    return Way((tunnel, *(() if mode == RELAY else sources)), first.host, why)


def _without_tunnel(
    world: World,
    session: ReplicaSession,
    target: Target,
    servers: Servers,
    sources: tuple[FetchSource, ...],
    *,
    stay: bool,
) -> Way:
    """Without sources, and ``why``, where neither side reaches the other; with ``stay`` the replica, which is there already, goes
    on as soon as they can be reached again."""
    reached = session.reach(sources)
    was_reverse = session.status.way == WAY_REVERSE
    if reached.host:
        if was_reverse:
            servers.go_to(NO_DOOR)
        return Way(sources)
    with world.hosts.connect(target.replica.host) as there:  # the session is one of steps alone
        coming = let_come(there, target.replica.replica_id, sources, servers.go_to, stay=stay and was_reverse)
    host = target.replica.host
    if coming.sources:
        text = f"{target.volume.name}: {host} cannot connect to a host that has its files, so they connect to it: {reached.why}"
        world.reporter.report(Notice("info", text))
        return Way(coming.sources)
    why = f"{reached.why}; the other way round: {coming.why}"
    if not stay:
        return Way((), why=why)
    text = f"{target.volume.name}: {host} reaches no host that has what is missing: {why}"
    world.reporter.report(Notice("warning", text))
    return Way(tuple(dataclasses.replace(source, comes=was_reverse) for source in sources))


def relay(world: World, target: Target, way: Way, here: IntroducedConversation, there: IntroducedConversation) -> None:
    """Stay until the replica is full. ``here``, ``there``: the agents at the volume's home and at the replica's host, both free;
    so they are afterwards. HostError where it will not get full by waiting."""
    name, host = target.volume.name, target.replica.host
    _remember(world, target)
    why = f", for it reaches no host that has them: {way.why}" if way.why else ""
    world.reporter.report(Notice("warning", f"{name}: the files of {host} go through this machine{why}"))
    text = (
        f"{name}: the replica on {host} is filled, and what is missing there can be read, only while this command runs; after"
        f" that, reading what is missing fails until voltool replica sync {name} {host} runs"
    )
    world.reporter.report(Notice("warning", text))
    with contextlib.ExitStack() as stack:
        exit_ = here if way.through == target.volume.host else stack.enter_context(world.hosts.connect(way.through))
        replica_id = target.replica.replica_id
        fault = carry(there, EnterTunnel(target.volume.uuid, replica_id), exit_, LeaveTunnel(replica_id))
    if fault:
        raise HostError(
            "the replica is not full yet", where=target.subject, why=fault,
            remedy=f"voltool replica sync {name} {host} goes on",
        )  # fmt: skip


def _remember(world: World, target: Target) -> None:
    """That it is lazy, for whoever comes when this one was killed; not where it was removed meanwhile."""
    for known in world.catalog.replicas(target.volume.uuid):
        if known.replica_id == target.replica.replica_id:
            world.catalog.put_replica(dataclasses.replace(known, phase=LAZY))
