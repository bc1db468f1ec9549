"""What a reader waits for is fetched at once, kept, and answered. Several threads ask. Ships to servers.

One thing is fetched once: who finds it claimed waits for the other, though not for long: then it fetches for itself, and the
other keeps it. Where nothing can be kept (a full disk) the reader still gets his bytes, and they stay in memory for a while.
"""

from __future__ import annotations

import contextlib
import queue
import time
from typing import Callable, Iterator, Optional

from voltool.agent.lazy.index import Chunk
from voltool.agent.lazy.shared import Claims, Counter
from voltool.agent.lazy.sources import Fetcher, MakeFetcher, Missing, Piece, Wanted
from voltool.agent.lazy.store import Store
from voltool.agent.lazy.writing import Writer, has_no_content, is_right_chunk, is_right_small
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.dumpfile.lru import Lru
from voltool.errors import SpaceError, UnreachableError, VoltoolError
from voltool.frozen import dataclass

#: How long to wait for another who fetches the same, seconds.
_PATIENCE = 2.0
_POLL = 0.002
#: What could not be kept on disk stays in memory, bytes.
_UNKEPT = 16 << 20


@dataclass(frozen=True)
class _Hand:
    """A way to get something and to put it down; one thread uses it at a time."""

    fetcher: Fetcher
    writer: Writer


class Demand:
    """`small` and `chunk` bring what is missing. They raise VoltoolError where nobody has it."""

    def __init__(self, store: Store, claims: Claims, counter: Counter, make_fetcher: MakeFetcher) -> None:
        self._store = store
        self._claims = claims
        self._counter = counter
        self._make_fetcher = make_fetcher
        self._hands: queue.LifoQueue[_Hand] = queue.LifoQueue()
        self._unkept: Lru[bytes] = Lru(_UNKEPT)

    def small(self, position: int, record: ObjectRecord) -> Optional[bytes]:
        """The bytes of a small file; None: it is in the store by now."""
        if has_no_content(record):
            raise VoltoolError("its content was never read")

        def keep(writer: Writer, data: bytes) -> None:
            writer.small(position, record, data)

        return self._get(
            position,
            lambda: Wanted(self._store.index.path(position), 0, record.size),
            lambda data: is_right_small(record, data),
            lambda: self._store.is_present(position),
            keep,
        )

    def chunk(self, position: int, record: ObjectRecord, index: int, chunk: Chunk) -> Optional[bytes]:
        """The bytes of one chunk of a large file; None: it is in the store by now."""
        length = min(fmt.CHUNK_SIZE, record.size - index * fmt.CHUNK_SIZE)

        def keep(writer: Writer, data: bytes) -> None:
            writer.chunk(position, record, index, chunk.id, data)
            writer.finish_large(position, record)

        return self._get(
            self._store.index.count + chunk.id,
            lambda: Wanted(self._store.index.path(position), index * fmt.CHUNK_SIZE, length),
            lambda data: is_right_chunk(chunk.hash, length, data),
            lambda: self._store.has_chunk(position, chunk.id),
            keep,
        )

    def _get(
        self,
        claim: int,
        wanted: Callable[[], Wanted],
        right: Callable[[bytes], bool],
        is_here: Callable[[], bool],
        keep: Callable[[Writer, bytes], None],
    ) -> Optional[bytes]:
        unkept = self._unkept.get(claim)
        if unkept is not None:
            return unkept
        with self._counter.wait():
            mine = self._claim(claim, is_here)
            try:
                if is_here():
                    return None
                with self._hand() as hand:
                    data = _fetch(hand.fetcher, wanted(), right)
                    if not (mine and self._keep(hand.writer, data, keep)):
                        self._unkept.put(claim, data, len(data))
            finally:
                if mine:
                    self._claims.give_back(claim)
        return data

    def _claim(self, claim: int, is_here: Callable[[], bool]) -> bool:
        """Whether it is ours; it may be here by now in any case."""
        deadline = time.monotonic() + _PATIENCE
        while not self._claims.take(claim):
            if is_here() or time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        return True

    def _keep(self, writer: Writer, data: bytes, keep: Callable[[Writer, bytes], None]) -> bool:
        try:
            keep(writer, data)
        except SpaceError:
            self._counter.set_full(full=True)
            return False
        return True

    @contextlib.contextmanager
    def _hand(self) -> Iterator[_Hand]:
        try:
            hand = self._hands.get_nowait()
        except queue.Empty:
            hand = _Hand(self._make_fetcher(), Writer(self._store, self._claims, self._counter))
        try:
            yield hand
        finally:
            hand.writer.close()
            self._hands.put(hand)


def _fetch(fetcher: Fetcher, wanted: Wanted, right: Callable[[bytes], bool]) -> bytes:
    for answer in fetcher.fetch([wanted], lambda _index, data: right(data)):
        if isinstance(answer, Piece):
            return answer.data
        if isinstance(answer, Missing):
            raise VoltoolError("no host has the right bytes", why=answer.why)
    raise UnreachableError("no host has answered")
