"""`voltool replica add`: a read-only copy of a volume on another host, that is kept up to date."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin
from voltool.cli.options import Bandwidth, PathMode, VolumeName, Workers

EXAMPLES = (
    ("voltool replica add mail hostB", "at the volume's own path, on another host"),
    ("voltool replica add mail hostB:/srv/mail-copy --bandwidth 20M", "elsewhere, and slowly"),
)


def replica_add(
    context: typer.Context,
    name: VolumeName,
    target: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.hosts,
            metavar="HOST[:/path]",
            help="Where it is served; the path: the volume's own.",
        ),
    ],
    bandwidth: Bandwidth = None,
    workers: Workers = None,
    path: PathMode = None,
) -> int:
    """Make a replica of a volume on another host: copy it as it is now, from a clone, and serve that there, read-only. The volume
    stays in use. After an interruption the same command, or `voltool replica sync`, goes on. Exit code 3: some files could not be
    read."""
    from voltool.cli.commands.volume_add import forbidden_places
    from voltool.cli.location import parse_destination
    from voltool.cli.replica_options import settings_of
    from voltool.cli.replica_told import tell_synced
    from voltool.replica.job import AddWish, add

    invocation = begin(context, "replica add")
    host, place = parse_destination(target)
    forbidden = tuple(forbidden_places(invocation)) if host == "local" else ()
    settings = settings_of(invocation, bandwidth, workers, path)(name)
    done = add(invocation.world, AddWish(name, host, place, forbidden), settings)
    tell_synced(invocation, done)
    invocation.output.notice(
        "info", f"{name}: cron keeps it up to date with voltool replica sync {name}, or --follow does"
    )
    return invocation.finish()
