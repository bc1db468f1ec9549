"""Who is the volume's home, as far as the host of a replica knows: nobody else is to fill the replica, or to remove it.
Ships to servers."""

from __future__ import annotations

import os
from typing import Optional

from voltool.agent.host import HostState
from voltool.agent.replica.judging import judge_epoch
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import MovedError, NotFoundError
from voltool.model import Epoch, ReplicaRecord, VolumeRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.wire import replicas


def home_here(host: HostState, uuid: str) -> Optional[VolumeRecord]:
    """The volume's record, where it lives on this host. NotFoundError where only the registry says so: it may not be
    mounted."""
    for entry in records.list_entries(host.directory):
        if entry.uuid != uuid or entry.forgotten:
            continue
        record = records.read_record(entry.area)
        replica = ReplicaBook(host.directory).find(uuid)
        if record is None and replica is not None and replica.path == entry.path:
            return None  # a promotion was cut off just before its commit
        if record is None:
            raise NotFoundError(
                "the volume's own records are not there",
                where=shown(entry.area),
                why="its file system is not mounted" if not os.path.isdir(entry.area) else "they are lost",
                remedy="mount it",
            )
        return record
    return None


def refuse_promoted(host: HostState, uuid: str) -> None:
    """MovedError where the volume lives on this host: what was its replica is no replica any more."""
    home = home_here(host, uuid)
    if home is not None:
        raise MovedError(
            "the volume lives on this host, it is no replica",
            where=shown(home.path),
            why=f"with epoch {home.epoch.number}: a replica was promoted here, or the volume moved here",
            remedy=f"voltool replica sync {home.name} asks all hosts, and the catalog learns where it lives",
        )


def refuse_earlier(record: ReplicaRecord, epoch: Epoch) -> None:
    """MovedError where the replica has a state of a later epoch than that of the home that sends, or of another home with
    the same number: who sends has been replaced, and does not know it."""
    known = record.epoch
    if known is None or judge_epoch(epoch, known) == replicas.MINE:
        return
    raise MovedError(
        "the replica has a later state than that home can have",
        where=shown(record.path),
        why=f"it has seen epoch {known.number} at {known.host}, and this is {epoch.number} at {epoch.host}",
        remedy=f"voltool replica sync {record.name} once more: it asks all hosts where the volume lives",
    )
