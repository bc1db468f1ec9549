"""The schedules of volumes out of the configuration: who has one, who has none, whose is malformed. No clock, no hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import TYPE_CHECKING

from voltool.errors import NotFoundError, UsageError, VoltoolError
from voltool.model import KnownVolume
from voltool.policy.cycle import Cycle, Timetable, parse_cycle, spread

if TYPE_CHECKING:
    from voltool.config.settings import Settings


@dataclass(frozen=True)
class Schedules:
    """``timetables`` by the volumes' uuids; ``unscheduled``: names of volumes that are in no schedule; ``errors`` by names: what
    is wrong with a volume's configuration, also of volumes that the catalog does not know."""

    timetables: Mapping[str, Timetable]
    unscheduled: tuple[str, ...]
    errors: Mapping[str, VoltoolError]


def schedules_of(
    settings: Settings, volumes: Sequence[KnownVolume], faults: Mapping[str, VoltoolError] | None = None
) -> Schedules:
    """The schedules of ``volumes``. ``faults``: volumes whose section cannot be read (`config.lenient`), which have none."""
    errors: dict[str, VoltoolError] = dict(faults or {})
    cycles: dict[str, Cycle] = {}
    unscheduled = []
    for volume in volumes:
        if volume.name in errors:
            continue
        text = schedule_text(settings, volume.name)
        if not text:
            unscheduled.append(volume.name)
            continue
        try:
            cycles[volume.uuid] = parse_cycle(text)
        except UsageError as error:
            errors[volume.name] = UsageError(
                error.what, where=_where(settings, volume.name), why=error.why, remedy=error.remedy
            )
    known = {volume.name for volume in volumes}
    for name in settings.volumes:
        if name not in known and schedule_text(settings, name):
            errors[name] = _unknown(name)
    return Schedules(spread(cycles, staggered=settings.stagger), tuple(unscheduled), errors)


def schedule_text(settings: Settings, name: str) -> str:
    """The schedule of a volume as it is written; empty: none."""
    own = settings.volume(name).schedule
    return (settings.schedule if own is None else own).strip()


def zone_of(settings: Settings) -> tzinfo:
    """The time zone that decides which day it is; UsageError."""
    import zoneinfo

    name = settings.timezone
    try:
        if name is not None:
            return zoneinfo.ZoneInfo(name)
        import tzlocal

        return tzlocal.get_localzone()
    except (ValueError, OSError, LookupError) as error:  # ZoneInfoNotFoundError is a LookupError
        what = "this machine's time zone is not known" if name is None else f"there is no time zone {name!a}"
        remedy = 'timezone in the configuration: an IANA name such as "Europe/Berlin"'
        raise UsageError(what, where="timezone", why=str(error), remedy=remedy) from None


def _where(settings: Settings, name: str) -> str:
    own = settings.volume(name).schedule
    return "schedule, for all volumes" if own is None else f"schedule of [volumes.{name}]"


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"there is no volume {name!a}",
        where=f"[volumes.{name}]",
        why="the configuration has a schedule for it, the catalog does not know it",
        remedy=f"voltool volume add {name} HOST:/path; or correct or remove that section",
    )
