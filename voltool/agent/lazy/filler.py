"""Fills a lazy replica in the background: batch after batch, in the order of objects' numbers, which is about that of the
source's inodes. Runs in processes of its own, each with its own connection; a reader who waits comes first. Ships to servers.

Each batch belongs to one filler alone (by its claims), so they need no plan between them; what is here already is passed over,
and so a run begins where the last one ended. Ends when nothing is missing any more.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, Tuple

from voltool.agent.lazy.index import data_chunks
from voltool.agent.lazy.shared import LOST, PRESENT, Claims, Counter
from voltool.agent.lazy.sources import Fetcher, Missing, Wanted
from voltool.agent.lazy.store import Store
from voltool.agent.lazy.writing import Writer, has_no_content, is_right_chunk, is_right_small
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.errors import SpaceError, UnreachableError

#: A batch takes about so long (seconds), and is so large (bytes, files).
_BATCH_SECONDS = 0.25
_LEAST, _MOST = 256 << 10, 8 << 20
_MOST_FILES = 512
#: How long readers who wait may hold a filler up before it takes one batch all the same, seconds.
_PATIENCE = 1.0
_POLL = 0.002
#: Pauses after which what did not work is tried again, seconds.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0


@dataclass(frozen=True)
class _Item:
    """One thing to get: a whole small file, or (``chunk`` >= 0, by id) chunk ``index`` of a large one."""

    position: int
    record: ObjectRecord
    index: int = 0
    chunk: int = -1

    @property
    def length(self) -> int:
        if self.chunk < 0:
            return self.record.size
        return min(fmt.CHUNK_SIZE, self.record.size - self.index * fmt.CHUNK_SIZE)


@dataclass
class _Batch:
    items: List[_Item] = field(default_factory=list)
    size: int = 0

    def add(self, item: _Item) -> None:
        self.items.append(item)
        self.size += item.length


class Filler:
    """``bandwidth``: bytes/s for this one, 0: no limit. ``tell`` gets lines for the log;
    ``pause`` waits (seconds) where nothing can be done."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        counter: Counter,
        fetcher: Fetcher,
        tell: Callable[[str], None],
        *,
        bandwidth: int = 0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._index = store.index
        self._claims = claims
        self._counter = counter
        self._fetcher = fetcher
        self._writer = Writer(store, claims, counter)
        self._tell = tell
        self._bandwidth = bandwidth
        self._pause = pause
        self._due = time.monotonic()
        self._target = _LEAST
        #: What no host had in this pass, and why: it is asked for again in the next.
        self._absent: Dict[int, str] = {}
        self._told_absent = False

    def run(self) -> None:
        """Until nothing is missing. Raises VoltoolError where the store cannot be written to (not for a full disk)."""
        wait = _FIRST_PAUSE
        while not self._store.presence.is_complete():
            try:
                came = self._pass()
            except SpaceError:
                self._await_room()
                continue
            except UnreachableError as error:
                self._tell(f"filling waits: {error}")
                came = False
            wait = _FIRST_PAUSE if came else min(wait * 2, _LAST_PAUSE)
            if not self._store.presence.is_complete():
                self._pause(wait)

    def _await_room(self) -> None:
        """Wait until there is room; readers are served meanwhile."""
        self._counter.set_full(full=True)
        self._tell("its file system is full: filling waits for room, and readers fetch what they need each time")
        status = os.fstatvfs(self._store.staging.descriptor)
        needed = min(64 << 20, status.f_blocks * status.f_frsize // 20)
        wait = _FIRST_PAUSE
        while status.f_bavail * status.f_frsize < needed:
            self._pause(wait)
            wait = min(wait * 2, _LAST_PAUSE)
            status = os.fstatvfs(self._store.staging.descriptor)
            if self._store.presence.is_complete():
                break
        self._counter.set_full(full=False)

    def _pass(self) -> bool:
        """Once over everything that is missing; whether anything came."""
        before = self._count()
        self._absent = {}
        self._make_way()
        batch = _Batch()
        try:
            for item in self._wanted():
                if not self._claims.take(self._claim_of(item)):
                    continue
                batch.add(item)
                if batch.size >= self._target or len(batch.items) >= _MOST_FILES:
                    self._get(batch)
                    batch = _Batch()
                    self._make_way()
            self._get(batch)
        finally:
            self._give_back(batch)
        if self._absent and not self._told_absent:
            self._told_absent = True
            position, why = next(iter(self._absent.items()))
            more = f" and {len(self._absent) - 1} more" if len(self._absent) > 1 else ""
            self._tell(f"no host has the right bytes of {self._index.path(position)!r}{more}: {why}")
        return self._count() != before

    def _count(self) -> Tuple[int, int]:
        counts = self._store.presence.counts()
        return sum(count.files for count in counts), sum(count.size for count in counts)

    def _wanted(self) -> Iterator[_Item]:
        """Everything that has to be fetched, in order; what needs no fetching is made here."""
        presence = self._store.presence
        position = presence.next_unsettled(0)
        while position >= 0:
            record = self._index.record(position)
            if self._index.size(position) < 0 or not record.size or has_no_content(record):
                self._make(position, record)
            elif record.size <= fmt.CHUNK_SIZE:
                yield _Item(position, record)
            else:
                yield from self._chunks(position, record)
            position = presence.next_unsettled(position + 1)

    def _chunks(self, position: int, record: ObjectRecord) -> Iterator[_Item]:
        for index, chunk in data_chunks(self._index, position):
            if self._store.presence.objects[position] in (PRESENT, LOST):
                return
            if not self._store.has_chunk(position, chunk):
                yield _Item(position, record, index, chunk)
        self._writer.finish_large(position, record)

    def _make(self, position: int, record: ObjectRecord) -> None:
        """What needs nobody: a symlink, a device, an empty file, or one that nobody has."""
        if not self._claims.take(position):
            return
        try:
            if self._store.presence.objects[position] in (PRESENT, LOST):
                return
            if self._index.size(position) < 0:
                self._writer.special(position, record)
            elif has_no_content(record):
                self._writer.give_up(position, record)
            else:
                self._writer.small(position, record, b"")
        finally:
            self._claims.give_back(position)

    # -------------------------------------------------------------------------------------------------------- batches

    def _claim_of(self, item: _Item) -> int:
        return item.position if item.chunk < 0 else self._index.count + item.chunk

    def _is_here(self, item: _Item) -> bool:
        if item.chunk >= 0:
            return self._store.has_chunk(item.position, item.chunk)
        return self._store.presence.objects[item.position] in (PRESENT, LOST)

    def _get(self, batch: _Batch) -> None:
        """What is in the batch is claimed; afterwards it is nobody's."""
        try:
            wanted = [item for item in batch.items if not self._is_here(item)]
            if wanted:
                self._fetch(wanted)
        finally:
            self._give_back(batch)
        for position in {item.position for item in batch.items if item.chunk >= 0}:
            self._writer.finish_large(position, self._index.record(position))
        self._writer.close()

    def _give_back(self, batch: _Batch) -> None:
        for item in batch.items:
            self._claims.give_back(self._claim_of(item))

    def _fetch(self, items: List[_Item]) -> None:
        began = time.monotonic()
        paths: Dict[int, bytes] = {}
        wanted = []
        for item in items:
            path = paths.get(item.position) or self._index.path(item.position)
            paths[item.position] = path
            wanted.append(Wanted(path, item.index * fmt.CHUNK_SIZE, item.length))
        hashes = [self._index.hashes(item.chunk, 1) if item.chunk >= 0 else b"" for item in items]

        def right(at: int, data: bytes) -> bool:
            if items[at].chunk < 0:
                return is_right_small(items[at].record, data)
            return is_right_chunk(hashes[at], items[at].length, data)

        size = 0
        for answer in self._fetcher.fetch(wanted, right):
            item = items[answer.index]
            if isinstance(answer, Missing):
                self._nobody_has(item, answer.why)
            else:
                size += len(answer.data)
                self._put(item, answer.data)
            self._claims.give_back(self._claim_of(item))  # at once: somebody may wait for it
        now = time.monotonic()
        if self._bandwidth:
            self._due = max(self._due, now - 1.0) + size / self._bandwidth
        self._adapt(size, now - began)

    def _put(self, item: _Item, data: bytes) -> None:
        if item.chunk < 0:
            self._writer.small(item.position, item.record, data)
        else:
            self._writer.chunk(item.position, item.record, item.index, item.chunk, data)

    def _nobody_has(self, item: _Item, why: str) -> None:
        if item.record.state & fmt.STATE_UNKNOWN:  # its last good content, which is in no clone
            self._writer.give_up(item.position, item.record)
        else:
            self._absent[item.position] = why

    def _adapt(self, size: int, seconds: float) -> None:
        """Batches as large as the connection is quick: who waits for one waits not long."""
        if size and seconds > 0:
            self._target = int(min(max(size / seconds * _BATCH_SECONDS, _LEAST), _MOST, self._target * 2))

    def _make_way(self) -> None:
        """Before anything is claimed: readers who wait go first, and the bandwidth is kept."""
        deadline = time.monotonic() + _PATIENCE
        while self._store.presence.waiting() and time.monotonic() < deadline:
            time.sleep(_POLL)
        if self._bandwidth:
            time.sleep(max(0.0, self._due - time.monotonic()))
