"""A year of nights in a moment: the schedule with failures, missed days, clocks that jump; dumps are made up.

A `Year` goes through days. Each night it asks the real schedule (policy.cycle, policy.due) what is due, and makes dumps by the
rules of the dump job: the base is the dump of the highest sequence with a lower level whose chain is there. At the end of
each day ``at_days_end`` is called with the year: retention can drop dumps there (`drop`), make synthetic fulls (`add`) and
check what it promises (`dumps_of`, `now_ns`).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from tests.catalog.samples import make_dump, make_volume
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import chain_of
from voltool.policy.cycle import Timetable, local_date, parse_cycle, spread
from voltool.policy.due import Due, DumpFact, History, due, fact_of
from voltool.policy.runs import VolumeRun

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
STORE = "file:///srv/store"
#: So many of a volume's newest dumps are looked at: more than any cycle here has days.
_RECENT = 40


@dataclass(frozen=True)
class Weather:
    """How bad a year is: chances, each between 0 and 1. ``asleep``: of a night without any run (for all volumes); ``failing``:
    of a dump that fails; ``clock``: of a night whose clock is wrong, by a month to three years in either direction."""

    asleep: float = 0.03
    failing: float = 0.05
    clock: float = 0.01


@dataclass
class Year:
    """``volumes`` with one schedule each, from ``first`` on, at ``hour`` local time of ``zone`` every night.

    ``now_ns`` is the CLI's clock as it stands (wrong in some nights); ``true_ns`` what a right one would say; ``made`` has what
    was due in each night, by volume; ``dumps`` and ``runs`` what a catalog would have.
    """

    schedules: Sequence[str]
    weather: Weather = Weather()
    seed: int = 0
    first: date = date(2026, 1, 1)
    hour: float = 2.5
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Berlin"))
    at_days_end: Callable[[Year], None] = lambda _year: None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.volumes = [make_volume(f"vol{number}") for number in range(len(self.schedules))]
        cycles = {
            volume.uuid: parse_cycle(schedule) for volume, schedule in zip(self.volumes, self.schedules, strict=True)
        }
        self.timetables: dict[str, Timetable] = spread(cycles)
        self.dumps: dict[str, list[StoredDump]] = {volume.uuid: [] for volume in self.volumes}
        self.runs: dict[str, list[VolumeRun]] = {volume.uuid: [] for volume in self.volumes}
        self.made: list[tuple[date, KnownVolume, Due, StoredDump | None]] = []
        self._facts: dict[str, DumpFact] = {}
        self.sequence = 0
        self.day = self.first
        self.now_ns = self.true_ns = 0

    def run(self, days: int = 365) -> None:
        """So many nights."""
        for number in range(days):
            self.day = self.first + timedelta(days=number)
            self.true_ns = self._moment(self.day)
            self.now_ns = self.true_ns
            if self.random.random() < self.weather.clock:
                self.now_ns += self.random.choice([-1, 1]) * self.random.randint(30, 1000) * DAY
            if self.random.random() >= self.weather.asleep:
                self.night()
            self.now_ns = self.true_ns
            self.at_days_end(self)

    def night(self) -> None:
        """One run of everything that is due, by the clock as it stands; it takes a minute a volume."""
        today = local_date(self.now_ns, self.zone)
        started_ns = self.now_ns
        for number, volume in enumerate(self.volumes):
            self.now_ns = started_ns + number * 60 * SECOND
            found = due(self.timetables[volume.uuid], today, self.history(volume), self.zone)
            if found is not None:
                self._take_turn(volume, found, today)
        self.now_ns = started_ns

    def history(self, volume: KnownVolume) -> History:
        """What the schedule is told of a volume: as the run does it, the newest dump of each level."""
        past = [run for run in self.runs[volume.uuid][-_RECENT:] if run.ended_ns <= self.now_ns]
        newest = {dump.header.level: self._facts[dump.header.dump_id] for dump in self.dumps[volume.uuid][-_RECENT:]}
        facts = list(newest.values())
        return History(facts, max(past, key=lambda run: run.ended_ns, default=None))

    def dumps_of(self, volume: KnownVolume) -> list[StoredDump]:
        """Oldest first."""
        return self.dumps[volume.uuid]

    def add(self, dump: StoredDump) -> None:
        """A dump that was made now."""
        dumps = self.dumps[dump.header.volume_uuid]
        dumps.append(dump)
        dumps.sort(key=lambda each: each.header.sequence)
        self._facts[dump.header.dump_id] = fact_of(dump, self.now_ns)

    def drop(self, dump: StoredDump) -> None:
        """A dump that is gone."""
        self.dumps[dump.header.volume_uuid].remove(dump)

    def dump(self, volume: KnownVolume, level: int, time_ns: int | None = None) -> StoredDump:
        """One dump by the rules of the job, with the host's clock at ``time_ns``."""
        self.sequence += 1
        base = self._base(volume, level)
        dump = make_dump(
            self.sequence,
            volume=volume,
            level=level if base else 0,
            base=base,
            time_ns=self.now_ns if time_ns is None else time_ns,
            store=STORE,
        )
        self.add(dump)
        return dump

    def _base(self, volume: KnownVolume, level: int) -> StoredDump | None:
        dumps = self.dumps[volume.uuid][-_RECENT:]
        for base in sorted(dumps, key=lambda dump: dump.header.sequence, reverse=True):
            if base.header.level < level and chain_of(base, dumps)[0].header.level == 0:
                return base
        return None

    def _take_turn(self, volume: KnownVolume, found: Due, today: date) -> None:
        dump = None if self.random.random() < self.weather.failing else self.dump(volume, found.wanted)
        run = VolumeRun(
            run_id=f"run of {today}",
            volume=volume.name,
            volume_uuid=volume.uuid,
            host=volume.host,
            level=found.wanted,
            started_ns=self.now_ns,
            ended_ns=self.now_ns + 30 * SECOND,
            exit_code=0 if dump else 6,
            why=found.why,
            day=today.isoformat(),
        )
        if dump is not None:
            run = dataclasses.replace(run, made_level=dump.header.level, dump_id=dump.header.dump_id)
        self.runs[volume.uuid].append(run)
        self.made.append((self.day, volume, found, dump))

    def _moment(self, day: date) -> int:
        hours = int(self.hour)
        wall = datetime(day.year, day.month, day.day, hours, int((self.hour - hours) * 60), tzinfo=self.zone)
        return int(wall.timestamp()) * SECOND
