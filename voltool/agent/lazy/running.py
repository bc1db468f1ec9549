"""The long-running process of a lazy replica on its host: ``lazy ID``. It puts `LazyService` together, and swaps when it is full.

Comes back after a reboot or a kill by its unit, or by `voltool replica sync`; then it goes on where it was. Ships to servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import syslog
import time
from typing import Iterator, Optional, Sequence

from voltool.agent.daemon_life import Life
from voltool.agent.fetching.keys import drop_identity
from voltool.agent.fetching.reaching import make_pool
from voltool.agent.host import HostState
from voltool.agent.lazy.arriving import open_index
from voltool.agent.lazy.book import LazyBook
from voltool.agent.lazy.limit import WishedLimit
from voltool.agent.lazy.service import LazyService, LazySettings
from voltool.agent.lazy.sources import Answer, Check, Fetcher, Wanted
from voltool.agent.lazy.store import Store
from voltool.agent.lazymove.given import GivenFirst, Nobody
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.records import ReplicaBook
from voltool.durable import FileLock
from voltool.errors import BusyError, HostError, UnreachableError
from voltool.model import LAZY, SERVING
from voltool.showing import shown

#: How often it is looked whether there are other hosts to ask, and whether somebody else has let go of the replica, seconds.
_LOOK = 1.0


def run(identity: str, host: HostState, life: Life) -> None:
    """See `agent.daemon_life`."""
    book = LazyBook(host, identity)
    replica = _replica(host, book, identity)
    if replica is None:
        _retire(host, book, identity)
        return
    try:
        if replica.journal.read() is not None:
            with _turn(replica):
                replica.finish_swap()
        if replica.record.phase != LAZY or _fill(replica, book, host, life):
            _retire(host, book, identity)
    finally:
        replica.close()


def _replica(host: HostState, book: LazyBook, identity: str) -> Optional[HostReplica]:
    wishes = book.wishes()
    record = ReplicaBook(host.directory).find(wishes.uuid) if wishes is not None else None
    if record is None or record.replica_id != identity:
        return None
    return HostReplica(host, record)


def _retire(host: HostState, book: LazyBook, identity: str) -> None:
    """There is nothing to fill (any more): keys and records of it go."""
    drop_identity(host, identity)
    book.daemon.retire()


def _fill(replica: HostReplica, book: LazyBook, host: HostState, life: Life) -> bool:
    """Whether it is full."""
    wishes = book.wishes()
    assert wishes is not None
    record = replica.record
    held = replica.begin_first()
    if held.record is not None:  # cut off between the last file and the swap
        _swap(replica, host)
        return True
    index = open_index(held, record.state_id)
    if index is None:
        raise HostError(
            "the manifest of the replica is not there",
            where=shown(record.path),
            remedy=f"voltool replica sync {record.name} sends it anew",
        )
    settings = LazySettings(record.path, record.name, book.status_file)
    service = LazyService(
        Store(held, index),
        settings,
        lambda: Rereading(book, host, record.replica_id),
        lambda: _swap(replica, host),
        lambda line: syslog.syslog(syslog.LOG_WARNING, f"{record.name}: {line}"),
        limit=WishedLimit(book).now,
    )
    return service.run(life.tell)


def _swap(replica: HostReplica, host: HostState) -> None:
    """The tree is held: it is served from now on like that of any replica. The mount gives way at once, and whole: it follows the
    empty directory that it is on. From the journal on the swap is finished by whoever comes next."""
    assert replica.held is not None
    replica.held.learn_owners(replica.owners, [])
    replica.losses.merge(replica.held.kept_losses())
    with _turn(replica):
        replica.swap(dataclasses.replace(replica.record, phase=SERVING))
    drop_identity(host, replica.record.replica_id)  # who still reads from the mount has everything


@contextlib.contextmanager
def _turn(replica: HostReplica) -> Iterator[None]:
    """With the replica's lock, when whoever has it lets go."""
    lock = replica.place.lock("the fill of a lazy replica")
    while not _taken(lock):
        time.sleep(_LOOK)
    try:
        yield
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except BusyError:
        return False
    return True


class Rereading:
    """A `sources.Fetcher` that asks the hosts that are written down now: others may have been written down meanwhile."""

    def __init__(self, book: LazyBook, host: HostState, replica_id: str) -> None:
        self._book = book
        self._host = host
        self._replica_id = replica_id
        self._version = -1
        self._looked = 0.0
        self._closed = False
        self._fetcher: Optional[Fetcher] = None

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """See `Fetcher`."""
        return self._current().fetch(wanted, right)

    def close(self) -> None:
        """See `Fetcher`."""
        self._closed = True
        if self._fetcher is not None:
            self._fetcher.close()

    def _current(self) -> Fetcher:
        now = time.monotonic()
        if self._fetcher is None or now - self._looked > _LOOK:
            self._looked = now
            version = self._book.version()
            if self._fetcher is None or version != self._version:
                self._version = version
                self._renew()
        assert self._fetcher is not None
        if self._closed:
            self._fetcher.close()
        return self._fetcher

    def _renew(self) -> None:
        if self._fetcher is not None:
            self._fetcher.close()
        wishes = self._book.wishes()
        if wishes is None:
            raise UnreachableError("the replica was removed")
        others: Fetcher = Nobody()
        if wishes.sources:
            others = make_pool(self._host, self._replica_id, wishes.sources, wishes.timeout).fetcher()
        self._fetcher = GivenFirst(wishes.given, others) if wishes.given else others
