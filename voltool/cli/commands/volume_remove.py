"""`voltool volume remove`: forget a volume. Never deletes data."""

from __future__ import annotations

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

EXAMPLES = (("voltool volume remove mail", "the tree and its dumps stay"),)


def volume_remove(context: typer.Context, name: VolumeName) -> int:
    """Forget a volume, here and on its host. Its data and its dumps stay. One that has replicas is refused: `voltool replica
    remove` first."""
    from voltool.backup.volumes import remove_volume
    from voltool.cli.json_lines import name_value
    from voltool.showing import shown

    invocation = begin(context, "volume remove")
    outcome = remove_volume(invocation.world, name)
    volume = outcome.volume
    invocation.output.summary(f"{name}: forgotten; its data stays in {volume.host}:{shown(volume.path)}")
    if outcome.left:
        invocation.output.summary(f"{name}: left on {volume.host} (voltool host clean {volume.host} removes them):")
        for path in outcome.left:
            invocation.output.summary(f"  {shown(path)}")
    invocation.fields |= {
        "volume": name,
        "left": [name_value(path) for path in outcome.left],
        "reached": outcome.reached,
    }
    return invocation.finish()
