"""What `--at` means: an ISO time, a date (its end), or a phrase such as ``yesterday``, in the local zone.

A time is taken to the end of its last unit where that is a second or a day: the times voltool shows are whole seconds,
and a dump of 16:00:01.5 is shown as 16:00:01.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from voltool.errors import UsageError

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ]+(\d{2}:\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(Z|[+-]\d{2}:?\d{2})?", re.IGNORECASE
)
#: 3/4/2026 is March in one country and April in another.
_AMBIGUOUS = re.compile(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}")
_SECOND = 1_000_000_000


def parse_when(text: str, now: datetime, option: str = "--at") -> int:
    """Nanoseconds since the epoch; ``now`` (with a zone) is the present and gives the local zone where ``text`` has none.

    Raises UsageError for what cannot be understood and for a time that has not come; ``option`` is how it calls ``text``.
    """
    return _past(text, now, option)[1]


def parse_since(text: str, now: datetime, option: str = "--since") -> int:
    """The same, but the first moment of what is meant: of a date its midnight."""
    return int(_past(text, now, option)[0].timestamp() * 1_000_000) * 1000


def _past(text: str, now: datetime, option: str) -> tuple[datetime, int]:
    start, end_ns = _parse(text.strip(), now, option)
    if start > now:
        raise UsageError(f"{option} {text!a} lies in the future", remedy="a time in the past")
    return start, end_ns


def _parse(text: str, now: datetime, option: str) -> tuple[datetime, int]:
    """The first moment that is meant, and the last in nanoseconds."""
    try:
        if _DATE.fullmatch(text):
            return _whole_day(datetime.fromisoformat(text))
        if match := _TIME.fullmatch(text):
            return _time(match)
    except ValueError:
        raise _unparsable(text, option) from None
    if _AMBIGUOUS.search(text):
        raise _unparsable(text, option)
    found = _phrase(text, now)
    if found is None:
        raise _unparsable(text, option)
    return found


def _time(match: re.Match[str]) -> tuple[datetime, int]:
    date, minute, second, fraction, zone = match.groups()
    zone = "" if zone is None else "+00:00" if zone.upper() == "Z" else zone
    moment = datetime.fromisoformat(f"{date}T{minute}:{second or '00'}{zone}").astimezone()
    nanoseconds = int(moment.timestamp()) * _SECOND
    if fraction:
        return moment, nanoseconds + int(fraction.ljust(9, "0"))
    return moment, nanoseconds + (_SECOND - 1 if second else 0)


def _whole_day(midnight: datetime) -> tuple[datetime, int]:
    """A naive midnight, in the local zone."""
    tomorrow = (midnight + timedelta(days=1)).astimezone()
    return midnight.astimezone(), int(tomorrow.timestamp()) * _SECOND - 1


def _phrase(text: str, now: datetime) -> tuple[datetime, int] | None:
    from dateparser.date import DateDataParser

    parser = DateDataParser(
        languages=["en"],
        settings={
            "PREFER_DATES_FROM": "past",
            "RETURN_TIME_AS_PERIOD": True,
            "RELATIVE_BASE": now.replace(tzinfo=None),
        },
    )
    found = parser.get_date_data(text)
    moment = found.date_obj
    if moment is None:
        return None
    if found.period == "day" and moment.tzinfo is None:
        return _whole_day(moment.replace(hour=0, minute=0, second=0, microsecond=0))
    moment = moment.astimezone()
    return moment, int(moment.timestamp() * 1_000_000) * 1000 + 999


def _unparsable(text: str, option: str) -> UsageError:
    return UsageError(
        f"{option} {text!a} is not a time voltool understands",
        remedy="2026-10-05, '2026-10-05 14:00', 2026-10-05T14:00:00Z, yesterday or '2 hours ago'",
    )
