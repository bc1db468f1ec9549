"""The store contract: complete or absent. tests/stores/test_conformance.py holds every store to it.

A store keeps dumps as files under names it is given (relative, ``/`` between parts, see naming.py). It knows nothing of
what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

#: The longest small file that `Store.get_aside` reads, in bytes: whoever can write to a store must not fill our memory.
ASIDE_MOST = 64 << 20


@dataclass(frozen=True)
class StoredFile:
    """A published file: name, size in bytes, modification time (ns)."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class StoredDirectory:
    """A directory at the top of a store; ``mtime_ns`` (the store's clock) changes when a file appears in it or goes."""

    name: str
    mtime_ns: int


@dataclass(frozen=True)
class Space:
    """Bytes of the file system that the store lies on; ``free`` is what our user may fill, ``min_free`` included."""

    total: int
    free: int


class StoreWriter(Protocol):
    """A file that is being written; invisible until published."""

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises SpaceError when the store is full or would fall below its ``min_free``."""

    def publish(self) -> None:
        """Make the file durable and let it appear under its name, atomically. Raises RefusedError if the name exists."""

    def abandon(self) -> None:
        """Remove what was written. Idempotent; a no-op after publish."""

    def read_back(self) -> StoreReader:
        """Read what was written so far, from the store and not from a memory of ours; before publish only."""


class StoreReader(Protocol):
    """Random access to a published file."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes, fewer only at the end of the file. Thread-safe."""

    def close(self) -> None:
        """Idempotent."""


class Store(Protocol):
    """One place with dumps. Methods raise StoreError's kin: `SpaceError`, `NotFoundError`, `UnreachableError`,
    `RefusedError`, `VoltoolError`; foreign exceptions never escape."""

    url: str

    def create(self, name: str) -> StoreWriter:
        """Begin a file. Left-overs of writers that died are removed by ``sweep``, never seen by ``list``."""

    def open(self, name: str) -> StoreReader:
        """Open a published file; NotFoundError."""

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Published files whose name begins with ``prefix``, sorted by name. A prefix with a ``/`` costs no more than that
        directory does."""

    def directories(self) -> Iterator[StoredDirectory]:
        """The directories at the top that may have files, sorted by name; cheap: their files are not looked at."""

    def oddities(self) -> Iterator[str]:
        """The names of what is neither a file nor a directory (a link, a pipe) and not hidden, sorted: `list` passes it over."""

    def remove(self, name: str) -> None:
        """Remove a published file durably; idempotent."""

    def discard(self, name: str) -> None:
        """Take a published file out of ``list`` without losing it: it lies in the store's bin until `recover` or `purge`.

        Atomic and durable, by a rename: it needs no room. RefusedError while somebody alive pins it; idempotent (a file that
        is not there is no error). ``mtime_ns`` of the discarded file is the moment it was discarded, by the store's clock.
        """

    def discarded(self, prefix: str = "") -> Iterator[StoredFile]:
        """What lies in the bin of files whose name began with ``prefix``, by the names they had, sorted."""

    def recover(self, name: str) -> None:
        """Bring a discarded file back under its name. NotFoundError where it is not in the bin, RefusedError where the name
        exists."""

    def purge(self, name: str) -> None:
        """Remove a discarded file for good, durably; idempotent."""

    def put_aside(self, name: str, data: bytes) -> None:
        """Keep a small file beside the dumps, at the store's top (no ``/`` in its name), replaced atomically and durably. It
        appears in ``list``. Not for names that `naming.parse_name` knows."""

    def get_aside(self, name: str) -> bytes | None:
        """What `put_aside` kept under ``name``; None where there is nothing. VoltoolError where something else lies there (a
        link, a pipe) or it is longer than `ASIDE_MOST`."""

    def space(self) -> Space | None:
        """How much room; None where the store cannot tell."""

    def pin(self, name: str, purpose: str) -> AbstractContextManager[None]:
        """Keep ``name`` from being removed while the context lasts (an intent, held by a lock that ends with us)."""

    def is_pinned(self, name: str) -> bool:
        """Whether somebody alive pins ``name``."""

    def sweep(self, directory: str = "") -> tuple[str, ...]:
        """Remove unfinished files of writers that are no longer alive; their names. ``directory``: only there (at the top)."""

    def path_on_this_host(self) -> bytes | None:
        """Where the store lies in this machine's file system, if it does."""
