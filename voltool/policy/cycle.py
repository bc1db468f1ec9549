"""The schedule: a cycle of levels, one a day, and where in it a volume is on which day. Pure: no I/O, no clock.

The place in the cycle follows from the local calendar date alone, so neither daylight saving nor a clock that jumps can
make a day's level wander. Days are local dates in the configured time zone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo

from voltool.errors import UsageError

#: Cycles with a name. A dump rests on the newest one of a lower level, so ``0325476`` keeps chains short where ``0123456``
#: would have each day rest on all days before it.
NAMED = {
    "weekly": "0325476",
    "monthly": "0325476132547613254761325476",  # Coda's
    "hanoi": "05453545254535451545354525453545",  # the Tower of Hanoi: the oftener a level, the higher it is
}
#: The days of a year, and one.
LONGEST = 366
_NO_DUMP = "-"
_MASK = (1 << 64) - 1
_LAST_SECOND = int(datetime(9000, 1, 1, tzinfo=UTC).timestamp())


@dataclass(frozen=True)
class Cycle:
    """Levels, one a day; None: no dump that day. ``text`` is what stood in the configuration."""

    text: str
    levels: tuple[int | None, ...]

    @property
    def highest(self) -> int:
        """The highest level in it."""
        return max(level for level in self.levels if level is not None)


@dataclass(frozen=True)
class Timetable:
    """A volume's way through its cycle; ``offset`` is by how many days it is ahead of one that begins on a Monday."""

    cycle: Cycle
    offset: int = 0

    def level_on(self, day: date) -> int | None:
        """The level that the schedule wants on the local date ``day``; None: no dump."""
        levels = self.cycle.levels
        return levels[(day.toordinal() - 1 + self.offset) % len(levels)]

    def last_wanted(self, day: date) -> date:
        """The latest date up to ``day`` on which a dump is wanted."""
        while self.level_on(day) is None:
            day -= timedelta(days=1)
        return day

    def upcoming(self, first: date, days: int) -> Iterator[tuple[date, int]]:
        """The dumps of ``days`` days from ``first`` on: date and level."""
        for number in range(days):
            day = first + timedelta(days=number)
            level = self.level_on(day)
            if level is not None:
                yield day, level


def parse_cycle(text: str) -> Cycle:
    """A cycle out of digits and ``-``, or one of `NAMED`; UsageError says which character is wrong."""
    name = text.strip().lower()
    levels = NAMED.get(name, name)
    for place, character in enumerate(levels, 1):
        if character not in f"0123456789{_NO_DUMP}" or not character.isascii():
            which = f"character {place} ({character!a}) is neither" if len(levels) > 1 else "it is neither"
            raise _malformed(text, f"{which} a level from 0 to 9 nor -")
    if not levels.strip(_NO_DUMP):
        raise _malformed(text, "no day of it has a level" if levels else "it is empty")
    if len(levels) > LONGEST:
        raise _malformed(text, f"it has {len(levels)} days, and {LONGEST} are the most")
    return Cycle(name, tuple(None if character == _NO_DUMP else int(character) for character in levels))


def _malformed(text: str, why: str) -> UsageError:
    return UsageError(
        f"the schedule {text!a} is malformed",
        why=why,
        remedy="one digit a day (- for a day without a dump), such as 0325476; or " + ", ".join(NAMED),
    )


def spread(cycles: Mapping[str, Cycle], *, staggered: bool = True) -> dict[str, Timetable]:
    """A timetable for each volume (by its uuid), so that the fulls of those with equal cycles fall on different days.

    Evenly: of two days of a cycle, one has at most one volume more than the other. Stable: it follows from the uuids alone, and
    a volume that comes or goes moves only a few of the others. Not ``staggered``: all begin their cycles together, those of
    whole weeks on a Monday.
    """
    if not staggered:
        return {uuid: Timetable(cycle) for uuid, cycle in cycles.items()}
    timetables = {}
    for levels in {cycle.levels for cycle in cycles.values()}:
        alike = {uuid: cycle for uuid, cycle in cycles.items() if cycle.levels == levels}
        for uuid, offset in _offsets(alike, len(levels)).items():
            timetables[uuid] = Timetable(alike[uuid], offset)
    return timetables


def _offsets(uuids: Mapping[str, object], length: int) -> dict[str, int]:
    """Each volume, in an order of its own that only its uuid decides, takes the place it likes best among the emptiest.

    One that comes in between pushes out at most one other, which takes another place, and so on: a short chain.
    """
    hashes = {uuid: int.from_bytes(hashlib.blake2b(uuid.encode(), digest_size=8).digest()) for uuid in uuids}
    offsets: dict[str, int] = {}
    free: set[int] = set()
    for uuid, own in sorted(hashes.items(), key=lambda item: (item[1], item[0])):
        free = free or set(range(length))
        offset = max(free, key=lambda place: _liking(own, place))
        free.remove(offset)
        offsets[uuid] = offset
    return offsets


def _liking(own: int, place: int) -> int:
    """How much a volume likes a place: as good as random, always the same (the mixer of splitmix64)."""
    mixed = (own + (place + 1) * 0x9E3779B97F4A7C15) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def local_date(time_ns: int, zone: tzinfo) -> date:
    """The local date of a moment, in ns since the epoch; of one that no calendar knows, the nearest that one does."""
    seconds = min(max(time_ns // 1_000_000_000, 0), _LAST_SECOND)
    return datetime.fromtimestamp(seconds, UTC).astimezone(zone).date()


def last_wanted_ns(timetable: Timetable, now_ns: int, zone: tzinfo) -> int:
    """The latest moment at which the schedule wanted a dump: the beginning of that local day, in ns since the epoch."""
    day = timetable.last_wanted(local_date(now_ns, zone))
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1_000_000_000
