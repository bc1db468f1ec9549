"""Files that lie on this host already (a restored dump): looked at before any other host is asked. Ships to servers.

What is there may be anything: who asked checks every byte, as with any source.
"""

from __future__ import annotations

import os
from typing import Iterator, List, Optional, Sequence

from voltool.agent.lazy.sources import Answer, Check, Fetcher, Piece, Wanted
from voltool.beneath import open_beneath, opened_directory
from voltool.errors import UnreachableError

_OPEN = os.O_RDONLY | os.O_NONBLOCK


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
