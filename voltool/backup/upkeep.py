"""What is done for a volume after a good dump, each night: a look for what is suspicious, a synthetic full dump when one is due,
then retention. It has the shape of `voltool.nightly.ports.Upkeep`, which it must not import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from voltool.backup.keeping import Keeping, keeping_of
from voltool.backup.merge import merge_dump
from voltool.backup.ports import World
from voltool.backup.prune import circumstances, find_suspicious, names_of, prune_volume, purge_expired, shelves_of
from voltool.backup.shelf import Shelf
from voltool.errors import VoltoolError
from voltool.model import KnownVolume
from voltool.policy.retention import is_synthetic_due
from voltool.policy.runs import UpkeepOutcome
from voltool.policy.suspicion import in_words

if TYPE_CHECKING:
    from voltool.config.settings import Settings


class VolumeUpkeep:
    """Called for a volume with the time by the CLI's clock (ns)."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world = world
        self._settings = settings

    def __call__(self, volume: KnownVolume, now_ns: int) -> UpkeepOutcome:
        """Never raises for what is wrong with the volume: that is in ``faults``. Idempotent."""
        merged: list[str] = []
        faults: list[str] = []
        dropped: tuple[str, ...] = ()
        alarms: tuple[str, ...] = ()
        try:
            keeping = keeping_of(self._settings, volume.name)
            shelves = self._shelves(volume)
            alarms = tuple(in_words(each) for each in find_suspicious(self._world, shelves, keeping))
            if not alarms:
                merged = self._merge(volume, shelves, keeping, now_ns, faults)
                dropped = self._prune(volume, keeping, now_ns, faults)
        except VoltoolError as error:
            faults.append(f"{volume.name}: {error}")
        return UpkeepOutcome(merged[-1] if merged else None, dropped, alarms, tuple(faults))

    def _shelves(self, volume: KnownVolume) -> list[Shelf]:
        return shelves_of(self._world, volume.uuid, self._world.catalog.dumps(volume.uuid))

    def _merge(
        self, volume: KnownVolume, shelves: Sequence[Shelf], keeping: Keeping, now_ns: int, faults: list[str]
    ) -> list[str]:
        """The ids of the synthetic full dumps that were due; where one fails the old chain stays, and retention keeps it."""
        made = []
        for shelf in shelves:
            due = is_synthetic_due(shelf.dumps, keeping.synthetic_full, circumstances(shelf.store, keeping, now_ns, []))
            if due is None:
                continue
            try:
                outcome = merge_dump(self._world, due, keeping)
            except VoltoolError as error:
                faults.append(f"{volume.name}: no synthetic full dump: {error}")
            else:
                made.append(outcome.dump.header.dump_id)
        return made

    def _prune(self, volume: KnownVolume, keeping: Keeping, now_ns: int, faults: list[str]) -> tuple[str, ...]:
        known = self._world.catalog.dumps(volume.uuid)
        outcome = prune_volume(self._world, volume.uuid, known, keeping, now_ns)
        faults += [
            f"{volume.name}: dump {spared.dump.header.dump_id[:12]} should go and stays: {spared.why}"
            for spared in outcome.spared
        ]
        purged = purge_expired(self._world, known, lambda _name: keeping.grace, now_ns, only=names_of(known))
        faults += purged.faults
        return tuple(dump.header.dump_id for dump in outcome.dropped)
