"""Steps of a session with a replica's host that make it a lazy one, and what is told of one. Ships to servers.

The manifest comes first and lies in the staging; then a long-running process (`agent.lazy.running`) serves and fills it.
From then on the staging is that process's alone, until the replica is full or removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import List, Protocol

from voltool import durable
from voltool.agent.door.book import DoorBook, end_door
from voltool.agent.fetching.keys import drop_identity
from voltool.agent.fetching.reaching import sources_reached
from voltool.agent.host import HostState
from voltool.agent.lazy.arriving import ManifestArrival, open_index
from voltool.agent.lazy.book import LazyBook, LazyWishes
from voltool.agent.lazy.mounted import LazyStatus, clear_mounts, is_answering, read_status
from voltool.agent.replica.ground import HostReplica
from voltool.agent.restore import receive_dump
from voltool.errors import IntegrityError, RefusedError
from voltool.model import FILLING, LAZY, ReplicaRecord
from voltool.showing import shown
from voltool.wire import moving, replicas
from voltool.wire.conversation import Conversation

#: The process says how far it is within so many seconds.
_PATIENCE = 3.0
_POLL = 0.02


class Session(Protocol):
    """What is needed of `agent.replica.into.Session`; the replica's lock is held."""

    conversation: Conversation
    host: HostState
    replica: HostReplica

    def status(self) -> replicas.ReplicaStatus:
        """What the replica is now."""


def receive_manifest(step: replicas.ReceiveManifest, session: Session) -> moving.Arrived:
    """The step `ReceiveManifest`. RefusedError where the replica has, or gets, its files in another way."""
    replica = session.replica
    if replica.record.phase != FILLING:
        raise RefusedError(
            "the replica is complete, or is being filled already", where=shown(replica.record.path),
            remedy=f"voltool replica sync {replica.record.name}",
        )  # fmt: skip
    held = replica.begin_first()
    if held.record is not None:
        raise RefusedError(
            "a first copy of the volume is there already", where=shown(replica.record.path),
            remedy=f"voltool replica sync {replica.record.name} goes on with it; or voltool replica remove, and add it anew",
        )  # fmt: skip
    with contextlib.closing(ManifestArrival(held)) as arrival:
        receive_dump(session.conversation, arrival.feed, 0)
        entries = arrival.finish(step.state_id)
        return moving.Arrived(arrival.state_id, entries, 0, ())


def start_lazy(step: replicas.StartLazy, session: Session) -> replicas.ReplicaStatus:
    """The step `StartLazy`. RefusedError where it cannot be mounted at the replica's path."""
    replica, host = session.replica, session.host
    if replica.record.phase not in (FILLING, LAZY):
        return session.status()
    record = _wanted_record(step, replica)
    book = LazyBook(host, record.replica_id)
    with book.daemon.controlled():
        before = book.wishes()
        given = before.given if before is not None else ()
        kept = before.bandwidth if before is not None else 0
        bandwidth = kept if step.bandwidth is None else step.bandwidth
        wishes = LazyWishes(record.uuid, step.sources, bandwidth, step.timeout, given)
        if book.daemon.running() is None:
            _make_point(record)
            replica.close()
            replica.save(record)
            book.save(wishes)
            book.daemon.start(f"voltool: fills the lazy replica of {record.name}")
        elif wishes != before:
            book.save(wishes)
        _await_status(book)
    if replicas.way_of(step.sources) != replicas.WAY_REVERSE:
        end_door(host, record.replica_id)
    return session.status()


def reach_sources(step: replicas.ReachSources, session: Session) -> replicas.SourcesReached:
    """The step `ReachSources`."""
    return sources_reached(session.host, session.replica.record.replica_id, step.sources)


def lazy_status(host: HostState, record: ReplicaRecord) -> replicas.ReplicaStatus:
    """Of a replica in the phase LAZY; touches nothing."""
    book = LazyBook(host, record.replica_id)
    running = book.daemon.running()
    lives = running is not None and running.ready
    said = read_status(book.status_file) or LazyStatus(missing_files=0, missing_bytes=0)
    faults: List[str] = []
    if not lives:
        faults.append(why_dead(book))
    elif not is_answering(record.path):
        faults.append(f"nothing answers at {shown(record.path)}")
    if said.full:
        faults.append("its disk is full: what is read is fetched each time, and filling waits for room")
    if said.fault:
        faults.append(said.fault)
    wishes = book.wishes()
    way = replicas.way_of(wishes.sources) if wishes is not None else ""
    if way == replicas.WAY_REVERSE and DoorBook(host.directory, record.replica_id).daemon.running() is None:
        faults.append("what lets the hosts come that serve its files does not run; the next sync starts it")
    return replicas.ReplicaStatus(
        record,
        missing_bytes=said.missing_bytes,
        missing_files=said.missing_files,
        running=lives and is_answering(record.path),
        faults=tuple(faults),
        way=way,
    )


def end_lazy(host: HostState, record: ReplicaRecord) -> None:
    """Its process and mount end, its key goes; what has come of it stays in the replica's place. Idempotent. HostError where the
    process cannot be ended."""
    book = LazyBook(host, record.replica_id)
    end_door(host, record.replica_id)
    with book.daemon.controlled():
        book.daemon.remove()
        clear_mounts(record.path)
        drop_identity(host, record.replica_id)


def why_dead(book: LazyBook) -> str:
    """Of one whose process does not run, for people."""
    last = book.daemon.last()
    why = f": {last.fault}" if last is not None and last.fault else ""
    return f"what serves its files does not run{why}; the next sync starts it"


def _wanted_record(step: replicas.StartLazy, replica: HostReplica) -> ReplicaRecord:
    """What is served from now on. IntegrityError where its manifest has not come."""
    record = replica.record
    if not step.state_id or (record.phase == LAZY and step.state_id == record.state_id):
        if record.phase != LAZY:
            raise IntegrityError(
                "no manifest of the replica has come", where=shown(record.path),
                remedy=f"voltool replica sync {record.name}",
            )  # fmt: skip
        return record
    if replica.held is None or open_index(replica.held, step.state_id) is None:
        raise IntegrityError(
            "the manifest that has come is not that of the replica", where=shown(record.path),
            remedy=f"voltool replica sync {record.name}",
        )  # fmt: skip
    return dataclasses.replace(
        record,
        phase=LAZY,
        state_id=step.state_id,
        epoch=step.epoch,
        sequence=step.sequence,
        clone_time_ns=step.clone_time_ns,
        synced_ns=time.time_ns(),
    )


def _make_point(record: ReplicaRecord) -> None:
    """The empty directory that it is mounted on."""
    clear_mounts(record.path)
    if not os.path.lexists(record.path):
        durable.make_directory(record.path, 0o755)
    if os.path.islink(record.path) or not os.path.isdir(record.path) or os.listdir(record.path):
        raise RefusedError(
            "something else is where the replica is to be served", where=shown(record.path),
            why="it is no empty directory", remedy="take it away, or voltool replica remove, and add it at another path",
        )  # fmt: skip


def _await_status(book: LazyBook) -> None:
    deadline = time.monotonic() + _PATIENCE
    while read_status(book.status_file) is None and time.monotonic() < deadline:
        time.sleep(_POLL)
