"""What a volume's home keeps for its replicas: for each a place of its own in the volume's area, and clones with its label.

``<area>/replicas/<replica id>/`` has the states, the book of bases, the lock and `OutRecord`. The dumps of the volume leave
these clones alone, but for two limits: the age that the replica may be behind, and a file system that is nearly full. A replica
whose clone was given up is compared instead, by stamps or by manifests. Ships to servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, replace
from typing import Iterator, List, Optional

from voltool import durable
from voltool.agent.clones import is_replicas, is_users, replica_label
from voltool.errors import AgentError, BusyError
from voltool.model import ReplicaBase
from voltool.volumes.contract import Clone, Driver
from voltool.volumes.records import LOCK_NAME, VolumeHome
from voltool.volumes.removal import remove_tree
from voltool.wire.codec import from_plain, to_plain

_SECOND = 1_000_000_000
_FORMAT = 1


@dataclass(frozen=True)
class OutRecord:
    """``base`` is what the replica is known to have (``state_id`` empty: nothing), ``pending`` what was sent last and may have
    arrived. ``base_age`` in seconds, 0: for ever. ``pinned``: its clone is being read by others, and is not given up."""

    base: ReplicaBase
    base_age: int = 0
    pending: Optional[ReplicaBase] = None
    pinned: bool = False


class OutPlace:
    """The place of one replica at its volume's home."""

    def __init__(self, area: bytes, replica_id: str) -> None:
        if not replica_id.isalnum():
            raise AgentError("a replica's id has a form that no voltool gives it")
        self.directory = os.path.join(area, b"replicas", replica_id.encode())
        self.replica_id = replica_id

    @property
    def prefix(self) -> str:
        """How the labels of its clones begin."""
        return replica_label(self.replica_id)

    def lock(self, owner: str) -> durable.FileLock:
        """Its lock, to be used as a context; BusyError where a session about the replica is open."""
        durable.make_directory(self.directory)
        path = os.path.join(self.directory, LOCK_NAME)
        return durable.FileLock(path, what=f"the replica {self.replica_id[:8]}", owner=owner)

    def load(self) -> Optional[OutRecord]:
        """The record; None where there is none that can be read: then everything is compared."""
        try:
            with open(os.path.join(self.directory, b"replica.json"), "rb") as file:
                content = json.load(file)
            record: OutRecord = from_plain(OutRecord, content["record"] if content["format"] == _FORMAT else None)
        except (OSError, ValueError, KeyError, TypeError, AgentError):
            return None
        return record

    def save(self, record: OutRecord) -> None:
        """Durably."""
        durable.make_directory(self.directory)
        content = {"format": _FORMAT, "record": to_plain(record)}
        durable.write_file(
            os.path.join(self.directory, b"replica.json"), json.dumps(content, indent=1).encode() + b"\n"
        )

    def clones(self, home: VolumeHome, driver: Driver) -> List[Clone]:
        """The clones that were made for it."""
        return [clone for clone in driver.clones(home.record) if clone.label.startswith(self.prefix)]

    def drop_clones(self, home: VolumeHome, driver: Driver, *, older_ns: Optional[int] = None) -> bool:
        """Drop its clones (those made before ``older_ns``); whether there were any. The caller holds its lock."""
        doomed = [clone for clone in self.clones(home, driver) if older_ns is None or clone.time_ns < older_ns]
        for clone in doomed:
            driver.drop(home.record, clone)
        return bool(doomed)

    def remove(self) -> None:
        """Nothing of it is left. Idempotent."""
        remove_tree(self.directory)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(self.directory))


def places(area: bytes) -> List[OutPlace]:
    """The places of all replicas of a volume."""
    try:
        names = sorted(os.listdir(os.path.join(area, b"replicas")))
    except FileNotFoundError:
        return []
    return [OutPlace(area, os.fsdecode(name)) for name in names if os.fsdecode(name).isalnum()]


def tidy_replicas(home: VolumeHome, driver: Driver) -> None:
    """Drop clones of replicas that are too old, or of replicas that are no more. The caller holds the volume's lock."""
    known = places(home.area)
    prefixes = tuple(place.prefix for place in known)
    for clone in driver.clones(home.record):
        if is_replicas(clone) and not clone.label.startswith(prefixes):
            driver.drop(home.record, clone)
    for place, record in _idle(known):
        if record.base_age:
            place.drop_clones(home, driver, older_ns=time.time_ns() - record.base_age * _SECOND)


def give_up_clones(home: VolumeHome, driver: Driver, *, own: Optional[OutPlace] = None) -> bool:
    """Drop every clone that is kept for speed alone, of dumps and of replicas, those of ``own`` too, whose lock the caller holds;
    whether there was any. The caller holds the volume's lock."""
    kept = [clone for clone in driver.clones(home.record) if not is_users(clone) and not is_replicas(clone)]
    for clone in kept:
        driver.drop(home.record, clone)
    found = [place.drop_clones(home, driver) for place, _record in _idle(places(home.area))]
    if own is not None:
        found.append(own.drop_clones(home, driver))
    return bool(kept) or any(found)


def list_bases(home: VolumeHome, driver: Driver) -> List[ReplicaBase]:
    """What is kept for each replica. Touches nothing."""
    labels = {clone.label for clone in driver.clones(home.record)}
    found = [record.base for record in (place.load() for place in places(home.area)) if record is not None]
    return [base if base.label in labels else replace(base, label="") for base in found]


def _idle(found: List[OutPlace]) -> Iterator[tuple[OutPlace, OutRecord]]:
    """Those that no session and no reader works with, each locked while it is looked at."""
    for place in found:
        record = place.load()
        if record is None or record.pinned:
            continue
        lock = place.lock("tidying up")
        try:
            lock.acquire()
        except BusyError:
            continue
        try:
            yield place, record
        finally:
            lock.release()
