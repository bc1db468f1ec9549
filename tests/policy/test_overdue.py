"""Silence is noticed: in time, and not before it is silence."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from voltool.policy.cycle import Timetable, last_wanted_ns, parse_cycle
from voltool.policy.overdue import asked_about_ns, newest_of, overdue

HOUR = 3600 * 1_000_000_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000_000


def is_overdue(now: str, newest: str | None, cycle: str = "0325476") -> bool:
    now_ns = at(now)
    wanted_ns = last_wanted_ns(Timetable(parse_cycle(cycle)), asked_about_ns(now_ns), UTC)
    return overdue(now_ns, at(newest) if newest else None, wanted_ns=wanted_ns) is not None


@pytest.mark.parametrize(
    ("now", "newest", "expected"),
    [
        ("2026-10-07T09:00", "2026-10-07T02:00", False),
        ("2026-10-07T09:00", "2026-10-06T02:00", False),  # tonight failed: `backup` has said so
        ("2026-10-07T11:59", "2026-10-05T02:00", False),
        ("2026-10-07T12:00", "2026-10-05T02:00", True),  # a day and a half after the 6th began
        ("2026-10-07T12:00", None, True),
        ("2026-10-07T00:01", None, True),
    ],
)
def test_each_night(now: str, newest: str | None, expected: bool) -> None:
    assert is_overdue(now, newest) == expected


def test_days_without_a_dump_are_not_missed() -> None:
    """2026-10-05 is a Monday, the first day of the cycle."""
    weekly = "0------"
    assert not is_overdue("2026-10-11T23:00", "2026-10-05T02:00", weekly)
    assert not is_overdue("2026-10-13T11:00", "2026-10-05T02:00", weekly)
    assert is_overdue("2026-10-13T13:00", "2026-10-05T02:00", weekly)


def test_an_age_of_ones_own() -> None:
    now = at("2026-10-07T12:00")
    assert overdue(now, now - 25 * HOUR, wanted_ns=None, overdue_after=24 * 3600) is not None
    assert overdue(now, now - 23 * HOUR, wanted_ns=now - 40 * HOUR, overdue_after=24 * 3600) is None
    assert overdue(now, now - 900 * HOUR, wanted_ns=None) is None
    assert overdue(now, None, wanted_ns=None) is None
    never = overdue(now, None, wanted_ns=None, overdue_after=24 * 3600)
    assert never is not None
    assert "never" in never.why


def test_a_dump_of_the_future_hides_nothing() -> None:
    now = at("2026-10-07T12:00")
    assert newest_of([now - 5, now + 9000 * HOUR], now) == now - 5
    assert newest_of([now + 9000 * HOUR], now) is None
    assert newest_of([now + 1000], now) == now + 1000
