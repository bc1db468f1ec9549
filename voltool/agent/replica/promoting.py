"""The steps by which a replica becomes the volume's home: decided here, done by a `PromotionGround`. Ships to servers.

Nothing of the volume is at stake before the commit, `become_home`: until then it is a replica, and read-only. After it only
forward: the record says so, and each step can be repeated.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Optional, Protocol, Tuple

from voltool.errors import NotFoundError, RefusedError
from voltool.model import PROMOTING, SERVING, Epoch, ReplicaRecord, VolumeRecord
from voltool.showing import shown


class PromotionGround(Protocol):
    """The host of a replica. Every operation is durable when it returns, and may be repeated after a crash."""

    def load(self) -> Optional[ReplicaRecord]:
        """The record of the replica; None where there is none (any more)."""

    def save(self, record: ReplicaRecord) -> None:
        """Replace it."""

    def home(self) -> Optional[VolumeRecord]:
        """The volume's record, where it lives on this host."""

    def check(self, record: ReplicaRecord, *, changed_too: bool) -> ReplicaRecord:
        """A swap that was cut off is finished; the record then. RefusedError unless the tree that is served is as it was
        swapped in (unless ``changed_too``)."""

    def settle(self, record: ReplicaRecord) -> None:
        """Nothing beside the served tree is left, and its home stamps are those it has now, so that the first dump is small."""

    def become_home(self, record: ReplicaRecord) -> None:
        """The volume is registered here with its new epoch, and has the states: the commit."""

    def open(self, record: ReplicaRecord) -> None:
        """The tree can be written to."""

    def forget(self, record: ReplicaRecord) -> None:
        """There is no replica here any more."""


@dataclasses.dataclass(frozen=True)
class Becoming:
    """What a replica becomes the volume with. ``changed_too``: also where somebody has changed it."""

    epoch: Epoch
    sequence: int
    excludes: Tuple[bytes, ...] = ()
    changed_too: bool = False


class Promoting:
    """One replica. The caller holds its lock."""

    def __init__(self, ground: PromotionGround) -> None:
        self._ground = ground

    def promote(self, wish: Becoming, before_online: Callable[[ReplicaRecord], None]) -> VolumeRecord:
        """Become the home. Repeatable with the same epoch. RefusedError for a replica that cannot, or is becoming it with
        another epoch; NotFoundError where there is none. ``before_online`` may raise: then nothing has happened."""
        ground = self._ground
        record = ground.load()
        if record is None or ground.home() is not None:
            self._check_same(wish.epoch)
        else:
            record = self._begin(record, wish, before_online)
            ground.settle(record)
            ground.become_home(record)
        finish(ground)
        home = ground.home()
        assert home is not None
        return home

    def _begin(
        self, record: ReplicaRecord, wish: Becoming, before_online: Callable[[ReplicaRecord], None]
    ) -> ReplicaRecord:
        if record.phase == PROMOTING:
            record = as_before(record)
            self._ground.save(record)
        if record.phase == SERVING:
            record = self._ground.check(record, changed_too=wish.changed_too)
        if record.phase != SERVING:
            raise _not_full(record)
        _check_higher(record, wish.epoch)
        before_online(record)
        record = dataclasses.replace(
            record,
            phase=PROMOTING,
            next_epoch=wish.epoch,
            next_sequence=wish.sequence,
            next_excludes=wish.excludes,
        )
        self._ground.save(record)
        return record

    def _check_same(self, epoch: Epoch) -> None:
        home = self._ground.home()
        if home is None:
            raise NotFoundError("this host has no replica of the volume", remedy="voltool replica list")
        if (home.epoch.number, home.epoch.token) != (epoch.number, epoch.token):
            raise RefusedError(
                "the volume lives on this host already",
                where=shown(home.path),
                why=f"with epoch {home.epoch.number}",
                remedy=f"voltool replica list {home.name}",
            )


def finish(ground: PromotionGround) -> None:
    """What the commit leaves to do: where the volume lives on this host there is no replica of it. Idempotent."""
    record = ground.load()
    if record is not None and ground.home() is not None:
        ground.open(record)
        ground.forget(record)


def as_before(record: ReplicaRecord) -> ReplicaRecord:
    """A promotion that was cut off before its commit never was: the replica is one as before. Only where the volume does
    not live on this host."""
    if record.phase != PROMOTING:
        return record
    return dataclasses.replace(record, phase=SERVING, next_epoch=None, next_sequence=0, next_excludes=())


def _check_higher(record: ReplicaRecord, epoch: Epoch) -> None:
    if record.epoch is not None and epoch.number <= record.epoch.number:
        raise RefusedError(
            "the replica has seen that epoch",
            where=shown(record.path),
            why=f"its state is of epoch {record.epoch.number}, and it is to get {epoch.number}",
            remedy=f"voltool replica list {record.name}",
        )


def _not_full(record: ReplicaRecord) -> RefusedError:
    return RefusedError(
        "the replica does not have everything of the volume: what is missing would be lost",
        where=shown(record.path),
        why=f"it is {record.phase}",
        remedy="wait until it is full (voltool replica list), promote another one, or restore the latest dump",
    )
