"""A run of `voltool backup` as it is shown while it goes: a line a volume, and a closing one."""

from __future__ import annotations

from collections.abc import Sequence

from voltool.cli import display
from voltool.cli.invocation import Invocation
from voltool.cli.run_lines import turn_object
from voltool.nightly.dumping import Ended
from voltool.nightly.plan import LeftOut, Plan
from voltool.policy.runs import RunReport, UpkeepOutcome

_NAMED = 10


class RunShown:
    """Implements `nightly.run.Listener`."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._output = invocation.output

    def turn_ended(self, ended: Ended) -> None:
        """One line; in JSON an event. Warnings of the dump were shown as they came."""
        run, dump = ended.run, ended.dump
        self._output.json_line({"event": "turn", **turn_object(run)})
        if dump is None:
            assert ended.error is not None
            self._invocation.failed(ended.error, run.volume)
            return
        self._invocation.codes.append(run.exit_code)
        text = f"{run.volume}: level {run.made_level}: {display.amount(dump.totals.data_bytes)} of data,"
        text += (
            f" {display.amount(run.stored_bytes)} stored in {display.duration((run.ended_ns - run.started_ns) / 1e9)}"
        )
        if run.made_level != run.level:  # the plan has seen that coming, or the dump job was the first to see
            foreseen = ended.turn.due.level != ended.turn.due.wanted
            text += f"; {run.why}" if foreseen else f"; level {run.level} was wanted, and there was no base for it"
        if run.attempts > 1:
            text += f"; {run.attempts} attempts"
        if run.warnings:
            text += f"; {display.count(len(run.warnings), 'warning')}"
        self._output.summary(text)

    def left_out(self, left_out: LeftOut) -> None:
        """The error."""
        self._invocation.failed(left_out.error, left_out.name)

    def kept_up(self, volume: str, outcome: UpkeepOutcome) -> None:
        """What was done besides; faults and alarms are told at the end."""
        if outcome.merged is not None:
            self._output.summary(f"{volume}: a new full dump out of the chain: {display.short_id(outcome.merged)}")
        if outcome.dropped:
            self._output.summary(f"{volume}: {display.count(len(outcome.dropped), 'dump')} dropped by retention")

    def tried_again(self, failed: Sequence[Ended], seconds: float) -> None:
        """Not an error yet."""
        for ended in failed:
            self._output.notice("info", f"{ended.run.volume}: {ended.error}; it is tried again")
        self._output.notice("info", f"{display.count(len(failed), 'volume')} again in {display.duration(seconds)}")


def closing_summary(plan: Plan, report: RunReport) -> str:
    """The whole run in one line."""
    done = [run for run in report.volumes if run.dump_id is not None]
    failed = [run.volume for run in report.volumes if run.dump_id is None]
    parts = [f"{len(done)} dumped ({display.amount(sum(run.stored_bytes for run in done))})"]
    if failed:
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        parts.append(f"{len(failed)} FAILED: {', '.join(failed[:_NAMED])}{more}")
    if plan.not_due:
        parts.append(f"{len(plan.not_due)} not due")
    if report.unscheduled:
        parts.append(f"{len(report.unscheduled)} in no schedule")
    if report.alarms:
        parts.append(display.count(len(report.alarms), "ALARM"))
    return f"backup: {'; '.join(parts)}; {display.duration((report.ended_ns - report.started_ns) / 1e9)}"
