"""What the configuration says of keeping a volume's dumps, as the plain values that policy and jobs work with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import tzinfo
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from voltool.errors import UsageError
from voltool.policy.retention import Rules

if TYPE_CHECKING:
    from voltool.config.settings import Settings


@dataclass(frozen=True)
class Keeping:
    """``grace``: seconds in the bin; ``factor``: what makes a dump suspicious; ``zone``: None is this machine's."""

    rules: Rules = field(default_factory=Rules)
    grace: int = 7 * 86_400
    factor: float = 10.0
    synthetic_full: str = "never"
    zone: tzinfo | None = None
    min_free_percent: float = 5.0


def keeping_of(settings: Settings, volume: str) -> Keeping:
    """What holds for the volume called ``volume``: each key of its own section, else the general one. UsageError for a zone that
    nobody knows."""
    section = settings.volume(volume)
    keep = settings.keep_of(volume)
    return Keeping(
        rules=Rules(keep.last, keep.daily, keep.weekly, keep.monthly, keep.yearly, keep.min_age),
        grace=keep.grace,
        factor=section.suspicious_factor or settings.suspicious_factor,
        synthetic_full=section.synthetic_full or settings.synthetic_full,
        zone=_zone(settings.timezone),
        min_free_percent=settings.min_free,
    )


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"there is no time zone {name!a}",
            remedy="a name such as Europe/Berlin, or no timezone for this machine's own",
        ) from None
