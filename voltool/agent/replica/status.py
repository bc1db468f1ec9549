"""What a host tells of its replicas, of what it keeps for replicas elsewhere, and of homes that are being filled; the verb
ListReplicas. Ships to servers.

Touches nothing.
"""

from __future__ import annotations

import os
from typing import Iterator, List, Optional

from voltool.agent.host import HostState
from voltool.agent.replica import guard
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.out_place import list_bases
from voltool.agent.replica.place import place_of
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.served import ServedTree
from voltool.model import LAZY, PUBLISHED, SERVING, ReplicaBase, ReplicaRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.registry import driver_named
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation


def list_replicas(
    request: replicas.ListReplicas,  # noqa: ARG001 - a handler's signature
    conversation: Conversation,  # noqa: ARG001
    host: HostState,
) -> messages.Message:
    """Handle `ListReplicas`."""
    here = tuple(_look_at(record, host) for record in ReplicaBook(host.directory).replicas())
    bases: List[ReplicaBase] = []
    for home in records.list_homes(host.directory):
        bases += list_bases(home, driver_named(home.record.driver))
    return replicas.ReplicasReply(here, tuple(bases), tuple(_filling(host)))


def _filling(host: HostState) -> Iterator[replicas.FillingHome]:
    """Homes of volumes that have come here by a lazy move, as long as not all has come."""
    for move in MoveBook(host.directory).targets():
        if move.lazy and move.phase == PUBLISHED:
            from voltool.agent.lazymove.fill import status_of as fill_of
            from voltool.agent.lazymove.home import LazyHome

            fill = fill_of(LazyHome(host, move), 0)
            yield replicas.FillingHome(
                move.uuid,
                move.move_id,
                move.path,
                fill.missing_bytes,
                fill.missing_files,
                fill.running,
                fill.faults,
                fill.way,
            )


def status_of(replica: HostReplica) -> replicas.ReplicaStatus:
    """Of one that a session works with."""
    if replica.record.phase == LAZY:
        return _lazy_status(replica.record, replica.host)
    return _status(replica.record, replica.held_state)


def _look_at(record: ReplicaRecord, host: HostState) -> replicas.ReplicaStatus:
    if record.phase == LAZY:
        return _lazy_status(record, host)
    return _status(record, record.state_id if record.phase == SERVING else "")


def _lazy_status(record: ReplicaRecord, host: HostState) -> replicas.ReplicaStatus:
    from voltool.agent.lazy.start import lazy_status

    return lazy_status(host, record)


def _status(record: ReplicaRecord, held: str) -> replicas.ReplicaStatus:
    faults = tuple(faults_of(record))
    running = record.phase != SERVING or guard.is_protected(record.path)
    return replicas.ReplicaStatus(record, held, running=running, faults=faults)


def faults_of(record: ReplicaRecord) -> Iterator[str]:
    """What is not as it should be, for people."""
    place = place_of(record)
    if not os.path.isdir(place.directory):
        yield f"{shown(place.directory)} is not there: is its file system mounted?"
        return
    if os.path.lexists(place.journal):
        yield "a sync was cut off while it swapped; the next one goes on"
    if record.phase == SERVING:
        yield from _faults_of_served(record)


def _faults_of_served(record: ReplicaRecord) -> Iterator[str]:
    served = ServedTree(place_of(record))
    if not os.path.lexists(record.path):
        yield f"nothing stands at {shown(record.path)}: the next sync copies everything anew"
    elif not served.is_there():
        yield f"what stands at {shown(record.path)} is not the replica"
    elif not guard.is_protected(record.path):
        yield _unprotected(record.path)


def _unprotected(path: bytes) -> str:
    how = "its subvolume is writable" if guard.is_subvolume(path) else "its read-only mount is not there"
    return f"{how} ({shown(path)}); the next sync puts it right"


def protection_missing(record: ReplicaRecord) -> Optional[str]:
    """Why what is served could be written to; None where it cannot, or nothing is served."""
    if record.phase != SERVING or not ServedTree(place_of(record)).is_there() or guard.is_protected(record.path):
        return None
    return _unprotected(record.path)
