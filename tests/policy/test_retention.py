"""What retention promises, held against definitions of its own, over made-up histories of a volume."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.catalog.samples import SECOND, make_dump
from voltool.model import FileProblem, Problem, StoredDump
from voltool.policy.chain import Lineage, base_of, chain_of, point_of
from voltool.policy.retention import Circumstances, Decision, Rules, decide, is_synthetic_due

DAY = 86_400 * SECOND
START = int(datetime(2026, 1, 1, 3, tzinfo=UTC).timestamp()) * SECOND
BERLIN = ZoneInfo("Europe/Berlin")


def taken(number: int, days: float, level: int = 0, base: StoredDump | None = None, **values: object) -> StoredDump:
    """The dump of sequence ``number``, ``days`` after `START`."""
    return make_dump(number, level=level, base=base, time_ns=START + int(days * DAY), **values)  # type: ignore[arg-type]


def merged(dump: StoredDump, dump_id: str) -> StoredDump:
    """A full dump of the same point in time."""
    header = replace(dump.header, dump_id=dump_id, level=0, base_state_id=None, base_dump_id=None)
    return replace(dump, header=header, file=f"vol1/{dump_id}.voltool")


def kept(dumps: Sequence[StoredDump], rules: Rules, days: float, **about: object) -> list[int]:
    """The sequences of what stays, ``days`` after `START`."""
    circumstances = Circumstances(START + int(days * DAY), zone=UTC, **about)  # type: ignore[arg-type]
    return [each.dump.header.sequence for each in decide(dumps, rules, circumstances) if each.keep]


def of_decision(decisions: Sequence[Decision], number: int) -> Decision:
    return next(each for each in decisions if each.dump.header.sequence == number)


# --------------------------------------------------------------------------------------------------------- examples


def test_without_rules_nothing_goes() -> None:
    dumps = [taken(day, day) for day in range(1, 400)]
    assert len(kept(dumps, Rules(), 4000)) == 399


def test_each_count_counts_what_has_a_dump() -> None:
    """A machine that was away for a year loses nothing by it."""
    dumps = [taken(day, day) for day in range(70)]
    rules = Rules(daily=3, weekly=2, monthly=3, min_age=0)
    last_of_months = [30, 58]  # 31 January, 28 February
    assert kept(dumps, rules, 70) == kept(dumps, rules, 500) == [*last_of_months, 66, 67, 68, 69]


def test_the_zone_says_which_day_it_is() -> None:
    late = replace(
        taken(1, 0), header=replace(taken(1, 0).header, clone_time_ns=START + 20 * 3600 * SECOND)
    )  # 23:00 UTC
    dumps = [late, taken(2, 1)]
    rules = Rules(daily=2, min_age=0)
    in_utc = decide(dumps, rules, Circumstances(START + 9 * DAY, UTC))
    in_berlin = decide(dumps, rules, Circumstances(START + 9 * DAY, BERLIN))
    assert [each.keep for each in in_utc] == [True, True]
    assert [each.keep for each in in_berlin] == [False, True], "half past midnight and four in the morning of one day"


def test_a_base_stays_as_long_as_what_rests_on_it() -> None:
    zero = taken(1, 0)
    one = taken(2, 1, 1, zero)
    two = taken(3, 2, 2, one)
    other = taken(4, 3, 1, zero)
    decisions = decide([zero, one, two, other], Rules(last=1, min_age=0), Circumstances(START + 9 * DAY, UTC))
    assert [each.keep for each in decisions] == [True, False, False, True]
    assert "a base of 000000000000" in " ".join(of_decision(decisions, 1).reasons)
    assert "the newest" in of_decision(decisions, 4).reasons
    assert "no rule keeps it" in of_decision(decisions, 2).reasons[0]


def test_the_last_good_full_dump_stays_though_an_older_one_serves_the_newest() -> None:
    zero = taken(1, 0)
    full = taken(2, 1)
    newest = taken(3, 2, 1, zero)
    assert kept([zero, full, newest], Rules(last=1, min_age=0), 9) == [1, 2, 3]


def test_a_full_dump_that_could_not_read_everything_does_not_displace_one_that_could() -> None:
    broken = (FileProblem(Problem.UNREADABLE, b"x", "EIO"),)
    dumps = [taken(1, 0), taken(2, 1), taken(3, 2, problems=broken), taken(4, 3, problems=broken)]
    assert kept(dumps, Rules(last=1, min_age=0), 9) == [2, 4]


def test_nothing_younger_than_min_age_goes_by_either_clock() -> None:
    dumps = [taken(number, number / 10) for number in range(1, 9)]
    rules = Rules(last=1, min_age=86_400)
    assert kept(dumps, rules, 1.45) == [5, 6, 7, 8]
    assert kept(dumps, rules, 9, made_ns=lambda _dump: START + int(8.5 * DAY)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_what_comes_from_the_future_stays_and_displaces_nothing() -> None:
    dumps = [taken(1, 1), taken(2, 2), taken(3, 4000)]
    rules = Rules(last=1, daily=1, min_age=0)
    assert kept(dumps, rules, 3) == [2, 3]
    assert "not come yet" in of_decision(decide(dumps, rules, Circumstances(START + 3 * DAY, UTC)), 3).reasons[0]


def test_a_time_out_of_line_displaces_nothing_even_when_it_has_come() -> None:
    """The fourth dump's host was three hundred days ahead; tonight this machine's clock is a thousand days ahead."""
    dumps = [taken(1, 1), taken(2, 2), taken(3, 3), taken(4, 304), taken(5, 5), taken(6, 6)]
    rules = Rules(daily=3, min_age=0)
    assert kept(dumps, rules, 7) == kept(dumps, rules, 1000) == [3, 4, 5, 6]


def test_what_lacks_its_base_stays_and_displaces_nothing() -> None:
    zero = taken(1, 0)
    orphan = taken(3, 2, 1, taken(2, 1))
    assert kept([zero, orphan], Rules(last=1, min_age=0), 9) == [1, 3]


def test_stores_are_judged_by_themselves() -> None:
    here = [taken(1, 0), taken(2, 1)]
    there = [
        replace(dump, store="file:///there", header=replace(dump.header, dump_id=f"e{dump.header.dump_id[1:]}"))
        for dump in here
    ]
    assert kept([*here, *there], Rules(last=1, min_age=0), 9) == [2, 2]


def test_a_merged_dump_takes_the_place_of_its_chain() -> None:
    zero = taken(1, 0)
    one = taken(2, 1, 1, zero)
    full = merged(one, "f" * 32)
    later = taken(4, 3, 2, one)
    dumps = [zero, one, full, later]
    assert base_of(later, dumps) == full
    decisions = decide(dumps, Rules(last=2, min_age=10**9), Circumstances(START + 9 * DAY, UTC))
    assert [each.keep for each in decisions] == [True, False, True, True], (
        "zero is younger than min_age, one is full's twin"
    )
    assert "the same point in time as ffffffffffff" in of_decision(decisions, 2).reasons[0]
    decisions = decide(dumps, Rules(last=2, min_age=0), Circumstances(START + 9 * DAY, UTC))
    assert [each.keep for each in decisions] == [False, False, True, True]


def test_what_is_held_stays_with_its_bases() -> None:
    zero = taken(1, 0)
    one = taken(2, 1, 1, zero)
    full = taken(3, 2)
    held = {one.header.dump_id: "undeleted"}
    assert kept([zero, one, full], Rules(last=1, min_age=0), 9, held=held) == [1, 2, 3]
    assert kept([zero, one, full], Rules(last=1, min_age=0), 9, frozen="suspicious") == [1, 2, 3]


def test_times_that_no_calendar_has_are_old() -> None:
    dumps = [taken(1, -(10**6)), taken(2, 1)]
    assert kept(dumps, Rules(last=1, yearly=1, min_age=0), 9) == [2]


@pytest.mark.parametrize(("every", "days"), [("weekly", {5, 12, 19, 26, 33}), ("monthly", {32})])
def test_a_synthetic_full_dump_is_due_once_a_period(every: str, days: set[int]) -> None:
    """1 January 2026 is a Thursday, and 5 a Monday (day 4); the dump of the new week is there when one is due."""
    dumps = [taken(1, 0)]
    due_on = set()
    for day in range(1, 33):
        full = max((each for each in dumps if each.header.level == 0), key=lambda each: each.header.sequence)
        dumps.append(taken(day + 1, day, 1, full))
        about = Circumstances(START + day * DAY + SECOND, UTC)
        due = is_synthetic_due(dumps, every, about)
        if due is not None:
            due_on.add(day + 1)
            dumps.append(merged(due, f"{day:032x}"[::-1]))
            assert is_synthetic_due(dumps, every, about) is None
    assert due_on == days
    assert is_synthetic_due(dumps, "never", Circumstances(START + 99 * DAY, UTC)) is None


# ------------------------------------------------------------------------------------------------------- properties

RULES = st.builds(
    Rules,
    last=st.integers(0, 3),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 2),
    yearly=st.integers(0, 1),
    min_age=st.sampled_from([0, 86_400, 5 * 86_400]),
)


@dataclass(frozen=True)
class Step:
    """A day: the level dumped, a jump of the host's clock (days), what is merged then, whether a base is lost."""

    level: int
    jump: int
    merge: bool
    lost: bool


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from([0, 1, 1, 2, 2, 3]),
        st.sampled_from([0, 0, 0, 0, -20, 30]),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([False] * 9 + [True]),
    ),
    min_size=1,
    max_size=30,
)


def history(steps: Sequence[Step]) -> list[StoredDump]:
    """Dumps as dump.py would choose their bases."""
    dumps: list[StoredDump] = []
    for day, step in enumerate(steps, 1):
        lineage = Lineage(dumps)
        fitting = [dump for dump in dumps if dump.header.level < step.level and lineage.is_whole(dump)]
        base = max(fitting, key=lambda dump: (dump.header.sequence, -dump.header.level), default=None)
        dump = taken(day, day + step.jump, step.level if base else 0, base)
        dumps.append(dump)
        if step.merge and dump.header.level:
            dumps.append(merged(dump, f"{day:032x}"[::-1]))
        if step.lost:
            dumps.pop(len(dumps) // 2)
    return dumps


def after(dumps: Sequence[StoredDump], rules: Rules, now_ns: int) -> list[StoredDump]:
    return [each.dump for each in decide(dumps, rules, Circumstances(now_ns, UTC)) if each.keep]


@settings(max_examples=300, deadline=None)
@given(STEPS, RULES, st.integers(-10, 60))
def test_no_chain_is_broken_and_the_last_full_dump_stays(steps: list[Step], rules: Rules, late: int) -> None:
    dumps = history(steps)
    now_ns = START + (len(steps) + late) * DAY
    left = after(dumps, rules, now_ns)
    before_lineage, lineage = Lineage(dumps), Lineage(left)
    assert [dump for dump in left if before_lineage.is_whole(dump) and not lineage.is_whole(dump)] == []
    fulls = [dump for dump in dumps if dump.header.level == 0 and dump.header.clone_time_ns <= now_ns]
    if fulls:
        newest = max(fulls, key=lambda dump: dump.header.sequence)
        assert point_of(newest) in {point_of(dump) for dump in left if dump.header.level == 0}
    if not any(step.jump for step in steps):
        assert set(after(left, rules, now_ns)) == set(left), "what stays once stays"


@settings(max_examples=200, deadline=None)
@given(STEPS, RULES)
def test_more_is_kept_under_wider_rules(steps: list[Step], rules: Rules) -> None:
    dumps = history(steps)
    now_ns = START + 40 * DAY
    points = {point_of(dump) for dump in after(dumps, rules, now_ns)}
    if rules.keeps_all:
        return
    for name in ("last", "daily", "weekly", "monthly", "yearly", "min_age"):
        wider = replace(rules, **{name: getattr(rules, name) + 1})
        assert points <= {point_of(dump) for dump in after(dumps, wider, now_ns)}


@settings(max_examples=200, deadline=None)
@given(STEPS, st.data())
def test_what_is_read_does_not_depend_on_what_else_is_there(steps: list[Step], data: st.DataObject) -> None:
    """A dump can be read as long as one base that fits is left with its own chain: so no order of dropping breaks anything."""
    dumps = history(steps)
    lineage = Lineage(dumps)
    whole = [dump for dump in dumps if lineage.is_whole(dump)]
    if not whole:
        return
    dump = data.draw(st.sampled_from(whole))
    others = data.draw(st.lists(st.sampled_from(dumps), max_size=5))
    chain = lineage.chain_of(dump)
    closed = {each.header.dump_id: each for other in (dump, *others) for each in lineage.chain_of(other)}
    again = chain_of(dump, list(closed.values()))
    assert again[0].header.level == 0
    assert [each.header.level for each in again] == sorted({each.header.level for each in again})
    assert len(again) <= len(chain) or again == chain


def promised(ever: Sequence[StoredDump], rules: Rules, now_ns: int) -> set[object]:
    """The definition, over all dumps there ever were: points in time that must be restorable."""
    usable = [dump for dump in ever if dump.header.clone_time_ns <= now_ns]
    points = {point_of(dump): dump for dump in usable}
    newest_first = sorted(points.values(), key=lambda dump: dump.header.sequence, reverse=True)
    found = newest_first[: rules.last]
    keys: list[tuple[int, Callable[[datetime], object]]] = [
        (rules.daily, lambda when: when.date()),
        (rules.weekly, lambda when: when.isocalendar()[:2]),
        (rules.monthly, lambda when: (when.year, when.month)),
        (rules.yearly, lambda when: when.year),
    ]
    for count, key in keys:
        groups: dict[object, StoredDump] = {}
        for dump in newest_first:
            groups.setdefault(key(datetime.fromtimestamp(dump.header.clone_time_ns // SECOND, UTC)), dump)
        found += [groups[name] for name in sorted(groups, reverse=True)[:count]]  # type: ignore[type-var]
    return {point_of(dump) for dump in found}


@settings(max_examples=100, deadline=None)
@given(STEPS, RULES)
def test_pruning_each_day_keeps_what_is_promised_of_all_days(steps: list[Step], rules: Rules) -> None:
    """Retention sees only what it left the day before; the promise is about everything there ever was."""
    steps = [replace(step, lost=False, jump=0) for step in steps]
    left: list[StoredDump] = []
    ever: list[StoredDump] = []
    for day, step in enumerate(steps, 1):
        lineage = Lineage(left)
        fitting = [dump for dump in left if dump.header.level < step.level]
        base = max(fitting, key=lambda dump: (dump.header.sequence, -dump.header.level), default=None)
        dump = taken(day, day, step.level if base else 0, base)
        new = [dump, *([merged(dump, f"{day:032x}"[::-1])] if step.merge and dump.header.level else [])]
        ever.append(dump)
        left = after([*left, *new], rules, START + day * DAY)
        lineage = Lineage(left)
        restorable = {point_of(each) for each in left if lineage.is_whole(each)}
        assert promised(ever, rules, START + day * DAY) <= restorable


def test_many_dumps_are_judged_in_order_of_their_names_or_not() -> None:
    """The same whatever the order they are given in."""
    dumps = history([Step(level, 0, merge=False, lost=False) for level in (0, 2, 1, 2, 3, 1)])
    rules = Rules(last=2, min_age=0)
    wanted = {dump.header.dump_id for dump in after(dumps, rules, START + 9 * DAY)}
    for order in itertools.islice(itertools.permutations(dumps), 50):
        assert {dump.header.dump_id for dump in after(order, rules, START + 9 * DAY)} == wanted
