"""`voltool volume list`."""

from __future__ import annotations

import typer

from voltool.cli.invocation import begin

EXAMPLES = (("voltool volume list", "all of them"),)


def volume_list(context: typer.Context) -> int:
    """All volumes that this machine knows."""
    from voltool.cli.json_lines import volume_object
    from voltool.cli.table import table
    from voltool.showing import shown

    invocation = begin(context, "volume list")
    volumes = invocation.world.catalog.volumes()
    rows = [(volume.name, f"{volume.host}:{shown(volume.path)}", volume.driver) for volume in volumes]
    if rows:
        for line in table(("NAME", "PLACE", "DRIVER"), rows):
            invocation.output.line(line)
    else:
        invocation.output.notice("info", "no volumes yet: voltool volume add NAME HOST:/path")
    invocation.fields["volumes"] = [volume_object(volume) for volume in volumes]
    return invocation.finish()
