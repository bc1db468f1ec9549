"""`voltool replica remove`: a replica is none any more."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

EXAMPLES = (
    ("voltool replica remove mail hostB", "what was served stays, as a plain directory"),
    ("voltool replica remove mail hostB --purge", "and that is deleted, too"),
    ("voltool replica remove mail hostB --forget-host", "hostB is lost: only the volume's home is told"),
)


def replica_remove(
    context: typer.Context,
    name: VolumeName,
    host: Annotated[
        str, typer.Argument(autocompletion=completing.replica_hosts, metavar="HOST", help="Where the replica is.")
    ],
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete its tree, too; refused where the volume's home does not answer.")
    ] = False,
    forget_host: Annotated[
        bool, typer.Option("--forget-host", help="The host is lost: do not ask it, and release what is kept for it.")
    ] = False,
) -> int:
    """Remove a replica: its host forgets it, the volume's home releases the clone that it kept for it. What was served stays
    there as a plain directory, unless --purge."""
    from voltool.cli.json_lines import name_value
    from voltool.replica.removal import remove
    from voltool.showing import shown

    invocation = begin(context, "replica remove")
    done = remove(invocation.world, name, host, purge=purge, forget_host=forget_host)
    path = done.target.replica.path
    place = f"{host}:{shown(path)}"
    if not done.host_told:
        what = f"the replica is forgotten here; what is at {place} stays as it is, and its host takes it for a replica still"
    elif done.stays:
        what = f"no replica any more; its tree stays at {place}"
    else:
        what = f"no replica any more; its tree at {place} is deleted"
    invocation.output.summary(f"{name}: {what}")
    invocation.fields |= {
        "volume": name,
        "host": host,
        "path": name_value(path),
        "stays": done.stays,
        "host_told": done.host_told,
        "home_told": done.home_told,
    }
    return invocation.finish()
