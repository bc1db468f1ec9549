"""How fast a lazy replica may be filled, which can be said anew while it is being filled. Ships to servers."""

from __future__ import annotations

import time
from typing import Callable

from voltool.agent.lazy.book import LazyBook

#: How often is looked whether something else was said, seconds.
_LOOK = 0.5
#: What was not used of the limit counts for so long, seconds.
_SAVED = 1.0


class Throttle:
    """Keeps one filler below ``limit()`` bytes/s (0: no limit), by waiting."""

    def __init__(self, limit: Callable[[], int]) -> None:
        self._limit = limit
        #: Bytes that came and are not paid for by the time that has passed.
        self._owed = 0.0
        self._at = time.monotonic()

    def came(self, size: int) -> None:
        """So many bytes were fetched."""
        self._owed += size

    def wait(self) -> None:
        """Until more may be fetched, by what the limit is then."""
        while True:
            rate = self._limit()
            now = time.monotonic()
            paid = self._owed - (now - self._at) * rate
            self._owed, self._at = max(paid, -rate * _SAVED) if rate else 0.0, now
            if self._owed <= 0:
                return
            time.sleep(min(_LOOK, self._owed / rate))


class WishedLimit:
    """The limit that is written down for a replica now, bytes/s; for one process."""

    def __init__(self, book: LazyBook) -> None:
        self._book = book
        self._version = -1
        self._looked = 0.0
        self._limit = 0

    def now(self) -> int:
        """It, as of half a second ago at most."""
        at = time.monotonic()
        if self._version < 0 or at - self._looked >= _LOOK:
            self._looked = at
            version = self._book.version()
            if version != self._version:
                wishes = self._book.wishes()
                if wishes is not None:
                    self._limit = wishes.bandwidth
                self._version = version
        return self._limit
