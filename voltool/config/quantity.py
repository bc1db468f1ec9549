"""Amounts as people write and read them: ``10M`` is ten times 1024 times 1024 bytes. No I/O."""

from __future__ import annotations

import re

from voltool.errors import UsageError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?(?:/s)?\s*", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """``1048576``, ``512K``, ``1.5 GiB`` or ``10M/s`` in bytes (units of 1024); raises UsageError."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text!r} is not an amount of bytes", remedy="a number with K, M, G or T behind it, such as 10M"
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


_SECONDS = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86_400}
_DURATION = re.compile(r"\s*(\d{1,9})\s*([SMHD]?)\s*", re.IGNORECASE)


def parse_seconds(text: str) -> int:
    """``90``, ``90s``, ``10m``, ``2h`` or ``1d`` in seconds; raises UsageError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a duration", remedy="a number with s, m, h or d behind it, such as 10m")
    return int(match[1]) * _SECONDS[match[2].upper()]


_SHOWN_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def amount(count: float) -> str:
    """Bytes in units of 1024: ``17 B``, ``4.2 MiB``."""
    value = float(count)
    for unit in _SHOWN_UNITS:
        if abs(value) < 1024 or unit == _SHOWN_UNITS[-1]:
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
