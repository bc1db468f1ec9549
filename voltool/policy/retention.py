"""Which dumps of a volume stay, and why, in words. Pure: no I/O, no clock; the caller says what time it is.

A promise is kept for points in time (`chain.point_of`), and then for all that a kept dump rests on. Each store of a volume is
judged by itself: what lies elsewhere restores nothing here. Only dumps that can be restored count as the newest of anything,
and none whose time has not come or is out of line: a clock that was wrong must not push a good dump out. Counting days *that
have a dump* makes the promise independent of how late it is now.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from voltool.model import Problem, StoredDump
from voltool.policy.chain import Lineage, Point, point_of, recency

_SECOND = 1_000_000_000
_NAMED = 12


@dataclass(frozen=True)
class Rules:
    """What is promised: the newest ``last`` points in time, and the newest of each of so many days, ISO weeks, months and years
    that have one; nothing younger than ``min_age`` seconds goes. All counts 0: nothing ever goes."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    min_age: int = 86_400

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever pruned."""
        return not (self.last or self.daily or self.weekly or self.monthly or self.yearly)


@dataclass(frozen=True)
class Decision:
    """What becomes of one dump; ``reasons`` in words, several where several promises hold it."""

    dump: StoredDump
    keep: bool
    reasons: tuple[str, ...]


def no_other_time(dump: StoredDump) -> int:
    """Where nothing else tells when a dump was made."""
    return dump.header.clone_time_ns


@dataclass(frozen=True)
class Circumstances:
    """Beside the dumps: the time by the CLI's clock (ns), the zone that days are counted in (None: this machine's), when a dump
    was made by the CLI's clock (``made_ns``; a dump's own time is its host's), dumps that are held whatever the rules say (id to
    why), and why nothing of this volume may go (empty: it may)."""

    now_ns: int
    zone: tzinfo | None = None
    made_ns: Callable[[StoredDump], int] = no_other_time
    held: Mapping[str, str] | None = None
    frozen: str = ""


def decide(dumps: Sequence[StoredDump], rules: Rules, about: Circumstances) -> list[Decision]:
    """For each dump of one volume, in the order given, whether it stays. Never leaves a kept dump without what it rests on."""
    if rules.keeps_all:
        return [Decision(dump, keep=True, reasons=("no rule says that anything may go",)) for dump in dumps]
    if about.frozen:
        return [Decision(dump, keep=True, reasons=(about.frozen,)) for dump in dumps]
    reasons: dict[str, list[str]] = {}
    dropped: dict[str, str] = {}
    for store in dict.fromkeys(dump.store for dump in dumps):
        here = [dump for dump in dumps if dump.store == store]
        judge = _Judge(here, rules, about)
        judge.run()
        reasons |= judge.reasons
        dropped |= judge.why_not
    return [
        Decision(dump, keep=True, reasons=tuple(reasons[dump.header.dump_id]))
        if dump.header.dump_id in reasons
        else Decision(dump, keep=False, reasons=(dropped[dump.header.dump_id],))
        for dump in dumps
    ]


class _Judge:
    """The dumps of one volume in one store."""

    def __init__(self, dumps: Sequence[StoredDump], rules: Rules, about: Circumstances) -> None:
        self._dumps = dumps
        self._rules = rules
        self._about = about
        self._lineage = Lineage(dumps)
        self.reasons: dict[str, list[str]] = {}
        self.why_not: dict[str, str] = {}

    def run(self) -> None:
        """Fill ``reasons`` (of those that stay) and ``why_not`` (of the others)."""
        complete: list[StoredDump] = []
        astray = _astray(self._dumps)
        for dump in self._dumps:
            if not self._lineage.is_whole(dump):
                self._keep(dump, "its base is missing, so that nobody can say what it is good for")
            elif self._is_future(dump):
                self._keep(dump, "its time has not come yet: a clock was or is wrong")
            elif dump.header.dump_id in astray:
                self._keep(dump, "its time is later than that of most dumps made after it: a clock was wrong")
            else:
                complete.append(dump)
        points = _representatives(complete)
        self._keep_promises(points)
        self._keep_last_fulls(complete)
        self._keep_young(complete, points)
        self._keep_held()
        self._keep_bases()
        self._say_why_not(points)

    def _keep(self, dump: StoredDump, why: str) -> None:
        self.reasons.setdefault(dump.header.dump_id, []).append(why)

    def _is_future(self, dump: StoredDump) -> bool:
        return max(dump.header.clone_time_ns, self._about.made_ns(dump)) > self._about.now_ns

    def _keep_promises(self, points: Mapping[Point, StoredDump]) -> None:
        newest_first = sorted(points.values(), key=recency, reverse=True)
        for place, dump in enumerate(newest_first[: self._rules.last], 1):
            self._keep(dump, "the newest" if place == 1 else f"one of the newest {self._rules.last}")
        for count, period in zip(
            (self._rules.daily, self._rules.weekly, self._rules.monthly, self._rules.yearly), _PERIODS, strict=True
        ):
            newest_of: dict[str, StoredDump] = {}
            for dump in newest_first if count else ():
                newest_of.setdefault(period(dump.header.clone_time_ns // _SECOND, self._about.zone), dump)
            for name in sorted(newest_of, reverse=True)[:count]:
                self._keep(newest_of[name], f"the newest of {name}")

    def _keep_last_fulls(self, complete: Iterable[StoredDump]) -> None:
        fulls = sorted((dump for dump in complete if dump.header.level == 0), key=recency)
        if not fulls:
            return
        self._keep(fulls[-1], "the last good full dump")
        whole = [dump for dump in fulls if not any(each.problem is Problem.UNREADABLE for each in dump.problems)]
        if whole and whole[-1] is not fulls[-1]:
            self._keep(whole[-1], "the last full dump in which every file could be read")

    def _keep_young(self, complete: Iterable[StoredDump], points: Mapping[Point, StoredDump]) -> None:
        """Young points in time, not young copies: of a point that has been merged, one dump is enough."""
        limit = self._about.now_ns - self._rules.min_age * _SECOND
        for dump in complete:
            if points[point_of(dump)] is dump and max(dump.header.clone_time_ns, self._about.made_ns(dump)) > limit:
                self._keep(dump, "younger than min_age")

    def _keep_held(self) -> None:
        held = self._about.held or {}
        for dump in self._dumps:
            if dump.header.dump_id in held:
                self._keep(dump, held[dump.header.dump_id])

    def _keep_bases(self) -> None:
        kept = set(self.reasons)
        for dump in self._dumps:
            if dump.header.dump_id not in kept:
                continue
            for base in self._lineage.chain_of(dump)[:-1]:
                why = f"a base of {dump.header.dump_id[:_NAMED]}"
                told = self.reasons.setdefault(base.header.dump_id, [])
                if not any(each.startswith("a base of ") for each in told):
                    told.append(why)

    def _say_why_not(self, points: Mapping[Point, StoredDump]) -> None:
        for dump in self._dumps:
            if dump.header.dump_id in self.reasons:
                continue
            twin = points[point_of(dump)]
            if twin is not dump and twin.header.dump_id in self.reasons:
                why = f"the same point in time as {twin.header.dump_id[:_NAMED]}, which needs fewer others"
            else:
                why = "no rule keeps it: newer ones fill every count, and nothing that stays rests on it"
            self.why_not[dump.header.dump_id] = why


def _astray(dumps: Iterable[StoredDump]) -> set[str]:
    """Dumps from a future that was: more than half of those made after them, by sequence, have an earlier time."""
    found: set[str] = set()
    later: list[int] = []
    for _sequence, alike in itertools.groupby(
        sorted(dumps, key=recency, reverse=True), lambda each: each.header.sequence
    ):
        made = list(alike)
        for dump in made:
            if bisect.bisect_left(later, dump.header.clone_time_ns) * 2 > len(later):
                found.add(dump.header.dump_id)
        for dump in made:
            bisect.insort(later, dump.header.clone_time_ns)
    return found


def _representatives(dumps: Iterable[StoredDump]) -> dict[Point, StoredDump]:
    """Of each point in time the one dump that stands for it: the one that needs the fewest others, by preference one that
    others name as their base."""
    listed = list(dumps)
    bases = {dump.header.base_dump_id for dump in listed}
    chosen: dict[Point, StoredDump] = {}
    for dump in sorted(
        listed, key=lambda dump: (dump.header.level, dump.header.dump_id not in bases, dump.header.dump_id)
    ):
        chosen.setdefault(point_of(dump), dump)
    return chosen


#: A dump is asked for its day each night anew.
_cached = functools.lru_cache(maxsize=65_536)


def _local(seconds: int, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(
        max(seconds, 86_400), zone
    )  # what claims to be older is old enough, and always a date


@_cached
def _day(seconds: int, zone: tzinfo | None) -> str:
    return _local(seconds, zone).strftime("%Y-%m-%d")


@_cached
def _week(seconds: int, zone: tzinfo | None) -> str:
    year, week, _day_of_week = _local(seconds, zone).isocalendar()
    return f"{year}-W{week:02}"


@_cached
def _month(seconds: int, zone: tzinfo | None) -> str:
    return _local(seconds, zone).strftime("%Y-%m")


@_cached
def _year(seconds: int, zone: tzinfo | None) -> str:
    return _local(seconds, zone).strftime("%Y")


_PERIODS = (_day, _week, _month, _year)


def is_synthetic_due(dumps: Sequence[StoredDump], every: str, about: Circumstances) -> StoredDump | None:
    """The dump whose chain is to be merged now, under ``synthetic_full`` = ``every`` (``never``, ``weekly``, ``monthly``).

    One full dump in each week or month that has dumps at all: due when the present one has none and the newest dump is above
    level 0. Of a volume in one store.
    """
    if every not in ("weekly", "monthly"):
        return None
    period = _week if every == "weekly" else _month
    lineage = Lineage(dumps)
    usable = [dump for dump in dumps if dump.header.clone_time_ns <= about.now_ns and lineage.is_whole(dump)]
    if not usable:
        return None
    newest = max(usable, key=recency)
    present = period(about.now_ns // _SECOND, about.zone)
    full_now = any(
        dump.header.level == 0 and period(dump.header.clone_time_ns // _SECOND, about.zone) == present
        for dump in usable
    )
    return None if full_now or newest.header.level == 0 else newest
