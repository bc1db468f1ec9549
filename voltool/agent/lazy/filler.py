"""Fills a lazy replica in the background: batch after batch, in the order of objects' numbers, which is about that of the
source's inodes. Runs in processes of its own, each with its own connection; a reader who waits comes first. Ships to servers.

Each batch belongs to one filler alone (by its claims), so they need no plan between them; what is here already is passed over,
and so a run begins where the last one ended. Ends when nothing is missing any more.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import Callable, Dict, List, Tuple

from voltool.agent.lazy.gathering import Batch, Gathering, Item
from voltool.agent.lazy.limit import Throttle
from voltool.agent.lazy.shared import Claims, Counter
from voltool.agent.lazy.sources import Fetcher, Missing, Wanted
from voltool.agent.lazy.store import Store
from voltool.agent.lazy.writing import Writer, has_no_content, is_right_chunk, is_right_small
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.errors import SpaceError, UnreachableError

#: A batch takes about so long (seconds), and is so large (bytes).
_BATCH_SECONDS = 0.25
_LEAST, _MOST = 256 << 10, 8 << 20
#: How long readers who wait may hold a filler up before it takes one batch all the same, seconds.
_PATIENCE = 1.0
_POLL = 0.002
#: Pauses after which what did not work is tried again, seconds.
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0


class Filler:
    """``limit`` says how many bytes/s this one may fetch, 0: no limit. ``tell`` gets lines for the log;
    ``pause`` waits (seconds) where nothing can be done."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        counter: Counter,
        fetcher: Fetcher,
        tell: Callable[[str], None],
        *,
        limit: Callable[[], int] = lambda: 0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._index = store.index
        self._claims = claims
        self._counter = counter
        self._fetcher = fetcher
        self._writer = Writer(store, claims, counter)
        self._gathering = Gathering(store, claims, self._make, self._writer.finish_large)
        self._tell = tell
        self._throttle = Throttle(limit)
        self._pause = pause
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
        with contextlib.closing(self._gathering.batches(lambda: self._target)) as batches:
            for batch in batches:
                self._get(batch)
                self._make_way()
        if self._absent and not self._told_absent:
            self._told_absent = True
            position, why = next(iter(self._absent.items()))
            more = f" and {len(self._absent) - 1} more" if len(self._absent) > 1 else ""
            self._tell(f"no host has the right bytes of {self._index.path(position)!r}{more}: {why}")
        return self._count() != before

    def _count(self) -> Tuple[int, int]:
        counts = self._store.presence.counts()
        return sum(count.files for count in counts), sum(count.size for count in counts)

    def _make(self, position: int, record: ObjectRecord) -> None:
        """What needs nobody, and is claimed: a symlink, a device, an empty file, or one that nobody has."""
        if not stat.S_ISREG(record.mode):
            self._writer.special(position, record)
        elif has_no_content(record):
            self._writer.give_up(position, record)
        else:
            self._writer.small(position, record, b"")

    def _get(self, batch: Batch) -> None:
        """What is in the batch is claimed; afterwards it is nobody's."""
        try:
            if batch.items:
                self._fetch(batch.items)
        finally:
            batch.give_back(self._claims)
        for position in {item.position for item in batch.items if item.chunk >= 0}:
            self._writer.finish_large(position, self._index.record(position))
        self._writer.close()

    def _fetch(self, items: List[Item]) -> None:
        began = time.monotonic()
        wanted = [Wanted(item.path, item.part * fmt.CHUNK_SIZE, item.length) for item in items]
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
        self._throttle.came(size)
        self._adapt(size, time.monotonic() - began)

    def _put(self, item: Item, data: bytes) -> None:
        if item.chunk < 0:
            self._writer.small(item.position, item.record, data, item.names)
        else:
            self._writer.chunk(item.position, item.record, item.part, item.chunk, data)

    def _nobody_has(self, item: Item, why: str) -> None:
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
        self._throttle.wait()
