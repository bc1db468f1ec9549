"""`voltool unlock`: ends a volume's lock."""

from __future__ import annotations

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

EXAMPLES = (("voltool unlock db", "whoever locked it"),)


def unlock(context: typer.Context, name: VolumeName) -> int:
    """End the lock on a volume, whoever made it. A volume that is not locked is fine."""
    from voltool.move.locks import unlock_volume

    invocation = begin(context, "unlock")
    unlocked = unlock_volume(invocation.world, name)
    invocation.output.summary(f"{name}: unlocked" if unlocked else f"{name}: was not locked")
    invocation.fields |= {"volume": name, "unlocked": unlocked}
    return invocation.finish()
