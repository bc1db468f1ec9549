"""What a dump for a replica stands on: a place of its own, and the volume's lock for the moment of the clone alone. Ships to
servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Iterator, Optional

from voltool.agent.bases import MOVE_LEVEL, BaseBook
from voltool.agent.dump_ground import newest_state
from voltool.agent.replica.out_place import OutPlace, OutRecord, give_up_clones
from voltool.model import ReplicaBase
from voltool.tree.state import BaseState, StateKeeper
from voltool.volumes.contract import Driver
from voltool.volumes.records import VolumeHome


class ReplicaGround:
    """A `agent.dump_ground.DumpGround`. The caller holds the place's lock."""

    def __init__(self, place: OutPlace, home: VolumeHome, driver: Driver) -> None:
        self.directory = place.directory
        self.level = MOVE_LEVEL
        self.label = ""
        self._place = place
        self._home = home
        self._driver = driver
        self._sequence = 0

    def tidy(self, book: BaseBook) -> None:
        """See `DumpGround`. The book is a replica's: one base, and what was sent last."""
        for clone in self._place.clones(self._home, self._driver):
            if clone.label not in book.labels():
                self._driver.drop(self._home.record, clone)
        directory = os.path.join(self.directory, b"states")
        if os.path.isdir(directory):
            StateKeeper(directory).keep_only(book.states())

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """See `DumpGround`. What is cloned gets the volume's next sequence before anybody else can have it."""
        with self._home.lock_to_clone(self._place.replica_id):
            self._sequence = self._home.next_sequence()
            self.label = f"{self._place.prefix}{self._sequence}"
            yield

    def sequence(self) -> int:
        """See `DumpGround`."""
        return self._sequence

    def newest(self, book: BaseBook) -> Optional[BaseState]:
        """See `DumpGround`. Where nothing is kept for the replica: what the volume's own dumps have left. Its object numbers go
        on, and its stamps are borrowed."""
        return newest_state(self.directory, book) or newest_state(self._home.area, BaseBook(self._home.area))

    def give_up_clones(self) -> bool:
        """See `DumpGround`."""
        return give_up_clones(self._home, self._driver, own=self._place)


class BaseKeeper:
    """What the home believes the replica to have, in the record and in the book of bases. The caller holds the place's lock."""

    def __init__(self, place: OutPlace, start: OutRecord) -> None:
        self._place = place
        known = place.load()
        if known is not None:
            start = dataclasses.replace(start, base=known.base, pending=known.pending, pinned=known.pinned)
        base = dataclasses.replace(start.base, replica=start.base.replica)
        self.record = dataclasses.replace(start, base=base)
        if self.record != known:
            place.save(self.record)

    def sent(self, pending: ReplicaBase) -> None:
        """A dump has left; nobody knows yet whether it arrived."""
        self._save(dataclasses.replace(self.record, pending=pending))

    def confirm(self, state_id: str) -> None:
        """The replica has that state. Idempotent; one that was neither sent last nor is the base is not known here."""
        book = BaseBook(self._place.directory)
        book.confirm(state_id)
        pending = self.record.pending
        if pending is not None and pending.state_id == state_id:
            self._save(dataclasses.replace(self.record, base=pending, pending=None))

    def pin(self, *, pinned: bool) -> None:
        """Whether its clone is read by others, so that it is not given up. Idempotent."""
        if self.record.pinned is not pinned:
            self._save(dataclasses.replace(self.record, pinned=pinned))

    def _save(self, record: OutRecord) -> None:
        self._place.save(record)
        self.record = record
