"""A replica goes from its host: what it served stays as a plain directory, or goes too. Ships to servers."""

from __future__ import annotations

import contextlib
import os

from voltool.agent.host import HostState
from voltool.agent.replica import guard, journal
from voltool.agent.replica.place import place_of
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.served import ServedTree, forget_served
from voltool.errors import HostError
from voltool.model import FILLING, LAZY, ReplicaRecord
from voltool.showing import shown
from voltool.volumes.removal import remove_tree


def remove_replica(record: ReplicaRecord, host: HostState, *, purge: bool) -> None:
    """See `wire.replicas.RemoveReplica`; the caller holds the replica's lock. Repeatable: the record goes last. Raises
    HostError."""
    place = place_of(record)
    if record.phase in (FILLING, LAZY):
        from voltool.agent.lazy.start import end_lazy

        end_lazy(host, record)
        if purge:
            with contextlib.suppress(OSError):
                os.rmdir(record.path)  # the empty directory that it was mounted on
    try:
        if ServedTree(place).is_there():
            if purge:
                journal.take_away(place)
            else:
                guard.unprotect(place.path)
        forget_served(place)
    except OSError as error:
        raise HostError(
            "the replica cannot be removed", where=shown(place.path), why=error.strerror or str(error)
        ) from error
    guard.take_mounts_off(place.next)
    remove_tree(place.directory)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(place.directory))
    ReplicaBook(host.directory).remove(record.uuid)
