"""A simulated year of the schedule for 50 volumes: what must hold whatever goes wrong."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.nightly.year import DAY, Weather, Year

FINE = Weather(0, 0, 0)
MIXED = (["monthly"] * 30 + ["weekly"] * 10 + ["hanoi"] * 5 + ["0-3-5--"] * 5)[:50]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Havana", "Pacific/Apia"])
@pytest.mark.parametrize("hour", [0.0, 2.5, 23.99])
def test_in_a_year_without_trouble_each_day_has_its_level(zone: str, hour: float) -> None:
    """Daylight saving begins and ends, in Havana at midnight; a run at 23:59 ends after midnight. Nothing is caught up."""
    year = Year(["0325476", "0-3-5--", "9"], FINE, hour=hour, zone=ZoneInfo(zone))
    year.run()
    levels = {(day, volume.name): due.wanted for day, volume, due, _dump in year.made}
    for number in range(365):
        day = year.first + timedelta(days=number)
        for volume in year.volumes:
            wanted = year.timetables[volume.uuid].level_on(day)
            expected = wanted or 0 if number == 0 else wanted
            assert levels.get((day, volume.name)) == expected, (day, volume.name)


def test_a_bad_year() -> None:
    """Nights without a run, dumps that fail, clocks that are years off: what was missed is caught up in the next good night."""
    ledger = Ledger()
    year = Year(MIXED, at_days_end=ledger.check)
    year.run()
    assert ledger.caught_up > 500
    whys = " ".join(due.why for _day, _volume, due, _dump in year.made)
    for words in ("was missed", "days were missed", "failed and is caught up", "today's"):
        assert words in whys
    # What went wrong costs a few dumps more than a year without trouble has, not many times as many.
    planned = [level for plan in year.timetables.values() for _day, level in plan.upcoming(year.first, 365)]
    assert len(year.made) < 1.1 * len(planned)
    assert sum(due.level == 0 for _day, _volume, due, _dump in year.made) < 1.5 * planned.count(0)


class Ledger:
    """Keeps its own account of what the schedule wanted of each volume since its last good dump."""

    def __init__(self) -> None:
        self.owed: dict[str, list[int]] = {}
        self.caught_up = 0

    def check(self, year: Year) -> None:
        """A good dump is of the lowest level that was owed, or lower; a night with a right clock leaves nobody out."""
        by_right_clock = {
            run.volume_uuid: run
            for runs in year.runs.values()
            for run in runs[-1:]
            if run.day == year.day.isoformat() and abs(run.started_ns - year.true_ns) < DAY
        }
        for volume in year.volumes:
            timetable = year.timetables[volume.uuid]
            level = timetable.level_on(year.day)
            owed = self.owed.setdefault(volume.uuid, [])
            if level is not None:
                owed.append(level)
            del owed[: -len(timetable.cycle.levels)]
            run = by_right_clock.get(volume.uuid)
            if by_right_clock and run is None:
                assert not owed, (year.day, volume.name, owed)
            if run is not None and run.made_level is not None:
                assert not owed or run.made_level <= min(owed), (year.day, volume.name, owed, run)
                self.caught_up += len(owed) > 1
                owed.clear()


def test_fulls_are_spread_over_the_cycle() -> None:
    year = Year(["monthly"] * 50, FINE)
    year.run(60)
    fulls = Counter(day for day, _volume, due, _dump in year.made if due.level == 0 and day > date(2026, 1, 1))
    assert len(fulls) == 59
    assert set(fulls.values()) == {1, 2}
