"""`voltool restore`: a volume as it was at a point in time, to any place, or into a directory that stands."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import At, Bandwidth, DryRun, DumpWord, Place, Workers
from voltool.errors import UsageError
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.restore import RestoreOutcome
    from voltool.cli.location import Location
    from voltool.model import StoredDump

EXAMPLES = (
    ("voltool restore mail hostC:/srv/mail", "the newest state, to a new directory"),
    ("voltool restore mail hostC:/srv/mail --at yesterday", "as it was at the end of yesterday"),
    ("voltool restore home local:/tmp/found --only alice/thesis.tex", "one file"),
    ("voltool restore 0561ed2e778e hostC:/srv/mail --numeric-owner", "one dump by its id, owners by number"),
    ("voltool restore mail hostA:/srv/mail --in-place --dry-run", "what differs from the newest dump; nothing is done"),
    (
        "voltool restore mail hostA:/srv/mail --in-place --delete --at yesterday",
        "exactly yesterday's state, writing only what differs; asks once you have seen what that means",
    ),
)


def restore(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    word: DumpWord,
    place: Place,
    at: At = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATH", help="Only this file or tree; may be repeated.")
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Into the directory that stands there, writing only what differs.")
    ] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="With --in-place: delete there what the dump does not have.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --in-place: do not ask.")] = False,
    dry_run: DryRun = False,
    numeric_owner: Annotated[bool, typer.Option("--numeric-owner", help="Owners by number, not by name.")] = False,
    bandwidth: Bandwidth = None,
    workers: Workers = None,
) -> int:
    """Restore a dump with all it rests on. The target appears only when it is complete.

    With --in-place the target is a directory that stands, a volume in use too: what it would do is shown and asked first, all
    data arrives and is checked before anything is touched, and only what differs is written.
    """
    from voltool.cli.choose import choose
    from voltool.cli.location import parse_location
    from voltool.config.quantity import parse_bytes

    invocation = begin(context, "restore")
    if (delete or yes or dry_run) and not in_place:
        raise UsageError("--delete, --yes and --dry-run go with --in-place", remedy="voltool restore ... --in-place")
    location = parse_location(place)
    settings = invocation.settings
    rate = settings.bandwidth if bandwidth is None else parse_bytes(bandwidth)
    dump = choose(invocation, word, at)
    paths = tuple(os.fsencode(path) for path in only or ())
    processes = settings.workers if workers is None else workers
    if in_place:
        from voltool.backup.inplace import InPlaceWish
        from voltool.cli.inplace import limit_of, restore_in_place

        wish = InPlaceWish(paths, delete, dry_run, numeric_owner, processes, rate, limit_of(invocation))
        return restore_in_place(invocation, dump, location, wish, yes=yes)
    from voltool.backup.restore import restore as restore_dump

    outcome = restore_dump(
        invocation.world,
        dump,
        location.host,
        location.path,
        only=paths,
        numeric_owner=numeric_owner,
        workers=processes,
        bandwidth=rate,
    )
    _show(invocation, dump, location, outcome)
    return invocation.finish()


def _show(invocation: Invocation, dump: StoredDump, location: Location, outcome: RestoreOutcome) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import problem_object

    for problem in outcome.problems:
        invocation.output.notice("warning", f"{problem.problem.value}: {shown(problem.path)}: {problem.why}")
    invocation.output.summary(
        f"{dump.header.volume_name}: restored to {location.host}:{shown(location.path)}:"
        f" {display.count(outcome.entries, 'entry', 'entries')}, {display.amount(outcome.bytes)}"
        f" from {display.count(len(outcome.dump_ids), 'dump')} in {display.duration(outcome.seconds)}"
    )
    invocation.codes.append(outcome.exit_code)
    invocation.fields |= {
        "dumps": list(outcome.dump_ids),
        "target": outcome.target,
        "entries": outcome.entries,
        "bytes": outcome.bytes,
        "seconds": round(outcome.seconds, 3),
        "problems": [problem_object(problem) for problem in outcome.problems],
    }
