"""`voltool backup`: everything that is due; the thing to put into cron."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import DryRun
from voltool.errors import VoltoolError

if TYPE_CHECKING:
    from voltool.nightly.plan import Plan
    from voltool.nightly.ports import Announcer, Learner, Upkeep
    from voltool.policy.runs import RunReport

EXAMPLES = (
    ("voltool backup", "dump everything that the schedule says is due"),
    ("voltool backup --dry-run", "what would be dumped now, at which level, and why; nothing is connected to"),
    ("voltool backup home mail", "these two now: what they are due, else once more at the level of the day"),
    ("voltool --quiet backup", "the same from cron, which mails what is printed: errors only"),
)


def backup(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=completing.volumes,
            metavar="[NAME]...",
            help="These volumes only, also where nothing is due.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> int:
    """Dump every volume whose schedule says that it is due: low levels first, what was missed is caught up, what failed is tried
    again at the end. A host that is dead, a volume that hangs or a malformed line of the configuration keeps no other volume
    from its dump. Only one runs at a time: a second one ends with exit code 4."""
    invocation = begin(context, "backup")
    if dry_run:
        return _show_plan(invocation, _plan(invocation, names or []))
    return _run(invocation, names or [])


# ------------------------------------------------------------------------------------------------------------ wiring


def _upkeep(invocation: Invocation) -> Upkeep:
    """What is done for a volume after its dump."""
    from voltool.backup.upkeep import VolumeUpkeep

    return VolumeUpkeep(invocation.world, invocation.settings)


def _announcer(invocation: Invocation) -> Announcer:
    """Who is told of the run."""
    from voltool.nightly.notify import Notifier

    return Notifier(invocation.settings, invocation.world.catalog, invocation.environment)


def _learner(invocation: Invocation) -> Learner:
    """Who wants to know each new dump: the index of names."""
    return invocation.learn


# --------------------------------------------------------------------------------------------------------------- run


def _plan(invocation: Invocation, names: list[str]) -> Plan:
    import time

    from voltool.nightly.plan import Planner

    lenient = invocation.read_leniently()
    return Planner(invocation.world, lenient, invocation.store_url, time.time_ns(), names).plan()


def _run(invocation: Invocation, names: list[str]) -> int:
    from voltool.cli.run_lines import report_object
    from voltool.cli.run_shown import RunShown
    from voltool.nightly.run import Run, alone

    invocation.read_leniently()
    caller = invocation.world.caller
    with alone(invocation.state, caller):
        plan = _plan(invocation, names)
        run = Run(
            invocation.world,
            invocation.settings,
            plan,
            RunShown(invocation),
            upkeep=_upkeep(invocation),
            announcer=_announcer(invocation),
            learner=_learner(invocation),
        )
        report = run.run()
        invocation.fields |= report_object(report)
        invocation.codes.append(report.exit_code)
        if run.interrupted is None:
            for url in dict.fromkeys(turn.store for turn in plan.turns):
                invocation.keep_copies(url)
    _tell_the_rest(invocation, plan, report)
    for text in run.untold:
        _note(invocation, VoltoolError(f"nobody could be told of this run: {text}"))
    if run.interrupted is not None:
        invocation.output.error(run.interrupted)
        invocation.errors.insert(0, run.interrupted)
    return invocation.finish()


def _tell_the_rest(invocation: Invocation, plan: Plan, report: RunReport) -> None:
    """What concerns no single volume, and the closing summary."""
    from voltool.cli.run_shown import closing_summary

    for error in plan.faults:
        _note(invocation, error)
    told = {str(error) for error in plan.faults}
    for text in (*report.alarms, *report.faults):
        if text not in told and report.exit_code:
            _note(invocation, VoltoolError(text))
    if report.unscheduled:
        invocation.output.notice("warning", f"in no schedule: {', '.join(report.unscheduled)}")
    invocation.output.summary(closing_summary(plan, report))


def _note(invocation: Invocation, error: VoltoolError) -> None:
    invocation.output.error(error)
    invocation.errors.append(error)
    invocation.codes.append(error.exit_code)


# ----------------------------------------------------------------------------------------------------------- dry run


def _show_plan(invocation: Invocation, plan: Plan) -> int:
    output = invocation.output
    invocation.fields["planned"] = [
        {
            "volume": turn.volume.name,
            "host": turn.volume.host,
            "level": turn.due.level,
            "wanted_level": turn.due.wanted,
            "why": turn.due.why,
            "store": turn.store,
        }
        for turn in plan.turns
    ]
    invocation.fields["not_due"] = list(plan.not_due)
    invocation.fields["unscheduled"] = list(plan.unscheduled)
    for turn in plan.turns:
        output.line(f"{turn.volume.name}: level {turn.due.level} ({turn.due.why}) into {turn.store}")
    if not plan.turns:
        output.summary("nothing is due")
    for left_out in plan.left_out:
        invocation.failed(left_out.error, left_out.name)
    for error in plan.faults:
        _note(invocation, error)
    if plan.unscheduled:
        output.notice("warning", f"in no schedule: {', '.join(plan.unscheduled)}")
    return invocation.finish()
