"""Cycles of levels: how they are written, where in them a volume is on which day."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.errors import UsageError
from voltool.policy.cycle import NAMED, Timetable, last_wanted_ns, local_date, parse_cycle, spread

SECOND = 1_000_000_000
uuids = st.sets(st.uuids().map(lambda value: value.hex), min_size=1, max_size=80)
days = st.dates(date(1970, 1, 2), date(2200, 1, 1))


@given(st.text("0123456789-", min_size=1, max_size=40).filter(lambda text: text.strip("-")), days)
def test_a_cycle_repeats_one_level_a_day(text: str, day: date) -> None:
    cycle = parse_cycle(text)
    assert "".join("-" if level is None else str(level) for level in cycle.levels) == text
    timetable = Timetable(cycle)
    assert timetable.level_on(day) == timetable.level_on(day + timedelta(days=len(text)))
    turn = [timetable.level_on(day + timedelta(days=number)) for number in range(len(text))]
    assert any(turn == [*cycle.levels[start:], *cycle.levels[:start]] for start in range(len(text)))
    last = timetable.last_wanted(day)
    assert timetable.level_on(last) is not None
    assert list(timetable.upcoming(last + timedelta(days=1), (day - last).days)) == []


@pytest.mark.parametrize("name", NAMED)
def test_each_named_cycle_has_one_full_and_short_chains(name: str) -> None:
    levels = [level for level in parse_cycle(f" {name.upper()} ").levels if level is not None]
    assert levels[0] == 0
    assert levels.count(0) == {"weekly": 1, "monthly": 1, "hanoi": 1}[name]
    twice = levels + levels
    for place in range(len(levels)):
        chain, at = 1, place + len(levels)
        while twice[at]:
            at = next(other for other in range(at - 1, -1, -1) if twice[other] < twice[at])
            chain += 1
        assert chain <= 6


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"), ("  ", "empty"), ("---", "no day"), ("012a", "character 4 ('a')"), ("01 2", "character 3"),
        ("daily", "character 1 ('d')"), ("x", "it is neither"), ("0" * 367, "367 days"), ("0\u0661", "character 2"),
        ("01\n", ""), ("0-1\x00", "character 4"),
    ],
)  # fmt: skip
def test_what_is_no_cycle(text: str, why: str) -> None:
    if not why:
        assert parse_cycle(text).text == text.strip()
        return
    with pytest.raises(UsageError) as caught:
        parse_cycle(text)
    assert why in caught.value.why
    assert "weekly" in caught.value.remedy


@given(uuids, st.sampled_from([*NAMED, "0", "0-5", "012"]))
def test_volumes_are_spread_evenly_and_always_alike(found: set[str], text: str) -> None:
    cycle = parse_cycle(text)
    timetables = spread(dict.fromkeys(found, cycle))
    assert set(timetables) == found
    loads = Counter(timetable.offset for timetable in timetables.values())
    counts = [loads[place] for place in range(len(cycle.levels))]
    assert max(counts) - min(counts) <= 1
    assert spread(dict.fromkeys(sorted(found), cycle)) == timetables


def test_a_volume_that_is_added_moves_few_others() -> None:
    cycle = parse_cycle("monthly")
    names = [f"{number:032x}" for number in range(200)]
    moved = []
    for size in range(20, 200):
        before, after = spread(dict.fromkeys(names[:size], cycle)), spread(dict.fromkeys(names[: size + 1], cycle))
        moved.append(sum(after[name] != before[name] for name in before))
    assert sum(moved) / len(moved) < 10
    assert max(moved) < 40


def test_those_with_other_cycles_do_not_matter() -> None:
    alone = spread({"a": parse_cycle("weekly"), "b": parse_cycle("0325476")})
    both = spread({"a": parse_cycle("weekly"), "b": parse_cycle("0325476"), "c": parse_cycle("monthly")})
    assert {uuid: both[uuid] for uuid in alone} == alone


def test_without_staggering_weeks_begin_on_a_monday() -> None:
    timetables = spread({"a": parse_cycle("weekly"), "b": parse_cycle("0------")}, staggered=False)
    fulls = {
        name: [day for day, level in plan.upcoming(date(2026, 1, 1), 21) if level == 0]
        for name, plan in timetables.items()
    }
    assert fulls["a"] == fulls["b"] == [date(2026, 1, day) for day in (5, 12, 19)]


@given(st.integers(-(10**19), 10**20), st.sampled_from(["UTC", "Pacific/Kiritimati", "America/Havana"]))
def test_any_moment_has_a_date(time_ns: int, zone: str) -> None:
    day = local_date(time_ns, ZoneInfo(zone))
    if 0 < time_ns < 4 * 10**18:
        moment = datetime.fromtimestamp(time_ns // SECOND, ZoneInfo(zone))
        assert day == moment.date()


@pytest.mark.parametrize("zone", ["America/Havana", "Europe/Berlin", "Australia/Lord_Howe", "UTC"])
def test_the_last_moment_that_was_wanted_is_the_beginning_of_a_local_day(zone: str) -> None:
    """In Havana the clock goes from 0:00 to 1:00 when summer begins: that day begins at 1:00."""
    place = ZoneInfo(zone)
    timetable = Timetable(parse_cycle("0-5"))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(2000):
        now += timedelta(hours=5)
        now_ns = int(now.timestamp()) * SECOND
        wanted = last_wanted_ns(timetable, now_ns, place)
        day = local_date(wanted, place)
        assert wanted <= now_ns
        assert day == timetable.last_wanted(local_date(now_ns, place))
        assert local_date(wanted - 1, place) == day - timedelta(days=1)
