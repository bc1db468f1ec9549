"""`voltool where`: HOST:/path of a volume, for scripts and automounters."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

EXAMPLES = (
    ("voltool where mail", "HOST:/path, for a script or an automounter"),
    ("voltool where mail --replicas", "below it where it can be read, too: one HOST:/path a line"),
)


def where(
    context: typer.Context,
    name: VolumeName,
    replicas: Annotated[
        bool, typer.Option("--replicas", help="Also where its replicas are served, a line each, as it is known here.")
    ] = False,
) -> int:
    """Where a volume lives, as its host confirms: HOST:/path and nothing else."""
    from voltool.cli.json_lines import name_value
    from voltool.cli.replica_lines import replica_object
    from voltool.cli.replicas_known import replicas_of
    from voltool.move.where import where as find
    from voltool.showing import shown

    invocation = begin(context, "where")
    place = find(invocation.world, name)
    if place.split:
        text = f"{name}: split: it lives at {place.split} too; both are read-only (voltool replica promote --force chooses)"
        invocation.output.notice("warning", text)
    invocation.output.line(f"{place.host}:{shown(place.path)}")
    invocation.fields |= {
        "volume": name,
        "host": place.host,
        "path": name_value(place.path),
        "epoch": place.epoch,
        "split": place.split or None,
    }
    known = replicas_of(invocation, invocation.world.catalog.volume(name).uuid)
    invocation.fields["replicas"] = [replica_object(each) for each in known]
    if replicas:
        for each in known:
            if each.lag is not None:
                invocation.output.line(f"{each.known.host}:{shown(each.known.path)}")
    return invocation.finish()
