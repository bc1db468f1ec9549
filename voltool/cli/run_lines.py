"""What `--json` prints of a run of `voltool backup`; see docs/json.md. Pure."""

from __future__ import annotations

from voltool.cli.json_lines import JsonObject, time_value
from voltool.policy.runs import RunReport, VolumeRun


def turn_object(run: VolumeRun) -> JsonObject:
    """One volume's turn."""
    return {
        "volume": run.volume,
        "host": run.host,
        "level": run.level,
        "made_level": run.made_level,
        "why": run.why,
        "started": time_value(run.started_ns),
        "ended": time_value(run.ended_ns),
        "exit": run.exit_code,
        "attempts": run.attempts,
        "dump": run.dump_id,
        "stored_bytes": run.stored_bytes,
        "failed": run.error,
        "warnings": list(run.warnings),
    }


def report_object(report: RunReport) -> JsonObject:
    """A whole run."""
    return {
        "run": report.run_id,
        "started": time_value(report.started_ns),
        "ended": time_value(report.ended_ns),
        "turns": [turn_object(run) for run in report.volumes],
        "unscheduled": list(report.unscheduled),
        "faults": list(report.faults),
        "alarms": list(report.alarms),
    }
