"""A year of nights for twenty volumes: failures, missed days, clocks that jump, of hosts and of the one that prunes. At the end
of every day every promise holds. (tests/nightly/test_year_kept.py has the same with the real schedule, for fifty.)

The promise is stated here over all dumps there ever were, by a bookkeeper who never drops anything; retention sees only what it
left the night before.
"""

from __future__ import annotations

import bisect
import heapq
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo

from tests.catalog.samples import SECOND, make_dump, make_volume
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import Lineage, Point, point_of, recency
from voltool.policy.retention import Circumstances, Rules, decide, is_synthetic_due

DAY = 86_400 * SECOND
START = int(datetime(2026, 1, 1, 2, 30, tzinfo=UTC).timestamp()) * SECOND
CYCLES = ("0325476132547613254761325476", "0111111", "01234567", "1", "0" + "1" * 27)
RULES = (
    Rules(last=3, daily=7, weekly=4, monthly=12, yearly=2),
    Rules(daily=14, monthly=3, min_age=0),
    Rules(last=1, min_age=0),
    Rules(weekly=8, min_age=3 * 86_400),
)


@dataclass
class Bookkeeper:
    """What was ever dumped, and what is promised of it. A dump counts from the moment its time has come."""

    rules: Rules
    zone: tzinfo = UTC
    waiting: list[StoredDump] = field(default_factory=list)
    by_sequence: list[tuple[int, Point]] = field(default_factory=list)
    newest: tuple[dict[object, StoredDump], ...] = field(default_factory=lambda: ({}, {}, {}, {}))

    def promised(self, now_ns: int) -> set[Point]:
        come = [dump for dump in self.waiting if dump.header.clone_time_ns <= now_ns]
        self.waiting = [dump for dump in self.waiting if dump.header.clone_time_ns > now_ns]
        for dump in come:
            bisect.insort(self.by_sequence, (dump.header.sequence, point_of(dump)))
            when = datetime.fromtimestamp(dump.header.clone_time_ns // SECOND, self.zone)
            keys = (when.toordinal(), when.isocalendar()[:2], (when.year, when.month), when.year)
            for group, key in zip(self.newest, keys, strict=True):
                if key not in group or group[key].header.sequence < dump.header.sequence:
                    group[key] = dump
        counts = (self.rules.daily, self.rules.weekly, self.rules.monthly, self.rules.yearly)
        found = {point for _sequence, point in self.by_sequence[-self.rules.last :]} if self.rules.last else set()
        for count, group in zip(counts, self.newest, strict=True):
            found |= {point_of(group[key]) for key in heapq.nlargest(count, group)}  # type: ignore[type-var]
        return found


@dataclass
class Household:
    """One volume with its dumps, its rules and its bad luck."""

    volume: KnownVolume
    cycle: str
    rules: Rules
    synthetic: str
    dice: random.Random
    dumps: list[StoredDump] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self.books = Bookkeeper(self.rules)
        self.number = 0

    def night(self, day: int, pruning_clock: int) -> None:
        now_ns = START + day * DAY
        if self.dice.random() > 0.05:
            self._dump(int(self.cycle[day % len(self.cycle)]), now_ns)
            due = is_synthetic_due(self.dumps, self.synthetic, Circumstances(now_ns + SECOND, UTC))
            if due is not None:
                self._merge(due)
            about = Circumstances(now_ns + SECOND + pruning_clock, UTC)
            self.dumps = [each.dump for each in decide(self.dumps, self.rules, about) if each.keep]
        self.most = max(self.most, len(self.dumps))

    def _dump(self, level: int, now_ns: int) -> None:
        lineage = Lineage(self.dumps)
        fitting = [dump for dump in self.dumps if dump.header.level < level and lineage.is_whole(dump)]
        base = max(fitting, key=recency, default=None)
        self.number += 1
        wrong = self.dice.choice((-400, -3, 20, 500)) * DAY if self.dice.random() < 0.01 else 0
        dump = make_dump(self.number, volume=self.volume, level=level if base else 0, base=base, time_ns=now_ns + wrong)
        self.dumps.append(dump)
        self.books.waiting.append(dump)

    def _merge(self, dump: StoredDump) -> None:
        header = replace(dump.header, dump_id=f"f{self.number:031x}", level=0, base_state_id=None, base_dump_id=None)
        self.dumps.append(replace(dump, header=header))

    def check(self, day: int) -> None:
        lineage = Lineage(self.dumps)
        assert all(lineage.is_whole(dump) for dump in self.dumps)
        restorable = {point_of(dump) for dump in self.dumps}
        assert self.books.promised(START + day * DAY + SECOND) <= restorable, (self.volume.name, day)
        assert not self.number or any(dump.header.level == 0 for dump in self.dumps)


def test_every_promise_holds_at_the_end_of_every_day_of_a_year() -> None:
    dice = random.Random(2026)
    houses = [
        Household(
            make_volume(f"vol{number}"),
            CYCLES[number % len(CYCLES)],
            RULES[number % len(RULES)],
            ("weekly", "monthly", "never")[number % 3],
            random.Random(number),
        )
        for number in range(20)
    ]
    for day in range(365):
        asleep = dice.random() < 0.03
        clock = dice.choice((-1000, -30, 40, 1000)) * DAY if dice.random() < 0.02 else 0
        for house in houses:
            if not asleep:
                house.night(day, clock)
            house.check(day)
    # Chains of eight levels, a month each, and fulls: what is promised, and not much beside it.
    assert max(house.most for house in houses) < 120
    assert sum(house.number for house in houses) > 6_000
