"""How a volume's tree leaves its path, and comes back: two ways, one contract. Ships to servers.

A directory or an unmounted subvolume is exchanged with an empty directory (`by_exchange`). A mount point cannot be renamed,
so its top entries are (`by_entries`). Which it is stands in the move's record from the beginning: a lock makes a mount point
of everything.
"""

from __future__ import annotations

from typing import Protocol

from voltool.model import SourceMove
from voltool.volumes.lock.book import LockBook
from voltool.volumes.moving.by_entries import ByEntries
from voltool.volumes.moving.by_exchange import ByExchange


class Departure(Protocol):
    """The caller is in `LockBook.step` for all that changes something. All raise HostError with a remedy."""

    def is_away(self, move: SourceMove) -> bool:
        """Whether the whole tree stands at ``retired_path``, and nothing at the path but what keeps others out."""

    def take_away(self, move: SourceMove) -> None:
        """Take the tree away from its path, under the lock or, where there is none, without. What it leaves half-done after a
        crash is undone by `bring_back`."""

    def bring_back(self, move: SourceMove) -> None:
        """Bring it back, however far `take_away` had come. Idempotent. Nothing that stands at the path is overwritten."""

    def forget(self, move: SourceMove) -> None:
        """The tree never comes back: let go of what only `bring_back` needs. Idempotent."""


def departure_of(move: SourceMove, book: LockBook, area: bytes) -> Departure:
    """The way this move's tree leaves; ``book`` has the volume's lock, ``area`` is the volume's own."""
    return ByEntries(book, area) if move.by_entries else ByExchange(book)
