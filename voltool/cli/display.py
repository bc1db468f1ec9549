"""How amounts, times and ids look to people (names: `voltool.showing`). Pure; knows nothing of where they are shown."""

from __future__ import annotations

import time
from datetime import datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
ID_DIGITS = 12


def amount(count: float) -> str:
    """Bytes in units of 1024: ``17 B``, ``4.2 MiB``."""
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """``3.2 s``, ``4 min 5 s``, ``2 h 10 min``, ``3 days``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    if seconds < 172_800:
        return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"
    return f"{int(seconds) // 86_400} days"


def age(then_ns: int, now_ns: int | None = None) -> str:
    """How long ago, in words."""
    seconds = ((time.time_ns() if now_ns is None else now_ns) - then_ns) / 1e9
    return f"{duration(seconds)} ago" if seconds >= 0 else f"{duration(-seconds)} in the future"


def local_time(time_ns: int) -> str:
    """``2026-10-05 16:00:01 +0200``: the local zone, to the second. ``--at`` takes it back."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def short_id(dump_id: str) -> str:
    """The first digits of a dump's id: enough to name it."""
    return dump_id[:ID_DIGITS]


def count(number: int, one: str, many: str = "") -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
