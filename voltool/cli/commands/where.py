"""`voltool where`: HOST:/path of a volume, for scripts and automounters."""

from __future__ import annotations

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

EXAMPLES = (("voltool where mail", "HOST:/path, for a script or an automounter"),)


def where(context: typer.Context, name: VolumeName) -> int:
    """Where a volume lives, as its host confirms: HOST:/path and nothing else."""
    from voltool.cli.json_lines import name_value
    from voltool.move.where import where as find
    from voltool.showing import shown

    invocation = begin(context, "where")
    place = find(invocation.world, name)
    invocation.output.line(f"{place.host}:{shown(place.path)}")
    invocation.fields |= {"volume": name, "host": place.host, "path": name_value(place.path), "epoch": place.epoch}
    return invocation.finish()
