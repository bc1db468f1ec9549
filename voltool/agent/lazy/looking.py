"""How a lazy replica is, for whoever asks: its record, its process, its mount, what it says. Touches nothing. Ships to servers."""

from __future__ import annotations

from typing import Iterator, Optional

from voltool.agent.daemon import Daemon, Running
from voltool.agent.host import HostState
from voltool.agent.lazy.mounted import LazyStatus, is_answering, read_status
from voltool.agent.replica.place import place_of
from voltool.model import ReplicaRecord
from voltool.showing import shown
from voltool.wire import replicas

KIND = "lazy"


def lazy_daemon(record: ReplicaRecord, host: HostState) -> Daemon:
    """The process that serves the replica, running or not."""
    return Daemon(host.directory, KIND, record.replica_id)


def lazy_status(record: ReplicaRecord, host: HostState) -> replicas.ReplicaStatus:
    """Of a replica whose record says that it is a lazy one. Nothing is held that an increment could be made against."""
    status = read_status(place_of(record).lazy)
    running = lazy_daemon(record, host).running()
    faults = tuple(_faults(record, status, running, lazy_daemon(record, host).last()))
    return replicas.ReplicaStatus(
        record,
        missing_bytes=status.missing_bytes if status is not None else 0,
        missing_files=status.missing_files if status is not None else 0,
        running=running is not None and running.ready and is_answering(record.path),
        faults=faults,
    )


def _faults(
    record: ReplicaRecord, status: Optional[LazyStatus], running: Optional[Running], last: Optional[Running]
) -> Iterator[str]:
    if running is None:
        why = f": {last.fault}" if last is not None and last.fault else ""
        yield f"the process that serves it does not run{why}; the next sync starts it"
    elif not is_answering(record.path):
        yield f"nothing answers at {shown(record.path)}"
    if status is not None and status.full:
        yield "the disk is full: what is read is fetched each time, and filling waits for room"
    if status is not None and status.fault:
        yield status.fault
