"""`voltool schedule show|install|uninstall`: what will run when, and what calls it."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.errors import UsageError, VoltoolError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from voltool.backup.schedule import Schedules
    from voltool.model import KnownVolume
    from voltool.nightly.installing import Place

EXAMPLES = (
    ("voltool schedule show", "the levels of each volume on the next 60 days, and what calls `voltool backup`"),
    ("voltool schedule show --days 14", "of two weeks"),
    ("voltool schedule install", "every day at 03:30, by systemd where it runs, else by cron"),
    ("voltool schedule install --at 22:15 --cron", "at another time, by cron"),
    ("voltool --config /etc/voltool/web.toml schedule install", "with another configuration"),
    ("voltool schedule uninstall", "neither cron nor systemd calls `voltool backup` any more"),
)
_DEFAULT_TIME = "03:30"


def schedule_show(
    context: typer.Context,
    days: Annotated[int, typer.Option("--days", min=1, max=1000, metavar="N", help="So many days from today.")] = 60,
) -> int:
    """Show which volume is dumped when, and at which level: a line a volume, a column a day. What was missed is caught up
    besides: `voltool backup --dry-run` says what is due now."""
    from datetime import datetime

    from voltool.backup.schedule import schedules_of, zone_of

    invocation = begin(context, "schedule show")
    lenient = invocation.read_leniently()
    volumes = invocation.world.catalog.volumes()
    schedules = schedules_of(lenient.settings, volumes, lenient.volumes)
    today = datetime.now(zone_of(lenient.settings)).date()
    _show(invocation, volumes, schedules, today, days)
    for name, error in schedules.errors.items():
        invocation.failed(error, name)
    for error in lenient.general:
        invocation.failed(error, "configuration")
    _show_installed(invocation)
    return invocation.finish()


def schedule_install(
    context: typer.Context,
    at: Annotated[str, typer.Option("--at", metavar="HH:MM", help="When, by this machine's clock.")] = _DEFAULT_TIME,
    systemd: Annotated[bool, typer.Option("--systemd", help="A timer of systemd.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="A line for cron.")] = False,
) -> int:
    """Have `voltool --quiet backup` called every day: as root by a file in /etc/cron.d or a timer in /etc/systemd/system, as
    another user by lines in your crontab or a timer of your own. Nothing of others is touched. Again, it replaces what it
    has installed before."""
    from voltool.nightly.installing import make_job, own_program

    invocation = begin(context, "schedule install")
    if systemd and cron:
        raise UsageError("--systemd and --cron contradict each other", remedy="one of them")
    _ = invocation.settings  # a configuration that cannot be read is said now, and not at night
    job = make_job(at, own_program(sys.argv[0]), invocation.config, invocation.environment)
    places = _places(invocation)
    kind = "systemd" if systemd else "cron" if cron else _default_kind()
    by_hand = places[kind].install(job)
    for other, place in places.items():
        if other != kind and _uninstalled(invocation, place):
            invocation.output.notice("info", f"{other} does not call it any more")
    _show_installed(invocation)
    for text in by_hand:
        invocation.output.notice("warning", f"left to do by hand: {text}")
    invocation.fields["by_hand"] = list(by_hand)
    return invocation.finish()


def schedule_uninstall(context: typer.Context) -> int:
    """Take out what `voltool schedule install` has put into cron or systemd, and nothing else."""
    invocation = begin(context, "schedule uninstall")
    removed = []
    for kind, place in _places(invocation).items():
        try:
            if place.uninstall():
                removed.append(kind)
        except VoltoolError as error:
            invocation.failed(error, kind)
    invocation.output.summary(f"taken out: {', '.join(removed)}" if removed else "nothing was installed")
    invocation.fields["removed"] = removed
    return invocation.finish()


def _places(invocation: Invocation) -> dict[str, Place]:
    from voltool.nightly.cron import SystemCron, UserCron
    from voltool.nightly.timer import SystemdTimer

    if os.geteuid() == 0:
        return {"cron": SystemCron(), "systemd": SystemdTimer()}
    home = invocation.environment.get("HOME", "/")
    base = invocation.environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    return {"cron": UserCron(), "systemd": SystemdTimer(os.path.join(base, "systemd/user"), of_user=True)}


def _default_kind() -> str:
    from voltool.nightly.timer import RUNNING

    return "systemd" if os.path.isdir(RUNNING) else "cron"


def _uninstalled(invocation: Invocation, place: Place) -> bool:
    """What is not there, or not ours, is left alone."""
    try:
        return place.uninstall()
    except VoltoolError as error:
        invocation.output.notice("info", str(error))
        return False


def _show_installed(invocation: Invocation) -> None:
    found = []
    for place in _places(invocation).values():
        try:
            installed = place.installed()
        except VoltoolError as error:
            invocation.output.notice("info", str(error))
            continue
        if installed is not None:
            found.append({"by": installed.kind, "where": installed.where, "text": installed.text})
            invocation.output.line(f"called by {installed.kind} ({installed.where}): {installed.text}")
    if not found:
        invocation.output.line("called by nobody: voltool schedule install")
    invocation.fields["installed"] = found


def _show(invocation: Invocation, volumes: Sequence[KnownVolume], schedules: Schedules, today: date, days: int) -> None:
    line = invocation.output.line
    planned = []
    scheduled = [volume for volume in volumes if volume.uuid in schedules.timetables]
    width = max((len(volume.name) for volume in scheduled), default=0)
    for head in _heads(today, days) if scheduled else ():
        line(f"{'':<{width}}  {head}")
    for volume in scheduled:
        levels = dict(schedules.timetables[volume.uuid].upcoming(today, days))
        columns = [levels.get(day) for day in _days(today, days)]
        line(f"{volume.name:<{width}}  {''.join('-' if level is None else str(level) for level in columns)}")
        planned += [{"date": day.isoformat(), "volume": volume.name, "level": level} for day, level in levels.items()]
    if not scheduled:
        line('no volume is in a schedule: schedule = "weekly" in the configuration, for all or in [volumes.NAME]')
    if schedules.unscheduled:
        line(f"in no schedule: {', '.join(schedules.unscheduled)}")
    invocation.fields["planned"] = sorted(planned, key=lambda each: (str(each["date"]), str(each["volume"])))
    invocation.fields["unscheduled"] = list(schedules.unscheduled)


def _days(today: date, days: int) -> list[date]:
    from datetime import timedelta

    return [today + timedelta(days=number) for number in range(days)]


def _heads(today: date, days: int) -> list[str]:
    """Three lines above the columns: the months, and the days in two digits, one above the other."""
    months = [" "] * (days + 3)
    for column, day in enumerate(_days(today, days)):
        if day.day == 1 or (column == 0 and day.day < 26):
            months[column : column + 3] = day.strftime("%b")
    tens = [str(day.day // 10) for day in _days(today, days)]
    ones = [str(day.day % 10) for day in _days(today, days)]
    return ["".join(months).rstrip(), "".join(tens), "".join(ones)]
