"""Files that lie on this host already (a restored dump): looked at before any other host is asked. Ships to servers.

What is there may be anything: who asked checks every byte, as with any source.
"""

from __future__ import annotations

import os
import time
from typing import Callable, Iterator, List, Optional, Sequence

from voltool.agent.lazy.sources import Answer, Check, Fetcher, Piece, Wanted
from voltool.beneath import open_beneath, opened_directory
from voltool.errors import UnreachableError

_OPEN = os.O_RDONLY | os.O_NONBLOCK
#: How often it is looked whether something else is wanted, seconds.
_LOOK = 1.0


class GivenFirst:
    """A `sources.Fetcher`: the ``directories``, then ``others``."""

    def __init__(self, directories: Sequence[bytes], others: Fetcher) -> None:
        self._directories = directories
        self._others = others

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """See `Fetcher`."""
        left: List[int] = []
        for index, each in enumerate(wanted):
            data = self._find(index, each, right)
            if data is None:
                left.append(index)
            else:
                yield Piece(index, data)
        if not left:
            return
        for answer in self._others.fetch([wanted[index] for index in left], lambda at, data: right(left[at], data)):
            yield answer._replace(index=left[answer.index])

    def close(self) -> None:
        """See `Fetcher`."""
        self._others.close()

    def _find(self, index: int, wanted: Wanted, right: Check) -> Optional[bytes]:
        for directory in self._directories:
            data = _read(directory, wanted)
            if data is not None and len(data) == wanted.length and right(index, data):
                return data
        return None


class Renewed:
    """A `sources.Fetcher`: the one that ``make`` gives, made anew when ``version`` tells that another one is wanted."""

    def __init__(self, version: Callable[[], int], make: Callable[[], Fetcher]) -> None:
        self._version = version
        self._make = make
        self._made: Optional[Fetcher] = None
        self._of = -1
        self._looked = 0.0
        self._closed = False

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """See `Fetcher`."""
        return self._current().fetch(wanted, right)

    def close(self) -> None:
        """See `Fetcher`."""
        self._closed = True
        if self._made is not None:
            self._made.close()

    def _current(self) -> Fetcher:
        now = time.monotonic()
        if self._made is None or now - self._looked > _LOOK:
            self._looked = now
            version = self._version()
            if self._made is None or version != self._of:
                if self._made is not None:
                    self._made.close()
                self._made, self._of = self._make(), version
        if self._closed:
            self._made.close()
        return self._made


class Nobody:
    """A `sources.Fetcher` where there is no host to ask."""

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """See `Fetcher`."""
        del wanted, right
        raise UnreachableError("there is no host to fetch from", remedy="voltool move --resume NAME")

    def close(self) -> None:
        """See `Fetcher`."""


def _read(directory: bytes, wanted: Wanted) -> Optional[bytes]:
    try:
        with opened_directory(directory) as root:
            descriptor = open_beneath(root, wanted.path, _OPEN)
            try:
                return os.pread(descriptor, wanted.length, wanted.offset)
            finally:
                os.close(descriptor)
    except OSError:
        return None
