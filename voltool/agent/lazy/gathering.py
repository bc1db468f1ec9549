"""What of a lazy replica is still to come, claimed batch after batch by whoever fills: in the order of objects' numbers, which is
about that of the source's inodes. Knows nothing of who fetches. Ships to servers.

Small files are claimed in spans of neighbouring objects, one lock for hundreds of them: a span is taken before its records are
looked at, so that of several who fill only one looks.
"""

from __future__ import annotations

import stat
from typing import Callable, Dict, Generator, Iterator, List, NamedTuple, Tuple

from voltool.agent.lazy.index import TreeIndex, data_chunks
from voltool.agent.lazy.shared import LOST, MISSING, PRESENT, Claims
from voltool.agent.lazy.store import Store
from voltool.agent.lazy.writing import has_no_content
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.tree.apply.names import Name

#: The most files, or chunks, in a batch.
MOST_FILES = 512
#: So many directories' paths are kept in memory.
_MOST_PATHS = 20_000


class Item(NamedTuple):
    """One thing to get: a whole small file, or (``chunk`` >= 0, by id) chunk ``part`` of a large one."""

    position: int
    record: ObjectRecord
    names: List[Name]
    path: bytes
    length: int
    part: int = 0
    chunk: int = -1


class Batch:
    """What is claimed together; ``limit``: bytes at which it is full."""

    def __init__(self, limit: int) -> None:
        self.items: List[Item] = []
        self._spans: List[Tuple[int, int]] = []
        self._size = 0
        self._limit = limit

    def add(self, item: Item) -> None:
        """One more."""
        self.items.append(item)
        self._size += item.length

    def claimed(self, start: int, stop: int) -> None:
        """These claims are the batch's."""
        if stop > start:
            self._spans.append((start, stop))

    @property
    def is_full(self) -> bool:
        """Whether nothing more belongs into it."""
        return self._size >= self._limit or len(self.items) >= MOST_FILES

    def give_back(self, claims: Claims) -> None:
        """It is nobody's. Idempotent."""
        while self._spans:
            claims.give_back_span(*self._spans.pop())


class Gathering:
    """For one who fills. ``make`` is called for what needs no fetching (not a regular file, an empty one, one that nobody has the
    content of), claimed; ``finish`` for a large file that may have all its chunks."""

    def __init__(
        self,
        store: Store,
        claims: Claims,
        make: Callable[[int, ObjectRecord], None],
        finish: Callable[[int, ObjectRecord], object],
    ) -> None:
        self._store = store
        self._index: TreeIndex = store.index
        self._claims = claims
        self._make = make
        self._finish = finish
        self._paths: Dict[int, bytes] = {}

    def batches(self, limit: Callable[[], int]) -> Generator[Batch, None, None]:
        """Everything that is missing and nobody else has claimed, once; ``limit``: bytes of the next batch. Who takes a batch
        gives it back."""
        presence = self._store.presence
        batch = Batch(limit())
        position = presence.next_unsettled(0)
        try:
            while position >= 0:
                if self._index.size(position) > fmt.CHUNK_SIZE:
                    for item in self._chunks(position):
                        batch.claimed(self.claim_of(item), self.claim_of(item) + 1)
                        batch.add(item)
                        if batch.is_full:
                            yield batch
                            batch = Batch(limit())
                    position += 1
                else:
                    position = self._small(batch, position)
                if batch.is_full:
                    yield batch
                    batch = Batch(limit())
                position = presence.next_unsettled(position)
            yield batch
        finally:
            batch.give_back(self._claims)

    def claim_of(self, item: Item) -> int:
        """The number under which it is claimed."""
        return item.position if item.chunk < 0 else self._index.count + item.chunk

    def _small(self, batch: Batch, position: int) -> int:
        """Claim objects from ``position`` on, but no large file, and add those that are to be fetched; where to go on."""
        run = self._store.presence.missing_run(position, MOST_FILES - len(batch.items))
        first, stop = self._claims.take_first(position, run)
        end = first
        try:
            while end < stop and not batch.is_full:
                if self._store.presence.objects[end] == MISSING:  # another may have had it until now
                    record = self._index.record(end)
                    if not stat.S_ISREG(record.mode) or not record.size or has_no_content(record):
                        self._make(end, record)
                    elif record.size > fmt.CHUNK_SIZE:
                        break
                    else:
                        batch.add(self._item(end, record))
                end += 1
        finally:
            batch.claimed(first, end)
            if end < stop:
                self._claims.give_back_span(end, stop)
        return max(end, position)

    def _item(self, position: int, record: ObjectRecord) -> Item:
        names = self._index.names(position)
        return Item(position, record, names, self._path(names[0]), record.size)

    def _path(self, name: Name) -> bytes:
        directory, own = name
        above = self._paths.get(directory)
        if above is None:
            path = self._index.path(self._index.position(directory))
            above = path + b"/" if path else b""
            if len(self._paths) >= _MOST_PATHS:
                self._paths.clear()
            self._paths[directory] = above
        return above + own

    def _chunks(self, position: int) -> Iterator[Item]:
        """Claimed ones of a large file."""
        store = self._store
        record = self._index.record(position)
        names = self._index.names(position)
        path = self._path(names[0])
        for part, chunk in data_chunks(self._index, position):
            if store.presence.objects[position] in (PRESENT, LOST):
                return
            if store.has_chunk(position, chunk) or not self._claims.take(self._index.count + chunk):
                continue
            if store.has_chunk(position, chunk):  # until now another had it
                self._claims.give_back(self._index.count + chunk)
                continue
            length = min(fmt.CHUNK_SIZE, record.size - part * fmt.CHUNK_SIZE)
            yield Item(position, record, names, path, length, part, chunk)
        self._finish(position, record)
