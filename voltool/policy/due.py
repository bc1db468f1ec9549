"""What is due now: which level a volume is owed, from its dumps, its last turn in a run and the date. Pure: no I/O, no clock.

A day's want is met by a dump of its level or a lower one that day. What was missed is caught up by one dump of the lowest
level among the days since the last dump. Nothing from the future counts, so a clock that was wrong blocks no dump.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo

from voltool.model import StoredDump
from voltool.policy.cycle import Timetable, local_date
from voltool.policy.runs import VolumeRun


@dataclass(frozen=True)
class DumpFact:
    """What the schedule has to know of a dump. ``made_ns``: when it was made by the CLI's clock, as far as that is known."""

    dump_id: str
    level: int
    sequence: int
    made_ns: int
    state_id: str
    base_state_id: str | None = None


@dataclass(frozen=True)
class Due:
    """A dump that is due. ``wanted`` is the level to ask for; ``level`` what it will be: 0 where no base is known."""

    wanted: int
    level: int
    why: str


@dataclass(frozen=True)
class History:
    """What is known of a volume: its dumps in its store (at least the newest of each level), and its last turn in a run."""

    dumps: Sequence[DumpFact] = ()
    last: VolumeRun | None = None


def fact_of(dump: StoredDump, made_ns: int | None = None) -> DumpFact:
    """The fact of a dump; ``made_ns`` where a better time is known than the host's clock at its clone."""
    header = dump.header
    made = header.clone_time_ns if made_ns is None else made_ns
    return DumpFact(header.dump_id, header.level, header.sequence, made, dump.totals.state_id, header.base_state_id)


def due(timetable: Timetable, today: date, history: History, zone: tzinfo) -> Due | None:
    """What is due on the local date ``today``; None: nothing."""
    if not history.dumps:
        return Due(timetable.level_on(today) or 0, 0, "it has no dump in its store yet: a full one")
    days = _days_of(history, zone)
    reasons = [
        *_of_today(timetable, today, days),
        *_failed(history.last, today, days),
        *_missed(timetable, today, days),
        *_full_too_old(timetable, today, days),
    ]
    if not reasons:
        return None
    wanted, why = min(reasons, key=lambda reason: reason[0])
    return _on_a_base(wanted, why, history.dumps)


def due_anyway(timetable: Timetable | None, today: date, history: History, zone: tzinfo) -> Due:
    """What to dump where somebody asks for a dump now: what is due, else once more at today's level.

    Where that would be another full, or no level is wanted today, the highest level of the cycle; without a schedule: a full
    one at first, and then level 1.
    """
    if timetable is None:
        if not history.dumps:
            return Due(0, 0, "asked for; it is in no schedule and has no dump in its store yet: a full one")
        return _on_a_base(1, "asked for; it is in no schedule", history.dumps)
    found = due(timetable, today, history, zone)
    if found is not None:
        return found
    wanted = timetable.level_on(today) or max(1, timetable.cycle.highest)
    return _on_a_base(wanted, "asked for; nothing is due", history.dumps)


def _days_of(history: History, zone: tzinfo) -> list[tuple[DumpFact, date]]:
    """Each dump with the day of the schedule that it belongs to, the last one that was made first.

    A run that began before midnight still makes dumps after it.
    """
    last = history.last
    own_day = _day_of_run(last) if last is not None else None
    return [
        (dump, own_day if own_day and last and last.dump_id == dump.dump_id else local_date(dump.made_ns, zone))
        for dump in sorted(history.dumps, key=lambda dump: (dump.sequence, dump.made_ns), reverse=True)
    ]


def _day_of_run(run: VolumeRun) -> date | None:
    try:
        return date.fromisoformat(run.day)
    except ValueError:
        return None


def _missed(timetable: Timetable, today: date, days: Sequence[tuple[DumpFact, date]]) -> list[tuple[int, str]]:
    """The lowest level of the days between the last dump and today. A whole cycle back is as far as it makes a difference.

    The last one by sequence: one that was made before it bears a later date only where a clock was wrong.
    """
    earliest = today - timedelta(days=len(timetable.cycle.levels))
    last = next((day for _dump, day in days if day <= today), earliest - timedelta(days=1))
    first = max(last + timedelta(days=1), earliest)
    missed = list(timetable.upcoming(first, (today - first).days))
    if not missed:
        return []
    day, level = min(missed, key=lambda each: each[1])
    if last < earliest:
        return [(level, f"no dump for a whole cycle: level {level} of {day} is caught up")]
    if len(missed) == 1:
        return [(level, f"level {level} of {day} was missed and is caught up")]
    return [(level, f"{len(missed)} days were missed: level {level} of {day} is caught up")]


def _of_today(timetable: Timetable, today: date, days: Sequence[tuple[DumpFact, date]]) -> list[tuple[int, str]]:
    """Today's level, unless it is there; a dump that bears today's date and is older than one of yesterday is not of today."""
    wanted = timetable.level_on(today)
    latest = itertools.takewhile(lambda each: each[1] >= today, days)
    if wanted is None or any(dump.level <= wanted and day == today for dump, day in latest):
        return []
    return [(wanted, f"level {wanted} is today's")]


def _failed(last: VolumeRun | None, today: date, days: Sequence[tuple[DumpFact, date]]) -> list[tuple[int, str]]:
    """What the last run could not make, and nobody has made since."""
    day = _day_of_run(last) if last is not None else None
    if last is None or day is None or day > today or last.made_level is not None:
        return []
    if any(dump.level <= last.level and dump.made_ns >= last.started_ns and made <= today for dump, made in days):
        return []
    return [(last.level, f"level {last.level} of {day} failed and is caught up")]


def _full_too_old(timetable: Timetable, today: date, days: Sequence[tuple[DumpFact, date]]) -> list[tuple[int, str]]:
    """A volume that is moved within its cycle, again and again as others come and go, must get its full some time."""
    cycle = timetable.cycle
    fulls = [day for dump, day in days if dump.level == 0]
    if 0 not in cycle.levels or not fulls or (today - max(fulls)).days < 2 * len(cycle.levels):
        return []
    return [(0, f"the last full dump is of {max(fulls)}, more than two cycles ago")]


def _on_a_base(wanted: int, why: str, dumps: Sequence[DumpFact]) -> Due:
    if wanted == 0 or _has_base(wanted, dumps):
        return Due(wanted, wanted, why)
    return Due(wanted, 0, f"{why}; no dump of a lower level is there to build on: a full one")


def _has_base(level: int, dumps: Sequence[DumpFact]) -> bool:
    """Whether a dump of a lower level is there with everything that it rests on (a state may be that of several dumps)."""
    whole = {dump.state_id for dump in dumps if dump.base_state_id is None}
    for dump in sorted(dumps, key=lambda dump: dump.sequence):
        if dump.base_state_id is None or dump.base_state_id in whole:
            whole.add(dump.state_id)
            if dump.level < level:
                return True
    return False
