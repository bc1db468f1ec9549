"""What a run will do: which volumes, at which level and why, and what is wrong with those that are left out.

Asks the catalog and the configuration; connects to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, tzinfo
from typing import TYPE_CHECKING

from voltool.backup.ports import World
from voltool.backup.schedule import Schedules, schedules_of, zone_of
from voltool.errors import NotFoundError, UsageError, VoltoolError
from voltool.model import KnownVolume
from voltool.policy.cycle import local_date
from voltool.policy.due import Due, DumpFact, History, due, due_anyway, fact_of
from voltool.stores.naming import parse_name

if TYPE_CHECKING:
    from voltool.config.lenient import LenientSettings

_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Turn:
    """One volume whose dump is due."""

    volume: KnownVolume
    due: Due
    store: str


@dataclass(frozen=True)
class LeftOut:
    """A volume that cannot take its turn, and why. ``volume`` is None where the catalog knows none of that name."""

    name: str
    volume: KnownVolume | None
    error: VoltoolError


@dataclass(frozen=True)
class Plan:
    """``turns`` in the order of the run; ``not_due``, ``unscheduled``: names; ``faults`` concern no single volume."""

    day: date
    turns: tuple[Turn, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    not_due: tuple[str, ...] = ()
    unscheduled: tuple[str, ...] = ()
    faults: tuple[VoltoolError, ...] = ()


@dataclass
class Planner:
    """``store_of`` gives the URL of a volume's store, by its name; ``names``: these volumes only, whatever is due."""

    world: World
    lenient: LenientSettings
    store_of: Callable[[str], str]
    now_ns: int
    names: Sequence[str] = ()
    _turns: list[Turn] = field(default_factory=list)
    _left_out: list[LeftOut] = field(default_factory=list)
    _not_due: list[str] = field(default_factory=list)

    def plan(self) -> Plan:
        """The plan. Low levels first: what others will rest on, and what was owed longest."""
        zone, zone_faults = self._zone()
        volumes = self.world.catalog.volumes()
        schedules = schedules_of(self.lenient.settings, volumes, self.lenient.volumes)
        today = local_date(self.now_ns, zone)
        wanted = self._wanted(volumes, schedules)
        histories = self._histories(wanted)
        for volume in wanted:
            self._consider(volume, schedules, histories.get(volume.uuid, History()), today, zone)
        return Plan(
            day=today,
            turns=tuple(sorted(self._turns, key=lambda turn: (turn.due.level, turn.volume.name))),
            left_out=tuple(self._left_out),
            not_due=tuple(self._not_due),
            unscheduled=() if self.names else schedules.unscheduled,
            faults=(*self.lenient.general, *zone_faults),
        )

    def _zone(self) -> tuple[tzinfo, tuple[VoltoolError, ...]]:
        from datetime import datetime

        try:
            return zone_of(self.lenient.settings), ()
        except UsageError as error:  # some day it is everywhere
            zone = datetime.now().astimezone().tzinfo
            assert zone is not None
            return zone, (error,)

    def _wanted(self, volumes: Sequence[KnownVolume], schedules: Schedules) -> list[KnownVolume]:
        """The volumes to consider; what is wrong with names that were given or configured is noted."""
        known = {volume.name: volume for volume in volumes}
        if not self.names:
            for name, error in schedules.errors.items():
                self._left_out.append(LeftOut(name, known.get(name), error))
            return [volume for volume in volumes if volume.uuid in schedules.timetables]
        wanted = []
        for name in dict.fromkeys(self.names):
            if name in known and name not in schedules.errors:
                wanted.append(known[name])
                continue
            fallback = NotFoundError(f"there is no volume {name!a}", remedy="voltool volume list")
            self._left_out.append(LeftOut(name, known.get(name), schedules.errors.get(name, fallback)))
        return wanted

    def _histories(self, wanted: Sequence[KnownVolume]) -> dict[str, History]:
        catalog = self.world.catalog
        last = {run.volume_uuid: run for run in catalog.last_runs(self.now_ns)}
        newest: dict[str, list[tuple[str, DumpFact]]] = {}
        for uuid, store, file, fact in catalog.newest_facts():
            newest.setdefault(uuid, []).append((store, _by_our_clock(fact, file)))
        return {
            volume.uuid: History(self._facts(volume, newest.get(volume.uuid, [])), last.get(volume.uuid))
            for volume in wanted
        }

    def _facts(self, volume: KnownVolume, newest: Sequence[tuple[str, DumpFact]]) -> list[DumpFact]:
        """Those of the volume's own store. The newest of each level are enough, where none of them is in another one."""
        try:
            own = self.store_of(volume.name)
        except VoltoolError:
            return []
        if all(store == own for store, _fact in newest):
            return [fact for _store, fact in newest]
        dumps = self.world.catalog.dumps(volume.uuid)
        return [_by_our_clock(fact_of(dump), dump.file) for dump in dumps if dump.store == own]

    def _consider(self, volume: KnownVolume, schedules: Schedules, history: History, today: date, zone: tzinfo) -> None:
        timetable = schedules.timetables.get(volume.uuid)
        if self.names:
            found: Due | None = due_anyway(timetable, today, history, zone)
        else:
            found = due(timetable, today, history, zone) if timetable is not None else None
        if found is None:
            self._not_due.append(volume.name)
            return
        try:
            self._check(volume)
            self._turns.append(Turn(volume, found, self.store_of(volume.name)))
        except VoltoolError as error:
            self._left_out.append(LeftOut(volume.name, volume, error))

    def _check(self, volume: KnownVolume) -> None:
        if volume.host in self.lenient.hosts:
            raise self.lenient.hosts[volume.host]
        if self.world.catalog.is_elsewhere(volume):
            self.world.catalog.volume(volume.name)  # says so


def _by_our_clock(fact: DumpFact, file: str) -> DumpFact:
    """With the time in its file's name, where it has one: that is our own clock, not the host's."""
    name = parse_name(file)
    return fact if name is None else replace(fact, made_ns=name.time * _SECOND)
