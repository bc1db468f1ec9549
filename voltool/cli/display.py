"""How amounts, times and ids look to people (names: `voltool.showing`). Pure; knows nothing of where they are shown."""

from __future__ import annotations

import time
from datetime import datetime

from voltool.config.quantity import amount, duration

__all__ = ["age", "amount", "count", "duration", "local_time", "short_id"]

ID_DIGITS = 12


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
