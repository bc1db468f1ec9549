"""Lazy replicas, from the command line's side: the manifest goes first, then hosts serve files and the replica's host is told of them.

The same again goes on where it was cut off, and after reboots: what runs goes on, what does not is started, with the addresses and
ports of now. Once a lazy replica is full it is one like any other, and who served to it is told to stop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from voltool.errors import RefusedError, UnreachableError, VoltoolError
from voltool.events import Notice
from voltool.model import LAZY, SERVING, Epoch, KnownReplica, ReplicaRecord
from voltool.replica.options import ReplicaOptions, Target
from voltool.replica.ports import Brought, World
from voltool.replica.sessions import ReplicaSession, SourceSession, end_session
from voltool.wire import messages
from voltool.wire.conversation import IntroducedConversation, expect
from voltool.wire.replicas import (
    FetchSource,
    FilesServed,
    IdentityReply,
    MakeIdentity,
    ReplicaOut,
    ReplicaStatus,
    ServeFiles,
    StartLazy,
    StopServing,
)

#: What a host may serve: see `ServeFiles`.
_CLONE, _REPLICA = "clone", "replica"
_NOBODY = Epoch(0, "", "")


@dataclass(frozen=True)
class Mounted:
    """A lazy replica that is mounted: what it serves, and how its host says that it stands."""

    brought: Brought
    status: ReplicaStatus


def wants_lazy(target: Target, options: ReplicaOptions) -> bool:
    """Whether this is about a lazy replica, as far as we know here."""
    return target.replica.phase == LAZY or options.lazy


def mount(
    world: World,
    target: Target,
    options: ReplicaOptions,
    agents: tuple[IntroducedConversation, IntroducedConversation],
    request: ReplicaOut,
    record: ReplicaRecord,
) -> Mounted | None:
    """See that the lazy replica is mounted and can be filled; None where it is full, or is to be filled in the usual way.

    ``agents``: at the volume's home and at the replica's host, both free; so they are afterwards.
    """
    here, there = agents
    there.send(MakeIdentity(target.replica.replica_id))
    certificate = expect(there, IdentityReply).certificate
    session = ReplicaSession(there, record, options, begin=True)
    if session.record.phase == SERVING or (session.held and not _is_lazy(session)):
        end_session(there)
        return None
    brought = None if _is_lazy(session) else _send_manifest(here, request, options, session)
    sources = _sources(world, target, options, here, certificate)
    status = _start(there, session, sources, options, brought)
    end_session(there)
    served = status.replica
    known = Brought(
        served.state_id, served.epoch or _NOBODY, served.sequence, served.clone_time_ns, 0, 0, 0.0,
    )  # fmt: skip
    return Mounted(brought or known, status)


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


def _is_lazy(session: ReplicaSession) -> bool:
    return session.record.phase == LAZY


def _send_manifest(
    here: IntroducedConversation, request: ReplicaOut, options: ReplicaOptions, session: ReplicaSession
) -> Brought:
    """The volume is cloned, and its manifest goes to the replica's host. The clone stays."""
    source = SourceSession(here, request, options)
    brought = source.dump_manifest(session.manifest_sink())
    source.keep(brought.state_id)
    end_session(here)
    return brought


def _start(
    there: IntroducedConversation,
    session: ReplicaSession,
    sources: tuple[FetchSource, ...],
    options: ReplicaOptions,
    brought: Brought | None,
) -> ReplicaStatus:
    wish = StartLazy(sources, options.bandwidth, options.fetch_timeout)
    if brought is not None:
        wish = StartLazy(
            sources,
            options.bandwidth,
            options.fetch_timeout,
            state_id=brought.state_id,
            epoch=brought.epoch,
            sequence=brought.sequence,
            clone_time_ns=brought.clone_time_ns,
        )
    there.send(wish)
    status = expect(there, ReplicaStatus)
    session.record = status.replica
    return status


# -------------------------------------------------------------------------------------------------- who serves to it


def _sources(
    world: World, target: Target, options: ReplicaOptions, here: IntroducedConversation, certificate: bytes
) -> tuple[FetchSource, ...]:
    """The volume's home, then the hosts of full replicas; those that do not serve are named in notices. UnreachableError where
    none does."""
    found: list[FetchSource] = []
    faults: list[str] = []
    volume = target.volume
    wanted: list[tuple[str, str]] = [
        (volume.host, _CLONE),
        *((host, _REPLICA) for host in _from(world, target, options)),
    ]
    for host, what in wanted:
        wish = ServeFiles(volume.uuid, target.replica.replica_id, what, certificate, options.ports(host))
        try:
            with _agent(world, host, here if host == volume.host else None) as agent:
                agent.send(wish)
                served = expect(agent, FilesServed)
        except VoltoolError as error:
            faults.append(f"{host}: {error.why or error.what}")
            world.reporter.report(Notice("warning", f"{host} does not serve files to {target.replica.host}: {error}"))
            if host == volume.host:
                here = None  # type: ignore[assignment] # an agent that failed is asked anew
            continue
        found.append(FetchSource(host, served.addresses, served.port, served.certificate))
    if not found:
        raise UnreachableError(
            "no host serves the files of the replica", where=target.subject, why="; ".join(faults),
            remedy=f"voltool replica sync {volume.name} {target.replica.host}, when they can be reached",
        )  # fmt: skip
    return tuple(found)


@contextlib.contextmanager
def _agent(world: World, host: str, known: IntroducedConversation | None) -> Iterator[IntroducedConversation]:
    if known is not None:
        yield known
        return
    with world.hosts.connect(host) as agent:
        yield agent


def _from(world: World, target: Target, options: ReplicaOptions) -> list[str]:
    """The hosts of the full replicas that shall serve too: those that were named, else all."""
    full = {each.host for each in _others(world, target) if each.phase == SERVING}
    for host in options.sources:
        if host not in full and host != target.volume.host:
            raise RefusedError(
                f"{host} has no full replica of {target.volume.name}",
                why=f"it has: {', '.join(sorted(full))}" if full else "there is none",
                remedy="without --from the volume's home and all full replicas serve",
            )
    return [host for host in options.sources if host in full] if options.sources else sorted(full)


def _others(world: World, target: Target) -> list[KnownReplica]:
    """The other replicas of the volume."""
    mine = target.replica.replica_id
    return [each for each in world.catalog.replicas(target.volume.uuid) if each.replica_id != mine]
