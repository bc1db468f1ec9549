"""`voltool restore --in-place`: shows what would be done, asks, and tells what was done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from voltool.cli import display
from voltool.cli.invocation import Invocation
from voltool.errors import UsageError
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.inplace import InPlaceOutcome, InPlaceWish, PlannedRestore
    from voltool.cli.location import Location
    from voltool.model import StoredDump

#: How many names of each kind are shown; with --verbose all.
NAMED = 10
_ALL = 1 << 31
#: What a plan's kinds are called, in the order in which they are shown.
_TITLES = {
    "delete": "deleted",
    "write": "written",
    "create": "created",
    "change": "changed in attributes",
    "link": "linked anew",
    "leave": "left alone",
}


def limit_of(invocation: Invocation) -> int:
    """How many names of each kind are told."""
    return _ALL if invocation.output.verbose else NAMED


def restore_in_place(
    invocation: Invocation, dump: StoredDump, location: Location, wish: InPlaceWish, *, yes: bool
) -> int:
    """Carry it out. Raises VoltoolError."""
    from voltool.backup.inplace import restore_in_place as bring_back

    if not (yes or wish.dry_run or sys.stdin.isatty()):
        raise UsageError(
            "a restore in place changes a directory that stands, and nobody is there to be asked",
            where=f"{location.host}:{shown(location.path)}",
            remedy="--dry-run shows what it would do; --yes says that you have seen it",
        )

    def confirm(planned: PlannedRestore) -> bool:
        tell = invocation.output.line if wish.dry_run else partial(invocation.output.notice, "info")
        for line in _plan_lines(location, planned):
            tell(line)
        return not wish.dry_run and (yes or invocation.output.ask("Go on?"))

    outcome = bring_back(invocation.world, dump, location.host, location.path, wish, confirm)
    _show_outcome(invocation, dump, location, outcome, dry_run=wish.dry_run)
    return invocation.finish()


def _counts(planned: PlannedRestore) -> dict[str, int]:
    plan = planned.plan
    return {
        "delete": plan.deleted,
        "write": plan.written,
        "create": plan.created,
        "change": plan.changed,
        "link": plan.linked,
    }


def _plan_lines(location: Location, planned: PlannedRestore) -> Iterator[str]:
    plan, counts = planned.plan, _counts(planned)
    told = ", ".join(f"{number} {_TITLES[kind]}" for kind, number in counts.items() if number) or "nothing differs"
    kept = f"; {display.count(plan.kept, 'name')} not in the dump stay" if plan.kept else ""
    data = f" ({display.amount(plan.bytes)})" if plan.bytes else ""
    yield f"{location.host}:{shown(location.path)}: {told}{data}{kept}"
    for kind, title in _TITLES.items():
        paths = planned.names.get(kind, [])
        for path in paths if kind != "leave" else []:
            yield f"  {title}: {shown(path) or '.'}"
        more = counts.get(kind, 0) - len(paths)
        if more > 0:
            yield f"  {title}: and {more} more (--verbose names them)"


def _show_outcome(
    invocation: Invocation, dump: StoredDump, location: Location, outcome: InPlaceOutcome, *, dry_run: bool
) -> None:
    output, plan = invocation.output, outcome.planned.plan
    for problem in outcome.problems:
        output.notice("warning", f"{problem.problem.value}: {shown(problem.path) or '.'}: {problem.why}")
    place = f"{location.host}:{shown(location.path)}"
    if outcome.done and not outcome.planned.anything:
        output.summary(f"{dump.header.volume_name}: {place} is as the dump has it: nothing was changed")
    elif outcome.done:
        names = display.count(plan.created + plan.written + plan.linked, "name")
        output.summary(
            f"{dump.header.volume_name}: restored in place at {place}: {names} ({display.amount(plan.bytes)}),"
            f" attributes of {plan.changed}, {plan.deleted} deleted,"
            f" from {display.count(len(outcome.dump_ids), 'dump')} in {display.duration(outcome.seconds)}"
        )
    elif not dry_run:
        output.summary(f"{place}: nothing was changed")
    invocation.codes.append(outcome.exit_code)
    _fill_fields(invocation, outcome)


def _fill_fields(invocation: Invocation, outcome: InPlaceOutcome) -> None:
    from voltool.cli.json_lines import name_value, problem_object

    plan = outcome.planned.plan
    invocation.fields |= {
        "dumps": list(outcome.dump_ids),
        "target": outcome.target,
        "entries": plan.created + plan.written + plan.linked,
        "bytes": plan.bytes,
        "seconds": round(outcome.seconds, 3),
        "problems": [problem_object(problem) for problem in outcome.problems],
        "in_place": {
            "done": outcome.done,
            "created": plan.created,
            "written": plan.written,
            "changed": plan.changed,
            "linked": plan.linked,
            "deleted": plan.deleted,
            "kept": plan.kept,
            "names": [
                {"change": kind, "path": name_value(path)}
                for kind, paths in outcome.planned.names.items()
                for path in paths
            ],
        },
    }
