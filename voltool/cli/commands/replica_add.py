"""`voltool replica add`: a read-only copy of a volume on another host, that is kept up to date."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin
from voltool.cli.options import Bandwidth, PathMode, VolumeName, Workers
from voltool.errors import UsageError
from voltool.model import LAZY

EXAMPLES = (
    ("voltool replica add mail hostB", "at the volume's own path, on another host"),
    ("voltool replica add mail hostB:/srv/mail-copy --bandwidth 20M", "elsewhere, and slowly"),
    ("voltool replica add --lazy mail hostB", "at once: files come when they are read, and in the background"),
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
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy", help="Usable at once: files are fetched when they are read, the rest in the background."
        ),
    ] = False,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="HOST",
            help="With --lazy: a full replica that serves files too; may be repeated. Without it: all.",
            autocompletion=completing.replica_hosts,
        ),
    ] = None,
    bandwidth: Bandwidth = None,
    workers: Workers = None,
    path: PathMode = None,
) -> int:
    """Make a replica of a volume on another host: copy it as it is now, from a clone, and serve that there, read-only. The volume
    stays in use. After an interruption the same command, or `voltool replica sync`, goes on. Exit code 3: some files could not be
    read.

    With --lazy it is mounted as soon as it knows what there is, and this command ends; processes of voltool on its host and
    on the volume's fill it in the background, no faster than --bandwidth, over connections of their own. `voltool replica
    list` shows how far it is; once it is full, the mount gives way to the plain directory. What no host can be reached for is
    an I/O error after fetch_timeout. After a reboot without systemd, `voltool replica sync` brings it back.

    Where its host cannot connect to a host that has the files, that one connects to it. Where neither can, they go through this
    machine, encrypted from host to host: the command says so and stays until the replica is full, and what is missing can be
    read only as long as it, or `voltool replica sync`, runs. So it is with --path relay too; with --path direct it fails."""
    from voltool.cli.commands.volume_add import forbidden_places
    from voltool.cli.location import parse_destination
    from voltool.cli.replica_options import settings_of
    from voltool.cli.replica_told import tell_synced
    from voltool.replica.job import AddWish, add

    invocation = begin(context, "replica add")
    host, place = parse_destination(target)
    forbidden = tuple(forbidden_places(invocation)) if host == "local" else ()
    if sources and not lazy:
        raise UsageError("--from is for a lazy replica", remedy="voltool replica add --lazy NAME HOST --from HOST")
    settings = settings_of(invocation, bandwidth, workers, path)(name)
    if lazy:
        settings = replace(settings, lazy=True, sources=tuple(sources or ()))
    invocation.needed_soon = (host,)
    done = add(invocation.world, AddWish(name, host, place, forbidden), settings)
    tell_synced(invocation, done)
    if done.target.replica.phase == LAZY:
        text = (
            f"voltool replica list {name} shows how it fills; voltool replica sync {name} brings it back after a reboot"
        )
    else:
        text = f"cron keeps it up to date with voltool replica sync {name}, or --follow does"
    invocation.output.notice("info", f"{name}: {text}")
    return invocation.finish()
