"""`voltool lock`: makes a volume read-only for a while."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName
from voltool.errors import UsageError

EXAMPLES = (("voltool lock db --for 10m", "read-only for ten minutes at most"),)


def lock(
    context: typer.Context,
    name: VolumeName,
    for_: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long: 90s, 10m, 2h. Then the host unlocks it itself.")
    ] = "10m",
    lock_timeout: Annotated[
        int,
        typer.Option(
            "--lock-timeout",
            min=0,
            max=86_400,
            metavar="S",
            help="Wait so long for who still writes; at most half of --for.",
        ),
    ] = 30,
) -> int:
    """Make a volume read-only for everybody until it is unlocked or the time is over. Exit code 4: somebody still writes."""
    from voltool.cli import display
    from voltool.cli.json_lines import time_value
    from voltool.config.quantity import parse_seconds
    from voltool.move.locks import LockOptions, lock_volume

    invocation = begin(context, "lock")
    seconds = parse_seconds(for_)
    if not 1 <= seconds <= 30 * 86_400:
        raise UsageError("--for must be between a second and 30 days", remedy="such as --for 10m")
    section = invocation.settings.volume(name)
    options = LockOptions(
        owner=invocation.world.caller,
        seconds=seconds,
        timeout=min(lock_timeout, seconds // 2),  # the lock's time runs while it is made: it must not end before that
        hooks=section.hooks,
    )
    reply = lock_volume(invocation.world, name, options)
    if reply.unexamined:
        what = display.count(reply.unexamined, "process", "processes")
        invocation.output.notice("warning", f"{name}: {what} could not be looked into")
    if reply.leaseless:
        what = display.count(reply.leaseless, "file")
        invocation.output.notice("warning", f"{name}: of {what} nobody can tell whether they are open for writing")
    until_ns = reply.until * 1_000_000_000
    invocation.output.summary(f"{name}: locked until {display.local_time(until_ns)}, or voltool unlock {name}")
    invocation.fields |= {
        "volume": name,
        "until": time_value(until_ns),
        "unexamined": reply.unexamined,
        "leaseless": reply.leaseless,
    }
    return invocation.finish()
