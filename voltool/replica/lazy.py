"""Lazy replicas, from the command line's side: the manifest goes first, then hosts serve files, and the replica's host is told of
them.

The same again goes on where it was cut off, and after reboots: what runs goes on, what does not is started, with the addresses
and ports of now. Once a lazy replica is full it is one like any other, and who served to it is told to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voltool.errors import RefusedError, VoltoolError
from voltool.events import Notice
from voltool.model import LAZY, SERVING, Epoch, KnownReplica, Peer, ReplicaRecord
from voltool.replica.ports import Brought, World
from voltool.replica.relay import find_way, relay
from voltool.replica.retrying import when_free
from voltool.replica.serving import Servers
from voltool.replica.sessions import ReplicaSession, ReplicaSettings, SourceSession
from voltool.replica.target import Target
from voltool.showing import shown
from voltool.wire import messages
from voltool.wire.conversation import IntroducedConversation, expect
from voltool.wire.replicas import FetchSource, ReplicaStatus, StartLazy
from voltool.wire.serving import IdentityReply, MakeIdentity, StopServing

_WITHOUT_CLONES = "directory"
_NOBODY = Epoch(0, "", "")


@dataclass(frozen=True)
class LazyWish:
    """``place`` is where the replica is, as its volume's home is told; ``record`` as its host is told; ``forbidden``: see
    `wire.replicas.ReplicaIn`."""

    target: Target
    settings: ReplicaSettings
    place: Peer
    record: ReplicaRecord
    forbidden: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Mounted:
    """A lazy replica that is mounted: what it serves, and how its host says that it stands."""

    brought: Brought
    status: ReplicaStatus


def wants_lazy(target: Target, settings: ReplicaSettings) -> bool:
    """Whether this is about a lazy replica, as far as we know here."""
    return target.replica.phase == LAZY or settings.lazy


def mount(
    world: World,
    wish: LazyWish,
    here: IntroducedConversation,
    there: IntroducedConversation,
    begun: Callable[[], None],
) -> Mounted | None:
    """See that the lazy replica is mounted and can be filled; None where it is full, or is to be filled in the usual way. Where
    its host reaches none that serve its files, they come through this machine, and it ends when the replica is full.

    ``here`` and ``there``: the agents at the volume's home and at the replica's host, both free; so they are afterwards.
    ``begun`` is called when the replica's host has a record of it.
    """
    target = wish.target
    others = _from(world, target, wish.settings)  # before anything is done
    _refuse_without_clones(here, target)
    there.send(MakeIdentity(target.replica.replica_id))
    certificate = expect(there, IdentityReply).certificate
    session = ReplicaSession(there, wish.record, wish.settings, begin=True, forbidden=wish.forbidden)
    begun()
    brought = None
    if session.record.phase != LAZY:
        if session.record.phase == SERVING or session.held:
            session.end()
            stop_serving(world, target)
            return None
        brought = _send_manifest(here, wish, session)
    way = find_way(world, session, target, Servers(world, target, here, certificate, others), wish.settings.path)
    session.start_lazy(_step(wish.settings, way.sources, brought))
    session.end()
    served, status = session.record, session.status
    state = Brought(
        served.state_id, served.epoch or _NOBODY, served.sequence, served.clone_time_ns, 0, 0, 0.0
    )  # fmt: skip
    if way.through:
        relay(world, target, way, here, there)
        status = when_free(lambda: _look(there, wish))
        if status.replica.phase == SERVING:
            stop_serving(world, target)
    return Mounted(brought or state, status)


def _look(there: IntroducedConversation, wish: LazyWish) -> ReplicaStatus:
    session = ReplicaSession(there, wish.record, wish.settings, begin=False)
    session.end()
    return session.status


def _refuse_without_clones(here: IntroducedConversation, target: Target) -> None:
    here.send(messages.ShowVolume(target.volume.uuid, target.volume.path))
    record = expect(here, messages.VolumeReply).record
    if record.driver == _WITHOUT_CLONES:
        raise RefusedError(
            "the volume cannot be served lazily", where=f"{target.volume.host}:{shown(record.path)}",
            why=f"its driver ({record.driver}) has no clones: while files are fetched, they would change",
            remedy="voltool replica add without --lazy; a btrfs subvolume can be cloned, and on XFS --driver reflink",
        )  # fmt: skip


def stop_serving(world: World, target: Target) -> None:
    """The replica is full, or removed: whoever served to it stops, and its keys go. Who cannot be told is named in a notice."""
    hosts = [target.volume.host, *(each.host for each in _others(world, target))]
    for host in dict.fromkeys(hosts):
        try:
            with world.hosts.connect(host) as agent:
                agent.send(StopServing(target.replica.replica_id))
                expect(agent, messages.Done)
        except VoltoolError as error:
            text = f"{host} was not told to serve no more to {target.replica.host}: {error.what}"
            world.reporter.report(Notice("warning", text))


def _send_manifest(here: IntroducedConversation, wish: LazyWish, session: ReplicaSession) -> Brought:
    """The volume is cloned, and its manifest goes to the replica's host. The clone stays."""
    volume, replica = wish.target.volume, wish.target.replica
    source = SourceSession(here, volume, replica.replica_id, wish.place, wish.settings)
    brought = source.dump_manifest(session.manifest_sink())
    source.keep(brought.state_id)
    source.end()
    return brought


def _step(settings: ReplicaSettings, sources: tuple[FetchSource, ...], brought: Brought | None) -> StartLazy:
    if brought is None:
        return StartLazy(sources, settings.fill_bandwidth, settings.fetch_timeout)
    return StartLazy(
        sources,
        settings.bandwidth,
        settings.fetch_timeout,
        state_id=brought.state_id,
        epoch=brought.epoch,
        sequence=brought.sequence,
        clone_time_ns=brought.clone_time_ns,
    )


# -------------------------------------------------------------------------------------------------- who serves to it


def _from(world: World, target: Target, settings: ReplicaSettings) -> list[str]:
    """The hosts of the full replicas that shall serve too: those that were named, else all."""
    full = sorted({each.host for each in _others(world, target) if each.phase == SERVING})
    strange = [host for host in settings.sources if host not in full and host != target.volume.host]
    if strange:
        raise RefusedError(
            f"{strange[0]} has no full replica of {target.volume.name}",
            why=f"these have: {', '.join(full)}" if full else "no host has one",
            remedy="without --from the volume's home and all full replicas serve",
        )
    return [host for host in settings.sources if host in full] if settings.sources else full


def _others(world: World, target: Target) -> list[KnownReplica]:
    """The other replicas of the volume."""
    mine = target.replica.replica_id
    return [each for each in world.catalog.replicas(target.volume.uuid) if each.replica_id != mine]
