"""What is due on which day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from voltool.policy.cycle import Timetable, parse_cycle
from voltool.policy.due import DumpFact, History, due, due_anyway
from voltool.policy.runs import VolumeRun

SECOND = 1_000_000_000
MONDAY = date(2026, 3, 2)
WEEK = Timetable(parse_cycle("0325476"))  # Monday 0, Tuesday 3, Wednesday 2 ...


def noon(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()) * SECOND


def on(number: int) -> date:
    """The day so many days after the Monday."""
    return MONDAY + timedelta(days=number)


def chain(*dumps: tuple[int, int]) -> list[DumpFact]:
    """(day, level) each; the base is the newest of a lower level."""
    facts: list[DumpFact] = []
    for number, (day, level) in enumerate(dumps):
        base = next((fact for fact in reversed(facts) if fact.level < level), None)
        assert base or not level
        facts.append(
            DumpFact(f"{number}", level, number, noon(on(day)), f"state {number}", base.state_id if base else None)
        )
    return facts


def turn(day: int, level: int, *, made: int | None = None, dump_id: str | None = None) -> VolumeRun:
    return VolumeRun(
        run_id="run", volume="v", volume_uuid="u", host="h", level=level, started_ns=noon(on(day)),
        ended_ns=noon(on(day)) + 1, exit_code=0, made_level=made, dump_id=dump_id, day=on(day).isoformat(),
    )  # fmt: skip


def levels(day: int, facts: list[DumpFact], last: VolumeRun | None = None) -> tuple[int, int] | None:
    found = due(WEEK, on(day), History(facts, last), UTC)
    return None if found is None else (found.wanted, found.level)


def test_todays_level_once() -> None:
    facts = chain((0, 0))
    assert levels(0, facts) is None
    assert levels(1, facts) == (3, 3)
    assert levels(1, chain((0, 0), (1, 3))) is None
    assert levels(1, chain((0, 0), (1, 2))) is None, "a lower level is as good"
    assert levels(1, chain((0, 0), (1, 9))) == (3, 3), "a higher one is not"


def test_missed_days_are_one_dump_of_their_lowest_level() -> None:
    facts = chain((0, 0))
    assert levels(2, facts) == (2, 2)
    assert levels(4, facts) == (2, 2)
    assert levels(7, facts) == (0, 0)
    assert levels(8, facts) == (0, 0), "a full that was missed is made the next day"
    found = due(WEEK, on(8), History(facts), UTC)
    assert found is not None
    assert "level 0 of 2026-03-09 is caught up" in found.why
    assert levels(500, facts) == (0, 0)


def test_a_failure_is_owed_also_after_somebody_made_another_dump() -> None:
    facts = chain((0, 0), (7, 9))
    assert levels(8, facts, turn(7, 0)) == (0, 0)
    assert levels(8, chain((0, 0), (7, 0)), turn(7, 0)) == (3, 3)
    assert levels(8, facts, turn(9, 0)) == (3, 3), "a run from the future owes nothing"


def test_no_dump_and_no_base_mean_a_full_one() -> None:
    found = due(WEEK, on(1), History(), UTC)
    assert found is not None
    assert (found.wanted, found.level) == (3, 0)
    assert "full" in found.why
    broken = [DumpFact("b", 2, 5, noon(on(2)), "state", "a state that is gone")]
    assert levels(3, broken) == (5, 0)
    found = due(WEEK, on(3), History(broken), UTC)
    assert found is not None
    assert "no dump of a lower level" in found.why


def test_a_day_without_a_dump_catches_up_what_was_missed_before() -> None:
    plan = Timetable(parse_cycle("0-3-5--"))
    assert due(plan, on(1), History(chain((0, 0))), UTC) is None
    found = due(plan, on(3), History(chain((0, 0))), UTC)
    assert found is not None
    assert found.wanted == 3


def test_a_dump_after_midnight_belongs_to_the_day_its_run_began() -> None:
    facts = chain((0, 0), (2, 3))
    assert levels(2, facts, turn(1, 3, made=3, dump_id="1")) == (2, 2)
    same_state = [*chain((0, 0)), DumpFact("x", 5, 7, noon(on(2)), "state 0", "state 0")]
    assert levels(3, same_state) == (5, 5), "a volume in which nothing changed"


def test_wrong_clocks_do_not_block() -> None:
    ahead = chain((0, 0), (4000, 2))
    assert levels(8, ahead) == (0, 0)
    assert levels(8, [*ahead, DumpFact("n", 0, 9, noon(on(8)), "s", None)]) is None
    assert levels(9, [*ahead, DumpFact("n", 0, 9, noon(on(8)), "s", None)]) == (2, 2)


@given(
    st.text("0123456789-", min_size=1, max_size=12).filter(lambda text: text.strip("-")),
    st.lists(st.tuples(st.integers(-400, 400), st.integers(0, 9)), max_size=12),
    st.integers(0, 60),
    st.one_of(st.none(), st.tuples(st.integers(-40, 100), st.integers(0, 9))),
)
def test_whatever_happened_before_a_dump_is_made_within_a_cycle(
    text: str, dumps: list[tuple[int, int]], today: int, failed: tuple[int, int] | None
) -> None:
    """And after it nothing is due that day; nobody is asked for a level that the schedule does not have."""
    plan = Timetable(parse_cycle(text))
    facts = chain((-401, 0), *dumps) if dumps else []
    last = turn(*failed) if failed else None
    for number in range(today, today + len(text) + 1):
        found = due(plan, on(number), History(facts, last), UTC)
        if found is not None:
            break
    assert found is not None or any(fact.made_ns >= noon(on(today)) for fact in facts)
    if found is not None:
        assert found.level in (0, found.wanted)
        made = DumpFact("new", found.level, 1000, noon(on(number)), "new state", None)
        assert due(plan, on(number), History([*facts, made], turn(number, found.wanted, made=found.level)), UTC) is None


def test_who_asks_gets_a_dump() -> None:
    def level(plan: Timetable | None, day: int, *dumps: tuple[int, int]) -> tuple[int, int]:
        found = due_anyway(plan, on(day), History(chain(*dumps)), UTC)
        return found.wanted, found.level

    assert level(WEEK, 8, (0, 0)) == (0, 0)
    assert level(WEEK, 1, (0, 0), (1, 3)) == (3, 3)
    assert level(WEEK, 0, (0, 0)) == (7, 7)
    assert level(Timetable(parse_cycle("0")), 0, (0, 0)) == (1, 1)
    assert level(None, 0) == (0, 0)
    assert level(None, 5, (0, 0), (4, 3)) == (1, 1)
