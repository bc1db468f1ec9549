"""A run in words: what is mailed, posted to a health check, written to syslog. Pure: plain text, names escaped, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo

from voltool.config.quantity import amount
from voltool.errors import EXIT_DONE, EXIT_PARTIAL
from voltool.policy.runs import RunReport, VolumeRun
from voltool.showing import shown

#: So many volumes that went well are listed, since a health check takes some kilobytes; what did not go well is listed whole.
_MOST_GOOD = 200


@dataclass(frozen=True)
class Summary:
    """``subject``: one line; ``body``: plain text. ``ok``: nothing went wrong."""

    ok: bool
    subject: str
    body: str

    @property
    def text(self) -> str:
        """As a program gets it: the subject line first, an empty line, the body."""
        return f"Subject: {self.subject}\n\n{self.body}"


def summary_of(report: RunReport, hostname: str, zone: tzinfo | None = None) -> Summary:
    """The summary of a run on ``hostname``; times in ``zone`` (None: this machine's)."""
    failed = [run for run in report.volumes if run.error]
    partial = [run for run in report.volumes if not run.error and run.exit_code == EXIT_PARTIAL]
    good = [run for run in report.volumes if not run.error and run.exit_code == EXIT_DONE]
    # Partial is not wrong enough to wake somebody: files that are always open are in most nights' reports.
    ok = report.exit_code in (EXIT_DONE, EXIT_PARTIAL) and not (failed or report.faults or report.alarms)
    parts = [
        _counted(len(failed), "failed"),
        _counted(len(report.alarms), "suspicious"),
        _counted(len(partial), "partial"),
        _counted(len(good), "ok"),
    ]
    happened = ", ".join(filter(None, parts)) or ("nothing was due" if not report.faults else "nothing was dumped")
    subject = f"voltool backup on {_line(hostname)}: {'ok' if ok else 'FAILED'}: {happened}"
    body = "\n".join(_body(report, failed, partial, good, zone)) + "\n"
    return Summary(ok, subject, body)


def volume_line(run: VolumeRun) -> str:
    """One volume's turn in a line."""
    if run.error:
        return f"{_line(run.volume)}: FAILED (exit code {run.exit_code}): {_line(run.error)}"
    how = "partial" if run.exit_code == EXIT_PARTIAL else "ok"
    seconds = (run.ended_ns - run.started_ns) / 1e9
    level = f"level {run.made_level}" if run.made_level is not None else "no dump"
    text = f"{_line(run.volume)}: {how}: {level}, {amount(run.stored_bytes)} in {seconds:.0f} s"
    if run.made_level is not None and run.made_level != run.level:
        text += f" (level {run.level} was due)"
    return text


def _body(
    report: RunReport, failed: list[VolumeRun], partial: list[VolumeRun], good: list[VolumeRun], zone: tzinfo | None
) -> Iterator[str]:
    yield f"Run {report.run_id}: {_time(report.started_ns, zone)} to {_time(report.ended_ns, zone)}"
    yield f"Exit code {report.exit_code}, {amount(sum(run.stored_bytes for run in report.volumes))} stored"
    yield from _section("Suspicious", map(_line, report.alarms))
    yield from _section("Failed", map(volume_line, failed))
    yield from _section("Wrong beside volumes", map(_line, report.faults))
    yield from _section("Partial (some files could not be read or never settled)", _with_warnings(partial))
    lines = [*_with_warnings(good[:_MOST_GOOD])]
    if len(good) > _MOST_GOOD:
        lines.append(f"and {len(good) - _MOST_GOOD} more")
    yield from _section("Done", lines)
    yield from _section("In no schedule", map(_line, report.unscheduled))


def _with_warnings(runs: list[VolumeRun]) -> Iterator[str]:
    for run in runs:
        yield volume_line(run)
        for warning in run.warnings:
            yield f"  {_line(warning)}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    rest = list(lines)
    if rest:
        yield ""
        yield f"{title}:"
        yield from (f"  {line}" for line in rest)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number else ""


def _line(text: str) -> str:
    """One line, whatever is in it."""
    return shown(text.encode("utf-8", "surrogateescape"))


def _time(time_ns: int, zone: tzinfo | None) -> str:
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, zone) if zone else _local(time_ns)
    return moment.strftime("%Y-%m-%d %H:%M:%S %z")


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone()
