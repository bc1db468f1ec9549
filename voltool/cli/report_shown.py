"""The report in short, for people: tables of volumes, replicas, runs and moves. Rich on a terminal, plain in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltool.cli import display
from voltool.cli.replicas_shown import show_replicas
from voltool.cli.tables import show_rows
from voltool.report.gather import DAYS
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.cli.output import Output
    from voltool.policy.moves import MoveRecord
    from voltool.report.gather import Report, RunBar, VolumeReport

#: So many runs and moves are shown; the page has more.
_MOST_RUNS = 7
_MOST_MOVES = 10


def show_report(output: Output, report: Report) -> None:
    """All of it, in short."""
    if not report.volumes:
        output.notice("info", "no volumes yet: voltool volume add NAME HOST:/path")
        return
    heads = ("VOLUME", "STORED", f"{DAYS} DAYS", "DUMPS", "FULLS", "CHAIN", "TAKES", "FAILED", "NEWEST")
    rows = [_volume_row(each, report.made_ns) for each in report.volumes]
    show_rows(output, heads, rows, right=(1, 2, 3, 4, 5, 6, 7))
    replicas = [each for volume in report.volumes for each in volume.standing.replicas]
    if replicas:
        output.line()
        show_replicas(output, replicas, report.made_ns)
    if report.runs:
        output.line()
        run_heads = ("RUN", "TOOK", "OK", "PARTIAL", "FAILED", "STORED")
        show_rows(output, run_heads, [_run_row(run) for run in report.runs[-_MOST_RUNS:]], right=(1, 2, 3, 4, 5))
    if report.moves:
        output.line()
        move_heads = ("MOVE", "FROM", "TO", "BEGAN", "TOOK", "SENT", "LOCKED", "OUTCOME")
        show_rows(output, move_heads, [_move_row(move) for move in report.moves[:_MOST_MOVES]], right=(4, 5, 6))


def _volume_row(each: VolumeReport, now_ns: int) -> tuple[str, ...]:
    standing = each.standing
    return (
        standing.volume.name,
        display.amount(standing.stored_bytes),
        "+" + display.amount(each.grown(now_ns)),
        f"{standing.dumps:,}",
        f"{each.fulls:,}",
        each.chain_text,
        "-" if each.usual_seconds is None else display.duration(each.usual_seconds),
        f"{each.failures} of {len(each.turns)}" if each.turns else "-",
        "never" if standing.newest_ns is None else display.age(standing.newest_ns, now_ns),
    )


def _run_row(run: RunBar) -> tuple[str, ...]:
    counts = [str(count) for count in run.counts]
    return (
        display.local_time(run.started_ns),
        display.duration(run.seconds),
        *counts,
        display.amount(run.stored_bytes),
    )


def _move_row(move: MoveRecord) -> tuple[str, ...]:
    return (
        move.volume,
        f"{move.from_host}:{shown(move.from_path)}",
        f"{move.to_host}:{shown(move.to_path)}",
        display.local_time(move.started_ns),
        display.duration(move.seconds),
        display.amount(move.sent_bytes),
        display.duration(move.locked_seconds),
        move.outcome,
    )
