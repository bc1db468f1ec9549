"""`voltool report`: chains, growth, durations, failures and moves, on the terminal in short or as one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.errors import VoltoolError

if TYPE_CHECKING:
    from voltool.report.gather import Report

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool report", "in short, on the terminal"),
    ("voltool report mail", "one volume"),
    ("voltool report --html /var/www/voltool.html", "one page with pictures, which needs no network"),
    ("voltool backup; voltool report --html /var/www/voltool.html", "a new page after each run, in cron"),
)

#: A page is for others to read, where the umask lets them.
_MODE = 0o644


def report(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="This volume only.", autocompletion=completing.volumes)
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page with pictures.")
    ] = None,
) -> int:
    """What was dumped, how it grows, how long it takes, what failed, what was moved, how old replicas are, by what is remembered
    here. The page
    (--html) shows each volume's chain as a picture, and moves with their phases and locks as bars; it is one file that loads
    nothing, and it is replaced at once."""
    import time

    from voltool.backup.standing import standings
    from voltool.report.gather import gather

    invocation = begin(context, "report")
    lenient = invocation.read_leniently()
    catalog = invocation.world.catalog
    now_ns = time.time_ns()
    found = standings(catalog, lenient.settings, now_ns, lenient.volumes)
    faults = [str(error) for error in (*lenient.general, *lenient.hosts.values())] if name is None else []
    if name is not None:
        uuid = catalog.volume(name).uuid
        found = [each for each in found if each.volume.uuid == uuid]
    made = gather(catalog, found, now_ns, faults)
    if html is not None:
        _write_page(invocation, made, html)
    else:
        from voltool.cli.report_shown import show_report

        show_report(invocation.output, made)
    _note(invocation, made, html)
    return invocation.finish()


def _write_page(invocation: Invocation, made: Report, html: str) -> None:
    import os
    import socket

    from voltool.cli import display
    from voltool.durable import write_file
    from voltool.report.page import render
    from voltool.showing import shown

    page = render(made, socket.gethostname()).encode("utf-8", "replace")
    path = os.path.abspath(html)
    try:
        write_file(os.fsencode(path), page, _MODE)
    except OSError as error:
        raise VoltoolError(
            "the page cannot be written",
            where=shown(os.fsencode(path)),
            why=error.strerror or str(error),
            remedy="a file in a directory that can be written to",
        ) from None
    invocation.output.summary(f"{shown(os.fsencode(path))}: {display.amount(len(page))}")


def _note(invocation: Invocation, made: Report, html: str | None) -> None:
    from voltool.cli.json_lines import time_value
    from voltool.cli.replica_lines import replica_object
    from voltool.cli.standing_lines import move_object

    invocation.fields |= {
        "volumes": [
            {
                "volume": each.standing.volume.name,
                "dumps": each.standing.dumps,
                "fulls": each.fulls,
                "chain": each.chain,
                "stored_bytes": each.standing.stored_bytes,
                "grown_bytes": each.grown(made.made_ns),
                "usual_seconds": None if each.usual_seconds is None else round(each.usual_seconds, 3),
                "turns": len(each.turns),
                "failures": each.failures,
            }
            for each in made.volumes
        ],
        "runs": [
            {
                "run": run.run_id,
                "started": time_value(run.started_ns),
                "ended": time_value(run.ended_ns),
                "good": run.counts[0],
                "partial": run.counts[1],
                "failed": run.counts[2],
                "stored_bytes": run.stored_bytes,
            }
            for run in made.runs
        ],
        "replicas": [replica_object(each) for volume in made.volumes for each in volume.standing.replicas],
        "moves": [move_object(move) for move in made.moves],
        "html": html,
    }
