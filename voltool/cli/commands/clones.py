"""`voltool clones`: the clones of a volume; drops one."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName
from voltool.showing import shown

EXAMPLES = (
    ("voltool clones db", "which clones there are, how old, and for what"),
    ("voltool clones db --drop 3f1a", "drop one that was made by `voltool clone`"),
)


Drop = Annotated[str | None, typer.Option("--drop", metavar="ID", help="Delete this clone; a unique prefix will do.")]


def clones(context: typer.Context, name: VolumeName, drop: Drop = None) -> int:
    """The clones of a volume, oldest first: those made by `voltool clone`, and those that dumps keep."""
    from voltool.cli import display
    from voltool.cli.json_lines import clone_object
    from voltool.cli.table import table
    from voltool.move.clones import drop_clone, list_clones

    invocation = begin(context, "clones")
    if drop is not None:
        gone = drop_clone(invocation.world, name, drop)
        invocation.output.summary(f"{name}: clone {gone.id} is deleted")
        invocation.fields |= {"volume": name, "dropped": clone_object(gone)}
        return invocation.finish()
    found = list_clones(invocation.world, name)
    rows = [
        (one.id, display.local_time(one.time_ns), one.purpose, one.consistency.value, shown(one.path)) for one in found
    ]
    if rows:
        for line in table(("ID", "TIME", "FOR", "CONSISTENCY", "PATH"), rows):
            invocation.output.line(line)
    else:
        invocation.output.notice("info", f"{name} has no clones")
    invocation.fields |= {"volume": name, "clones": [clone_object(one) for one in found]}
    return invocation.finish()
