"""What a host knows durably of a lock: ``<state directory>/locks/<uuid>.json``. Ships to servers.

Not in the volume's area: that may lie inside the locked tree. A record is written before anything is mounted and removed
after everything is undone, so a crash leaves no lock without a record. Whoever changes record or mounts holds the flock
on ``<uuid>.lease`` meanwhile: agent, guardian and a move's commit exclude each other by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Iterator, Optional, Tuple

from voltool import durable
from voltool.errors import AgentError, BusyError
from voltool.frozen import dataclass
from voltool.volumes.hooks import Hook
from voltool.wire.codec import from_plain, to_plain

LOCKING = "locking"
LOCKED = "locked"
BROKEN = "broken"
#: How long one waits for another's step on the same lock, seconds.
_PATIENCE = 60.0


@dataclass(frozen=True)
class TreeMount:
    """A mount of the tree, or of a part of it, in whatever mount namespace: its number, which no other mount has while it
    stands, and what it is a mount of. ``layers`` of a copy of a lock's lowest mount, in a younger namespace: how many mounts
    the lock has there."""

    namespace: bytes
    number: int
    device: str
    root: bytes
    layers: int = 0


@dataclass(frozen=True)
class LockRecord:
    """One lock. ``token`` is this lock's own; ``phase``: ``locking``, ``locked``, ``broken`` (the lease is over and the
    lock is being undone). ``below`` counts the mounts at ``path`` that are not ours. ``moved_to``: where
    `exchange_under_lock` has taken the tree. ``since`` and ``until`` in seconds since the epoch; ``boot_id`` and
    ``namespace`` say where the mounts are. ``closed`` are the mounts of the tree that this lock makes read-only (or is about
    to), ``kept`` those that were so before it.
    """

    uuid: str
    name: str
    token: str
    path: bytes
    phase: str
    owner: str
    since: int
    until: int
    boot_id: str
    namespace: str
    below: int
    after_unlock: Optional[Hook] = None
    moved_to: Optional[bytes] = None
    closed: Tuple[TreeMount, ...] = ()
    kept: Tuple[TreeMount, ...] = ()


class LockBook:
    """The record of one volume's lock."""

    def __init__(self, state_directory: bytes, uuid: str) -> None:
        if not uuid.replace("-", "").isalnum():
            raise AgentError("a volume's uuid has a form that no voltool gives it")
        self._directory = os.path.join(state_directory, b"locks")
        self._path = os.path.join(self._directory, uuid.encode() + b".json")
        self._lease = os.path.join(self._directory, uuid.encode() + b".lease")

    @contextlib.contextmanager
    def step(self, owner: str) -> Iterator[None]:
        """Be the only one to change record and mounts; waits for another one's step, then BusyError."""
        durable.make_directory(self._directory)
        lock = durable.FileLock(self._lease, what="the volume's lock", owner=owner)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                lock.acquire()
                break
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        try:
            yield
        finally:
            lock.release()

    def read(self) -> Optional[LockRecord]:
        """The record, or None where there is no lock; AgentError for one that cannot be understood."""
        try:
            with open(self._path, "rb") as file:
                record: LockRecord = from_plain(LockRecord, json.load(file))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise AgentError("the record of the volume's lock cannot be read", why=str(error)) from None
        return record

    def write(self, record: LockRecord) -> None:
        """Replace it, durably. The caller holds `step`."""
        durable.write_file(self._path, json.dumps(to_plain(record), indent=1).encode() + b"\n")

    def remove(self) -> None:
        """The lock is undone. Idempotent. The caller holds `step`."""
        durable.remove_file(self._path)
