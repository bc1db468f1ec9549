"""`voltool status`: how everything stands, what is wrong first."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltool.backup.standing import Standing
    from voltool.cli.standing_shown import Concern
    from voltool.config.lenient import LenientSettings

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool status", "everything, from what is remembered here: no host is asked"),
    ("voltool status mail", "one volume"),
    ("voltool status --hosts", "ask the hosts, too, for moves that did not end"),
    ("voltool --quiet status > /dev/null || mail -s 'backups are overdue' root < /dev/null", "for a monitor"),
)


def status(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="This volume only.", autocompletion=completing.volumes)
    ] = None,
    hosts: Annotated[bool, typer.Option("--hosts", help="Ask the hosts for moves that did not end.")] = False,
) -> int:
    """How the volumes stand, by what is remembered here: first whatever may be in service nowhere, because its move did not
    end; then volumes whose dumps are overdue, stale replicas, suspicious dumps, what failed in the last run; then the newest
    dump of each volume and level, and how much there is of it. Exit code 3 when a volume is overdue (or was never dumped,
    though a schedule wants it), may be in service nowhere or has a replica that is older than its limit (max_lag); 0
    otherwise."""
    import time

    from voltool.backup.standing import in_trouble, standings
    from voltool.cli.standing_shown import concerns, concerns_of_run

    invocation = begin(context, "status")
    lenient = invocation.read_leniently()
    catalog = invocation.world.catalog
    now_ns = time.time_ns()
    found = standings(catalog, lenient.settings, now_ns, lenient.volumes)
    runs = catalog.run_of()
    if name is not None:
        uuid = catalog.volume(name).uuid
        found = [each for each in found if each.volume.uuid == uuid]
        runs = [run for run in runs if run.volume_uuid == uuid]
    said = [*_general(lenient, found, all_volumes=name is None), *concerns(found, now_ns), *concerns_of_run(runs)]
    nowhere = False
    if hosts:
        asked, nowhere = _ask_hosts(invocation, name)
        said = [*asked, *said]
    said.sort(key=lambda concern: concern.kind != "nowhere")
    _show(invocation, found, said, now_ns, runs)
    if nowhere or in_trouble(found):
        invocation.codes.append(EXIT_PARTIAL)
    return invocation.finish()


def _general(lenient: LenientSettings, found: Sequence[Standing], *, all_volumes: bool) -> list[Concern]:
    """What is wrong with the configuration, beside the volumes that are listed."""
    from voltool.cli.standing_shown import Concern

    if not all_volumes:
        return []
    known = {each.volume.name for each in found}
    faults: list[Any] = [*lenient.general, *lenient.hosts.values()]
    faults += [error for name, error in lenient.volumes.items() if name not in known]
    return [Concern("configuration", "", str(error)) for error in faults]


def _ask_hosts(invocation: Invocation, name: str | None) -> tuple[list[Concern], bool]:
    from voltool.cli.standing_shown import Concern
    from voltool.move.unfinished import ask_hosts, is_nowhere

    answer = ask_hosts(invocation.world)
    moves = [now for now in answer.moves if name in (None, now.name)]
    said = [
        Concern("nowhere" if is_nowhere(now) else "move", now.name, f"the hosts say: {now.what}", now.command)
        for now in moves
    ]
    said += [Concern("host", "", f"{host} could not be asked: {why}") for host, why in answer.silent]
    return said, any(is_nowhere(now) for now in moves)


def _show(
    invocation: Invocation, found: Sequence[Standing], said: Sequence[Concern], now_ns: int, runs: Sequence[Any]
) -> None:
    from voltool.cli.standing_lines import standing_object
    from voltool.cli.standing_shown import run_line, show_concerns, show_table, unscheduled_line

    output = invocation.output
    show_concerns(output, said)
    for text in (run_line(runs, now_ns), unscheduled_line(found)):
        if text:
            output.line(text)
    if not found:
        output.notice("info", "no volumes yet: voltool volume add NAME HOST:/path")
    show_table(output, found, now_ns)
    invocation.fields |= {
        "concerns": [
            {"kind": each.kind, "volume": each.volume, "what": each.what, "try": each.remedy} for each in said
        ],
        "volumes": [standing_object(each) for each in found],
    }
