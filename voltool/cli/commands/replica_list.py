"""`voltool replica list`: how replicas stand, as their hosts say."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin
from voltool.errors import EXIT_PARTIAL

EXAMPLES = (
    ("voltool replica list", "all of them: how far behind, what is missing"),
    ("voltool replica list mail", "those of one volume"),
)


def replica_list(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of this volume only.", autocompletion=completing.volumes)
    ] = None,
) -> int:
    """The replicas: where they are, how far behind in time and in clones, what a lazy one still lacks. All hosts are asked at
    once; of one that does not answer within some seconds stands there what was seen last, and when. Exit code 3 when a replica
    is older than its limit (max_lag), or is not as it should be on its host.

    A volume that has moved with --lazy is there too (lazy home), until all of it has come to its new home. WAY is how the
    files come that are missing: direct, reverse (the hosts that have them connect), or relay (through a command line)."""
    import time

    from voltool.backup.replicas import max_lag_of, place_of, wrongs
    from voltool.cli.contact_told import tell_former
    from voltool.cli.replica_lines import replica_object
    from voltool.cli.replica_told import write_metrics
    from voltool.cli.replicas_shown import show_replicas
    from voltool.replica.survey import survey

    invocation = begin(context, "replica list")
    invocation.catalog_is_read = True
    world, settings = invocation.world, invocation.read_leniently().settings
    volumes = [world.catalog.volume(name)] if name else world.catalog.volumes()
    tell_former(invocation, volumes)
    volumes = [world.catalog.volume(volume.name) for volume in volumes]
    moved = {move.volume_uuid for move in world.catalog.moves()} | {volume.uuid for volume in volumes if name}
    found = survey(world, volumes, lambda volume: max_lag_of(settings, volume), moved=moved)
    show_replicas(invocation.output, found, time.time_ns())
    for each in found:
        for text in wrongs(each):
            invocation.output.line(f"{each.volume}: {place_of(each)}: {text}")
    if not found:
        invocation.output.notice("info", f"no replicas yet: voltool replica add {name or 'NAME'} HOST[:/path]")
    invocation.fields["replicas"] = [replica_object(each) for each in found]
    if any(each.is_stale or each.faults for each in found):
        invocation.codes.append(EXIT_PARTIAL)
    write_metrics(invocation)
    return invocation.finish()
