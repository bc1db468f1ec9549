"""What a dump stands on besides the tree: where its states and clones are kept, under which names, and who is kept out meanwhile.

`VolumeGround` is that of a volume's own dumps; a replica has one of its own (`agent.replica.out_ground`), so that neither's bases
are in the other's way. Ships to servers.
"""

from __future__ import annotations

import contextlib
import os
from contextlib import AbstractContextManager
from typing import Optional, Protocol

from voltool.agent.bases import MOVE_LEVEL, BaseBook
from voltool.agent.keep import tidy
from voltool.agent.replica.out_place import give_up_clones
from voltool.tree.state import BaseState, StateKeeper
from voltool.volumes.contract import Driver
from voltool.volumes.records import VolumeHome
from voltool.wire import messages


class DumpGround(Protocol):
    """``directory`` holds ``states/``, ``tmp/`` and the book of bases; ``label`` is what the clone is called, ``level`` what the
    book has the dump under, ``what`` the dump is for, for people."""

    directory: bytes
    label: str
    level: int

    def tidy(self, book: BaseBook) -> None:
        """Drop what no base needs. Called first."""

    def turn(self) -> AbstractContextManager[None]:
        """Around cloning."""

    def sequence(self) -> int:
        """The volume's sequence of this dump; asked for once, after cloning."""

    def newest(self, book: BaseBook) -> Optional[BaseState]:
        """The state that is known best; the caller closes it."""

    def give_up_clones(self) -> bool:
        """Drop clones that are kept for speed alone, since space is short; whether there were any."""


class VolumeGround:
    """The volume's own dumps. The caller holds its lock."""

    def __init__(self, request: messages.StartDump, home: VolumeHome, driver: Driver) -> None:
        self.directory = home.area
        self.label = request.dump_id
        self.level = MOVE_LEVEL if request.for_move else request.level
        self._home = home
        self._driver = driver

    def tidy(self, book: BaseBook) -> None:
        """See `DumpGround`."""
        tidy(self._home, self._driver, book)

    def turn(self) -> AbstractContextManager[None]:
        """See `DumpGround`. Whoever else works on the volume is kept out for the whole dump."""
        return contextlib.nullcontext()

    def sequence(self) -> int:
        """See `DumpGround`."""
        return self._home.next_sequence()

    def newest(self, book: BaseBook) -> Optional[BaseState]:
        """See `DumpGround`."""
        return newest_state(self.directory, book)

    def give_up_clones(self) -> bool:
        """See `DumpGround`. Without them the next dump compares every file."""
        return give_up_clones(self._home, self._driver)


def newest_state(directory: bytes, book: BaseBook) -> Optional[BaseState]:
    """The state of the base that was made last, in ``directory``."""
    newest = book.newest()
    return StateKeeper(os.path.join(directory, b"states")).open(newest.state_id) if newest else None


def space_is_short(area: bytes) -> bool:
    """Below 5 % free, clones kept for speed only are given up: they hold space that the volume's users need."""
    status = os.statvfs(area)
    return status.f_bavail * 20 < status.f_blocks
