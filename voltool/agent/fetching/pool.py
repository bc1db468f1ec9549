"""Fetches over direct paths from several hosts: who is asked, who is passed over, when it is tried again. Ships to servers.

Implements `sources.Fetcher`. Connections are made when they are first needed and again after they broke. A host that cannot be
reached, breaks off, hangs or serves wrong bytes is passed over for what it owes; it is asked again later, since hosts come back.
Of what is right this module knows nothing: it is told (`sources.Check`).
"""

from __future__ import annotations

import threading
import time
from typing import Dict, Iterator, List, Sequence, Set

from voltool.agent.fetching.asking import Asker, Connect
from voltool.agent.lazy.sources import Answer, Check, Missing, Piece, Wanted
from voltool.errors import UnreachableError, VoltoolError
from voltool.wire import fetching
from voltool.wire.fetching import FOUND, Want

#: Seconds until a host that failed is tried again: doubled from the first to the last.
_SOON, _LATE = 0.2, 15.0
#: The longest that one of several hosts may take for an answer, and any for a connection, seconds.
_PATIENCE = 6.0
#: Wrong bytes, more than right ones since, after which a host is asked last.
_DOUBTFUL = 3
_MOST_DOUBT = 64


class Source:
    """A host that may be asked, as all fetchers of a process see it. ``name`` for people; ``fault``: why it could not be asked
    last time."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self.connect = connect
        self.fault = ""
        self._failures = 0
        self._again = 0.0
        self._wrong = 0

    def due(self) -> float:
        """Seconds until it may be tried again; 0: now."""
        return max(0.0, self._again - time.monotonic())

    def failed(self, why: str) -> None:
        """It could not be asked."""
        self.fault = why
        self._again = time.monotonic() + min(_LATE, _SOON * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)

    def answered(self, *, right: bool) -> None:
        """It gave an answer."""
        self.fault = ""
        self._failures, self._again = 0, 0.0
        self._wrong = max(0, self._wrong - 1) if right else min(self._wrong + 1, _MOST_DOUBT)

    @property
    def doubtful(self) -> bool:
        """Whether others are asked before it: it has served wrong bytes."""
        return self._wrong >= _DOUBTFUL


class Pool:
    """The hosts that one process may ask, the best first; makes fetchers that share what they learn. ``timeout``: see
    `Fetcher`."""

    def __init__(self, sources: Sequence[Source], timeout: float) -> None:
        self.sources = list(sources)
        self.timeout = timeout

    def fetcher(self) -> PathFetcher:
        """For one thread."""
        return PathFetcher(self)

    def faults(self) -> Dict[str, str]:
        """By name the hosts that could not be asked last time, and why."""
        return {source.name: source.fault for source in self.sources if source.fault}


class _Owed:
    """What of one `Fetcher.fetch` has no answer yet, and who has said that he has not got it."""

    def __init__(self, wanted: Sequence[Wanted], right: Check) -> None:
        self.wanted = wanted
        self.right = right
        self.indexes = set(range(len(wanted)))
        self._refused: Dict[int, Set[int]] = {}
        self._why: Dict[int, str] = {}

    def by(self, source: int) -> List[int]:
        """What that source can still be asked for, in order."""
        refused = self._refused.get(source, set())
        return sorted(self.indexes - refused) if refused else sorted(self.indexes)

    def take(self, source: int, index: int, got: fetching.Answer) -> List[Answer]:
        """An answer of a source: what it is worth to the caller, one answer or none."""
        found = got.kind == FOUND
        if found and len(got.data) == self.wanted[index].length and self.right(index, got.data):
            self.indexes.discard(index)
            return [Piece(index, got.data)]
        self._refused.setdefault(source, set()).add(index)
        self._why[index] = "what is there is not what is wanted" if found else got.data.decode(errors="replace")
        return []

    def missing(self, sources: int) -> List[Answer]:
        """What every one of so many sources has refused; it is owed no more."""
        refused = [self._refused.get(source, set()) for source in range(sources)]
        lost = sorted(self.indexes.intersection(*refused)) if refused else []
        self.indexes.difference_update(lost)
        return [Missing(index, self._why[index]) for index in lost]


class PathFetcher:
    """See `sources.Fetcher`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._askers: Dict[int, Asker] = {}
        self._closed = threading.Event()

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """See `sources.Fetcher`. What a host that cannot be reached may have is not called missing."""
        owed = _Owed(wanted, right)
        heard = time.monotonic()
        while owed.indexes:
            for number in self._order(owed):
                for answer in self._try(number, owed):
                    heard = time.monotonic()
                    yield answer
                if not owed.indexes:
                    return
            yield from owed.missing(len(self._pool.sources))
            if owed.indexes:
                self._wait(owed, heard + self._pool.timeout - time.monotonic())

    def close(self) -> None:
        """See `sources.Fetcher`."""
        self._closed.set()
        for asker in list(self._askers.values()):
            asker.close()

    def _order(self, owed: _Owed) -> List[int]:
        """Who can be asked now for something that is owed: those that serve right bytes first."""
        sources = self._pool.sources
        numbers = [number for number in range(len(sources)) if not sources[number].due() and owed.by(number)]
        return sorted(numbers, key=lambda number: (sources[number].doubtful, number))

    def _try(self, number: int, owed: _Owed) -> Iterator[Answer]:
        """What one host answers, until it fails."""
        source, whole = self._pool.sources[number], False
        indexes = owed.by(number)
        if not indexes:
            return
        try:
            asker = self._asker(number)
            wants = [Want(*owed.wanted[index]) for index in indexes]
            for index, got in zip(indexes, asker.ask(wants, self._patience())):
                answers = owed.take(number, index, got)
                source.answered(right=bool(answers))
                yield from answers
            whole = True
        except VoltoolError as error:
            source.failed(str(error))
        finally:
            if not whole:  # answers may still be under way
                self._drop(number)

    def _patience(self) -> float:
        several = len(self._pool.sources) > 1
        return min(_PATIENCE, self._pool.timeout / 2) if several else self._pool.timeout

    def _asker(self, number: int) -> Asker:
        asker = self._askers.get(number)
        if asker is None:
            link = self._pool.sources[number].connect(min(_PATIENCE, self._pool.timeout))
            asker = self._askers[number] = Asker(link)
        if self._closed.is_set():
            self._drop(number)
            raise UnreachableError("fetching was given up")
        return asker

    def _drop(self, number: int) -> None:
        asker = self._askers.pop(number, None)
        if asker is not None:
            asker.close()

    def _wait(self, owed: _Owed, left: float) -> None:
        """Until somebody may be asked again; UnreachableError when it is too late, or we were closed."""
        if left > 0 and self._pool.sources and not self._closed.is_set():
            soonest = min(source.due() for number, source in enumerate(self._pool.sources) if owed.by(number))
            self._closed.wait(min(left, max(soonest, 0.02)))
            if not self._closed.is_set():
                return
        faults = "; ".join(f"{name}: {why}" for name, why in sorted(self._pool.faults().items()))
        raise UnreachableError(
            "no host that has the files can be reached", why=faults or "there is none",
            remedy="voltool replica sync NAME starts again what serves them",
        )  # fmt: skip
