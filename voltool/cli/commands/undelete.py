"""`voltool undelete`: brings back a dump that was dropped."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli.invocation import begin

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool dumps --deleted", "which dumps can be brought back, and until when"),
    ("voltool undelete 12ab34", "bring one back, with the dumps it rests on"),
)


def undelete(
    context: typer.Context,
    word: Annotated[str, typer.Argument(metavar="DUMP", help="The dump's id, or enough of its first digits.")],
) -> int:
    """Bring back a dump that `prune` or `merge --replace` dropped, with the dropped dumps it rests on.

    It can be done until the grace period is over and a prune has removed it for good. For as long as that period, no prune drops
    it again.
    """
    from voltool.backup.undelete import undelete as bring_back
    from voltool.cli import display
    from voltool.cli.choose import all_dumps, store_urls
    from voltool.cli.json_lines import dump_object

    invocation = begin(context, "undelete")
    invocation.catalog_is_read = True
    urls = [*store_urls(invocation), *(dump.store for dump in all_dumps(invocation))]
    done = bring_back(invocation.world, urls, word)
    header = done.dump.header
    with_bases = f", and {display.count(len(done.bases), 'dump')} that it rests on" if done.bases else ""
    invocation.output.summary(
        f"{header.volume_name}: dump {header.dump_id} (level {header.level}) of"
        f" {display.local_time(header.clone_time_ns)} is back{with_bases}"
    )
    invocation.fields |= {"dump": dump_object(done.dump), "bases": [dump_object(base) for base in done.bases]}
    return invocation.finish()
