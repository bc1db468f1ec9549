"""`voltool history`: what was done to volumes, by the hosts' own records."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin

EXAMPLES = (
    ("voltool history mail", "who moved, dumped, restored it, and when"),
    ("voltool --json history --limit 1000", "for a program"),
)


def history(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The volume; without it all of them.", autocompletion=completing.volumes),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, metavar="N", help="The last N acts.")] = 100,
) -> int:
    """Who moved, dumped, restored what and when: merged from the records that the hosts themselves keep."""
    from voltool.cli.table import table
    from voltool.move.history import history as read_history

    invocation = begin(context, "history")
    events = read_history(invocation.world, name or "", limit)
    rows = [
        (
            f"{event.time:%Y-%m-%d %H:%M:%S}",
            event.host,
            event.volume,
            event.act,
            event.what,
            event.result,
            event.who,
            event.caller,
        )
        for event in events
    ]
    if rows:
        for line in table(("TIME", "HOST", "VOLUME", "ACT", "WHAT", "RESULT", "LOGIN", "FOR"), rows):
            invocation.output.line(line)
    invocation.fields["acts"] = [
        {
            "time": event.time.isoformat(),
            "host": event.host,
            "volume": event.volume,
            "act": event.act,
            "what": event.what,
            "result": event.result,
            "login": event.who,
            "caller": event.caller,
        }
        for event in events
    ]
    return invocation.finish()
