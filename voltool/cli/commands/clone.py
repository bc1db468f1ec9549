"""`voltool clone`: a frozen image of a volume, kept on its host."""

from __future__ import annotations

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

EXAMPLES = (("voltool clone db", "a clone to look at, or to copy from, on the volume's own host"),)


def clone(context: typer.Context, name: VolumeName) -> int:
    """Freeze the volume as it is now, on its own host; the clone stays until it is dropped."""
    from voltool.cli.json_lines import clone_object
    from voltool.move.clones import make_clone
    from voltool.showing import shown

    invocation = begin(context, "clone")
    made = make_clone(invocation.world, name, invocation.settings.volume(name).hooks)
    host = invocation.world.catalog.volume(name).host
    invocation.output.summary(f"{name}: clone {made.id} ({made.consistency.value}) at {host}:{shown(made.path)}")
    invocation.fields |= {"volume": name, "clone": clone_object(made)}
    return invocation.finish()
