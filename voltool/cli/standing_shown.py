"""How volumes stand, for people: what is wrong first, then a table. Rich on a terminal, plain in a pipe. Imports nothing heavy
before it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltool.backup.replicas import place_of, wrongs
from voltool.cli import display
from voltool.cli.tables import show_rows
from voltool.machine import is_alive
from voltool.policy.moves import RUNNING
from voltool.policy.replicas import REPLICA
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.standing import Standing
    from voltool.cli.output import Output
    from voltool.policy.moves import MoveRecord
    from voltool.policy.replicas import ReplicaStanding
    from voltool.policy.runs import VolumeRun

#: How many names are listed of those that nothing is wrong with.
_NAMED = 20
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Concern:
    """Something that a person should know. ``kind``: nowhere, move, overdue, stale, replica, suspicious, configuration, run,
    host."""

    kind: str
    volume: str
    what: str
    remedy: str = ""


def concerns(found: Sequence[Standing], now_ns: int) -> Iterator[Concern]:
    """What is to be said of volumes, the worst first."""
    moves = [each.unfinished for each in found if each.unfinished is not None]
    yield from (_of_move(move) for move in moves if move.may_be_nowhere)
    yield from (_of_overdue(each, now_ns) for each in found if each.overdue is not None)
    yield from (_of_replica(each) for standing in found for each in standing.replicas if each.is_stale)
    for each in found:
        for dump_id, why in (each.suspicious or {}).items():
            short = display.short_id(dump_id)
            what = f"dump {short} is suspicious: {why}"
            yield Concern("suspicious", each.volume.name, what, f"look at it, then voltool dumps --accept {short}")
    yield from (Concern("configuration", each.volume.name, each.fault) for each in found if each.fault)
    yield from (_of_move(move) for move in moves if not move.may_be_nowhere)
    replicas = [each for standing in found for each in standing.replicas]
    yield from (_of_replica(each) for each in replicas if not each.is_stale and any(wrongs(each)))


def concerns_of_run(runs: Sequence[VolumeRun]) -> Iterator[Concern]:
    """What failed in a run."""
    for run in runs:
        if run.error:
            yield Concern("run", run.volume, f"failed in the last run: {shown(run.error.encode('utf-8', 'replace'))}")


def _of_overdue(each: Standing, now_ns: int) -> Concern:
    assert each.overdue is not None
    newest = each.overdue.newest_ns
    what = f"overdue: {each.overdue.why}"
    if newest is not None:
        what += f"; the newest is of {display.local_time(newest)}, {display.age(newest, now_ns)}"
    return Concern("overdue", each.volume.name, what, f"voltool backup {each.volume.name}")


def _of_replica(each: ReplicaStanding) -> Concern:
    what = f"replica {place_of(each)}: {'; '.join(wrongs(each))}"
    return Concern("stale" if each.is_stale else "replica", each.volume, what, f"voltool replica sync {each.volume}")


def _of_move(move: MoveRecord) -> Concern:
    way = f"{move.from_host}:{shown(move.from_path)} to {move.to_host}:{shown(move.to_path)}"
    if move.outcome == RUNNING and is_alive(move.process):
        step = f", at step {move.steps[-1].step!a}" if move.steps else ""
        return Concern("move", move.volume, f"is being moved from {way}{step}")
    since = display.local_time(move.ended_ns)
    remedy = f"voltool move --status {move.volume}, then --resume or --abort"
    if move.may_be_nowhere:
        what = f"may be in service nowhere: its move from {way} did not end; last news {since}"
        return Concern("nowhere", move.volume, what, remedy)
    return Concern("move", move.volume, f"its move from {way} did not end; last news {since}", remedy)


def show_concerns(output: Output, found: Sequence[Concern]) -> None:
    """Each in a line, with what to try."""
    for concern in found:
        mark = "IN SERVICE NOWHERE? " if concern.kind == "nowhere" else ""
        output.line(f"{mark}{concern.volume + ': ' if concern.volume else ''}{concern.what}")
        if concern.remedy:
            output.line(f"  try: {concern.remedy}")


def run_line(runs: Sequence[VolumeRun], now_ns: int) -> str:
    """The last run in a line; empty: there was none."""
    if not runs:
        return ""
    ended = max(run.ended_ns for run in runs)
    failed = sum(bool(run.error) for run in runs)
    partial = sum(run.exit_code == 3 and not run.error for run in runs)
    parts = [f"{len(runs) - failed - partial} ok", f"{partial} partial", f"{failed} failed"]
    took = display.duration((ended - min(run.started_ns for run in runs)) / _SECOND)
    return f"last run: {display.local_time(ended)}, {display.age(ended, now_ns)}, in {took}: {', '.join(parts)}"


def unscheduled_line(found: Sequence[Standing]) -> str:
    """The volumes that are in no schedule; empty: none."""
    names = [each.volume.name for each in found if not each.schedule]
    if not names or len(names) == len(found):
        return "no volume is in a schedule" if names else ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"in no schedule: {', '.join(names[:_NAMED])}{more}"


_HEADS = ("VOLUME", "HOST", "NEWEST DUMP", "BY LEVEL", "DUMPS", "STORED", "LAST TURN", "STATE")
#: A column more, before the last one, where there are replicas.
_REPLICAS = "REPLICAS"
_STYLES = {
    "nowhere?": "bold red", "overdue": "red", "stale": "red", "suspicious": "magenta", "misconfigured": "red", "moving": "cyan",
    "unfinished": "red", "ok": "green",
}  # fmt: skip


def show_table(output: Output, found: Sequence[Standing], now_ns: int) -> None:
    """One line a volume."""
    heads: tuple[str, ...] = _HEADS
    rows = [_row(each, now_ns) for each in found]
    if any(each.replicas for each in found):
        heads = (*heads[:-1], _REPLICAS, heads[-1])
        rows = [(*row[:-1], _replicas(each), row[-1]) for row, each in zip(rows, found, strict=True)]
    show_rows(output, heads, rows, right=(4, 5), styles=_STYLES)


def _replicas(each: Standing) -> str:
    """How many there are, and how far the last one is behind."""
    mine = [replica for replica in each.replicas if replica.known.role == REPLICA]
    lags = [replica.lag.seconds for replica in mine if replica.lag is not None]
    oldest = f", {display.duration(max(lags))} behind" if lags else ""
    return f"{len(mine)}{oldest}" if mine else "-"


def _row(each: Standing, now_ns: int) -> tuple[str, ...]:
    levels = "  ".join(f"{level.level}:{_short_age(level.clone_time_ns, now_ns)}" for level in each.latest)
    last = each.last
    turn = "-" if last is None else "failed" if last.error else "partial" if last.exit_code == 3 else "ok"
    return (
        each.volume.name,
        each.volume.host,
        "never" if each.newest_ns is None else display.age(each.newest_ns, now_ns),
        levels or "-",
        f"{each.dumps:,}",
        display.amount(each.stored_bytes),
        turn,
        "nowhere?" if each.state == "nowhere" else each.state,
    )


def _short_age(then_ns: int, now_ns: int) -> str:
    seconds = max(0, now_ns - then_ns) // _SECOND
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
