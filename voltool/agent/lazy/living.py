"""The long-running process of a lazy replica: ``lazy REPLICA-ID``. Ships to servers.

It puts the parts together: the replica's place and record, the hosts it may fetch from (read anew whenever they change), and the
service. Its work is over for ever when the replica is a plain directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import syslog
import threading
import time
from typing import Iterator, Optional, Sequence

from voltool.agent.daemon_life import Life
from voltool.agent.host import HostState
from voltool.agent.lazy.arriving import open_index
from voltool.agent.lazy.keys import drop_identity
from voltool.agent.lazy.mounted import clear_mounts
from voltool.agent.lazy.pool import Pool
from voltool.agent.lazy.reaching import make_pool
from voltool.agent.lazy.service import LazyService, LazySettings
from voltool.agent.lazy.sources import Answer, Check, Fetcher, Wanted
from voltool.agent.lazy.start import LazyWishes, known_wishes
from voltool.agent.lazy.store import Store
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import BusyError, HostError
from voltool.model import LAZY, SERVING, ReplicaRecord
from voltool.showing import shown

#: How often a process looks whether the hosts to fetch from have changed, seconds.
_LOOK = 1.0
#: How often is tried to get the replica's lock, which a session may hold.
_LOCK_AGAIN = 0.2


def run(identity: str, host: HostState, life: Life) -> None:
    """See `agent.daemon_life`."""
    record = _record_of(identity, host)
    if record is None or record.phase != LAZY:
        _retire(identity, host, life)
        return
    replica = HostReplica(host, record)
    if replica.journal.read() is not None:  # cut off in the middle of the swap
        clear_mounts(record.path)
        with _locked(replica):
            replica.finish_swap()
        _retire(identity, host, life)
        return
    if _serve(replica, host, life):
        _retire(identity, host, life)


def _serve(replica: HostReplica, host: HostState, life: Life) -> bool:
    record = replica.record
    held = replica.begin_first()
    index = open_index(held, record.state_id)
    if index is None:
        raise HostError(
            "the manifest of the lazy replica is not there",
            where=shown(replica.place.directory),
            remedy=f"voltool replica remove {record.name} HOST, then add it again",
        )
    wishes = known_wishes(record, host)
    fetchers = Fetchers(host, record)
    service = LazyService(
        Store(held, index),
        LazySettings(record.path, record.name, replica.place.lazy, bandwidth=wishes.bandwidth),
        fetchers.make,
        lambda: _swap(replica),
        lambda line: syslog.syslog(syslog.LOG_WARNING, f"lazy replica of {record.name}: {line}"),
    )
    return service.run(lambda: life.tell(point=os.fsdecode(record.path)))


def _swap(replica: HostReplica) -> None:
    """The tree is held: serve it like that of any replica."""
    assert replica.held is not None
    replica.held.learn_owners(replica.owners, [])
    replica.losses.merge(replica.held.kept_losses())
    with _locked(replica):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(replica.place.lazy)
        replica.swap(dataclasses.replace(replica.record, phase=SERVING))


@contextlib.contextmanager
def _locked(replica: HostReplica) -> Iterator[None]:
    """With the replica's lock; a session that has it is waited for."""
    while True:
        lock = replica.place.lock(f"lazy replica {replica.record.replica_id}")
        try:
            lock.acquire()
        except BusyError:
            time.sleep(_LOCK_AGAIN)
        else:
            break
    try:
        yield
    finally:
        lock.release()


def _record_of(identity: str, host: HostState) -> Optional[ReplicaRecord]:
    for record in ReplicaBook(host.directory).replicas():
        if record.replica_id == identity:
            return record
    return None


def _retire(identity: str, host: HostState, life: Life) -> None:
    drop_identity(host, identity)
    life.daemon.retire()


class Fetchers:
    """Makes fetchers in whatever process asks; they follow the wishes as these change."""

    def __init__(self, host: HostState, record: ReplicaRecord) -> None:
        self._host = host
        self._record = record
        self._lock = threading.Lock()
        self._pid = 0
        self._pool: Optional[Pool] = None
        self._wishes: Optional[LazyWishes] = None
        self._looked = 0.0

    def make(self) -> Fetcher:
        """For one thread; see `sources.MakeFetcher`."""
        return _Following(self)

    def pool(self) -> Pool:
        """The pool of this process, of the hosts as they are now."""
        with self._lock:
            now = time.monotonic()
            forked = self._pid != os.getpid()
            if forked or self._pool is None or now - self._looked > _LOOK:
                self._looked = now
                wishes = known_wishes(self._record, self._host)
                if forked or self._pool is None or wishes != self._wishes:
                    self._pid, self._wishes = os.getpid(), wishes
                    self._pool = make_pool(self._host, self._record.replica_id, wishes.sources, float(wishes.timeout))
            return self._pool


class _Following:
    """A `Fetcher` of whatever pool there is now."""

    def __init__(self, fetchers: Fetchers) -> None:
        self._fetchers = fetchers
        self._pool: Optional[Pool] = None
        self._fetcher: Optional[Fetcher] = None

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """See `Fetcher`."""
        pool = self._fetchers.pool()
        if self._fetcher is None or pool is not self._pool:
            self.close()
            self._pool, self._fetcher = pool, pool.fetcher()
        return self._fetcher.fetch(wanted, right)

    def close(self) -> None:
        """See `Fetcher`."""
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None
