"""The steps ReceiveManifest and StartLazy of a session with the host of a replica, and how a lazy replica is stopped. Ships to
servers.

Who serves is a long-running process (`agent.lazy.living`); what it shall do lies in its daemon's file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Tuple

from voltool import durable
from voltool.agent.host import HostState
from voltool.agent.lazy.arriving import ManifestArrival, open_index
from voltool.agent.lazy.keys import drop_identity
from voltool.agent.lazy.looking import lazy_daemon, lazy_status
from voltool.agent.lazy.mounted import clear_mounts
from voltool.errors import AgentError, HostError, RefusedError
from voltool.model import LAZY, SERVING, ReplicaRecord
from voltool.showing import shown
from voltool.tree.apply.held import HeldTree
from voltool.wire import messages, moving, replicas
from voltool.wire.codec import from_plain, to_plain
from voltool.wire.replicas import FetchSource

if TYPE_CHECKING:
    from voltool.agent.replica.into import Session


@dataclass(frozen=True)
class LazyWishes:
    """What the process shall do; the volume's uuid leads to the replica's record, which has the rest."""

    uuid: str
    sources: Tuple[FetchSource, ...]
    bandwidth: int
    timeout: int


def receive_manifest(step: replicas.ReceiveManifest, session: Session) -> moving.Arrived:
    """Handle `ReceiveManifest`. One that is being served is not given up for another. Repeatable."""
    replica = session.replica
    if replica.record.phase == SERVING or (replica.record.phase == LAZY and replica.record.state_id != step.state_id):
        raise RefusedError(
            "the replica has its files, or gets those of another state",
            where=shown(replica.place.path),
            remedy="voltool replica sync, once it is full; or voltool replica remove, and add it again",
        )
    if replica.record.phase == LAZY:
        _pass_over(session)
        return moving.Arrived(step.state_id, 0, 0, ())
    held = replica.begin_first()
    arrival = ManifestArrival(held)
    try:
        while True:
            received = session.conversation.receive()
            if isinstance(received, messages.EndOfData):
                break
            if not isinstance(received, (bytes, bytearray, memoryview)):
                raise AgentError("the manifest of the replica did not come", why=type(received).__name__)
            arrival.feed(received)
        entries = arrival.finish(step.state_id)
    finally:
        arrival.close()
    return moving.Arrived(step.state_id, entries, 0, ())


def _pass_over(session: Session) -> None:
    while not isinstance(session.conversation.receive(), messages.EndOfData):
        pass


def start_lazy(step: replicas.StartLazy, session: Session) -> replicas.ReplicaStatus:
    """Handle `StartLazy`."""
    replica = session.replica
    if replica.record.phase == SERVING:
        return session.status()
    if step.writable:
        raise AgentError("a lazy home is begun by a lazy move alone")
    if replica.record.phase != LAZY:
        _require_manifest(replica.begin_first(), step.state_id)
        _make_point(replica.record.path)
        replica.save(
            dataclasses.replace(
                replica.record,
                phase=LAZY,
                state_id=step.state_id,
                epoch=step.epoch,
                sequence=step.sequence,
                clone_time_ns=step.clone_time_ns,
            )
        )
    replica.close()  # the process works with it from here on
    run_lazy(replica.record, session.host, LazyWishes(replica.record.uuid, step.sources, step.bandwidth, step.timeout))
    return lazy_status(replica.record, session.host)


def run_lazy(record: ReplicaRecord, host: HostState, wishes: LazyWishes) -> None:
    """Let the process run, with these wishes: one that runs takes them over by itself. HostError where it cannot be mounted."""
    daemon = lazy_daemon(record, host)
    with daemon.controlled():
        running = daemon.running()
        daemon.save(to_plain(wishes))
        if running is None or not running.ready or not daemon.is_current():
            daemon.start(f"voltool: the lazy replica of {record.name}")


def known_wishes(record: ReplicaRecord, host: HostState) -> LazyWishes:
    """What was wished last. AgentError where that cannot be read."""
    plain = lazy_daemon(record, host).wishes()
    if plain is None:
        raise AgentError("what a lazy replica is filled from is not known", remedy="voltool replica sync")
    wishes: LazyWishes = from_plain(LazyWishes, plain)
    return wishes


def stop_lazy(record: ReplicaRecord, host: HostState) -> None:
    """It is served no more; what is there of its tree is left to the caller. Idempotent. HostError."""
    daemon = lazy_daemon(record, host)
    with daemon.controlled():
        daemon.remove()
    drop_identity(host, record.replica_id)
    clear_mounts(record.path)
    with contextlib.suppress(OSError):
        os.rmdir(record.path)


def _require_manifest(held: HeldTree, state_id: str) -> None:
    if open_index(held, state_id) is None:
        raise HostError("the manifest of the replica has not come", remedy="voltool replica sync")


def _make_point(path: bytes) -> None:
    """What is mounted on: an empty directory, closed to everybody."""
    try:
        if not os.path.lexists(path):
            os.mkdir(path, 0o700)
            durable.fsync_directory(os.path.dirname(path))
        if os.listdir(path):
            raise RefusedError("the replica's path is not an empty directory", where=shown(path))
    except OSError as error:
        raise HostError(
            "the replica's path cannot be mounted on", where=shown(path), why=str(error.strerror)
        ) from error
