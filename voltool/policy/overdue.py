"""When a volume is overdue: silence of a backup is what nobody notices. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Without ``overdue_after``: so long (seconds) after the schedule wanted a dump there must be one.
GRACE = 129_600
#: Clocks of hosts may be ahead by so much (ns); what is dumped later than that bears a wrong time.
_AHEAD = 300_000_000_000
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Overdue:
    """``newest_ns``: the time of the newest dump that counts, None where there is none; ``why`` in words, without times."""

    newest_ns: int | None
    why: str


def newest_of(times_ns: Iterable[int], now_ns: int) -> int | None:
    """The newest time that is not in the future: a wrong clock must not hide years of silence."""
    return max((time_ns for time_ns in times_ns if time_ns <= now_ns + _AHEAD), default=None)


def asked_about_ns(now_ns: int) -> int:
    """The moment up to which a dump must have been wanted for it to be missing now, where ``overdue_after`` is not given."""
    return now_ns - GRACE * _SECOND


def overdue(
    now_ns: int, newest_ns: int | None, *, wanted_ns: int | None, overdue_after: int | None = None
) -> Overdue | None:
    """Whether a volume is overdue; None: it is not, or nobody promised anything.

    ``newest_ns``: its newest good dump. ``wanted_ns``: the latest moment up to `asked_about_ns` at which its schedule wanted a
    dump, None where it has none. ``overdue_after``: seconds that its newest dump may be old, instead.
    """
    if overdue_after is None and wanted_ns is None:
        return None
    if newest_ns is None:
        return Overdue(None, "it has never been dumped")
    if overdue_after is not None:
        if now_ns - newest_ns <= overdue_after * _SECOND:
            return None
        return Overdue(newest_ns, "its newest dump is older than overdue_after")
    if wanted_ns is None or newest_ns >= wanted_ns:
        return None
    return Overdue(newest_ns, "a dump that its schedule wanted is missing")
