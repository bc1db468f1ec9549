"""The narrow protocol between a lazy replica and whoever fetches for it. Ships to servers.

The store knows the manifest, so it alone can say whether bytes are right; whoever fetches knows hosts and connections alone.
So the check goes along with the wish: bytes that fail it were served by a host that does not have this state, and the next host
is asked. What comes back has been checked.
"""

from __future__ import annotations

from typing import Callable, Iterator, NamedTuple, Protocol, Sequence, Union

#: The most bytes in one wish: a whole small file, or one chunk of a large one (`dumpfile.format.CHUNK_SIZE`).
MAX_WANTED = 1 << 20


class Wanted(NamedTuple):
    """``length`` bytes (1 to `MAX_WANTED`) at ``offset`` of the file at ``path``, which is relative to the tree's root: no
    slash at either end, never empty."""

    path: bytes
    offset: int
    length: int


class Piece(NamedTuple):
    """The bytes of ``wanted[index]``: exactly as many as were wanted, and ``right`` said yes to them."""

    index: int  # type: ignore[assignment]
    data: bytes


class Missing(NamedTuple):
    """Hosts were asked, and none has the right bytes for ``wanted[index]``; ``why`` for people."""

    index: int  # type: ignore[assignment]
    why: str


Answer = Union[Piece, Missing]
#: Whether bytes are those of ``wanted[index]``. Cheap (a hash); has no effect; may be called from any thread.
Check = Callable[[int, bytes], bool]


class Fetcher(Protocol):
    """Gets files from other hosts. One instance is used by one thread at a time; a process that needs several makes several,
    each after its last fork (connections are made when first needed). Instances of one process may share what they have learned
    of hosts, and their connections."""

    def fetch(self, wanted: Sequence[Wanted], right: Check) -> Iterator[Answer]:
        """One answer for each wish, in any order, as they come; a batch is one request, so that small files cost no round trip
        each. A host that fails, dies, hangs or sends wrong bytes is passed over and the next one asked for what it owes.

        UnreachableError where within the time-out (`StartLazy.timeout`, counted from the last answer) no host could be asked at
        all: for what has not been answered. Then the caller may try again later. Raises nothing else of VoltoolError.
        """

    def close(self) -> None:
        """Give up its connections. Idempotent. May be called from another thread while `fetch` runs, which then ends with
        UnreachableError soon."""


#: Makes a fetcher; called once in each thread or process that fetches.
MakeFetcher = Callable[[], Fetcher]
