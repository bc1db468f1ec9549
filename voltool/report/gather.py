"""What a report is made of, out of the catalog alone: no host and no store is asked. Plain data for pages and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voltool.backup.ports import Catalog
from voltool.backup.standing import Standing
from voltool.errors import EXIT_DONE
from voltool.model import StoredDump
from voltool.policy.chain import Lineage
from voltool.policy.moves import MoveRecord
from voltool.policy.runs import VolumeRun

_DAY = 86_400 * 1_000_000_000
#: Runs and growth are those of so many days; moves are the newest so many.
DAYS = 30
_MOST_MOVES = 100
#: So many dumps are drawn in all, and of one volume at the least and at the most: a page of a thousand volumes must stay usable.
_ALL_DRAWN, _LEAST_DRAWN, _MOST_DRAWN = 12_000, 12, 120
#: So many points a curve has.
_POINTS = 48

OK, PARTIAL, FAILED = "ok", "partial", "failed"


@dataclass(frozen=True)
class Turn:
    """A volume's turn in a run: `OK`, `PARTIAL` or `FAILED`."""

    outcome: str
    ended_ns: int
    seconds: float
    error: str


@dataclass(frozen=True)
class RunBar:
    """A run: how many volumes ended how."""

    run_id: str
    started_ns: int
    ended_ns: int
    counts: tuple[int, int, int]
    stored_bytes: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended_ns - self.started_ns) / 1e9


@dataclass(frozen=True)
class VolumeReport:
    """One volume. ``dumps``: the newest, oldest first; ``left_out``: how many there are besides; ``growth``: moments (ns) and the
    bytes of all dumps up to then that there are now; ``turns`` of the last `DAYS`."""

    standing: Standing
    dumps: tuple[StoredDump, ...]
    left_out: int
    lineage: Lineage
    growth: tuple[tuple[int, int], ...]
    turns: tuple[Turn, ...]

    @property
    def fulls(self) -> int:
        """How many full dumps there are."""
        return sum(level.dumps for level in self.standing.latest if level.level == 0)

    @property
    def chain(self) -> int:
        """How many dumps a restore of the newest one reads, as far as they are in ``dumps``."""
        return self.lineage.depth_of(self.dumps[-1]) + 1 if self.dumps else 0

    @property
    def chain_text(self) -> str:
        """The same in words: at least so many, where not all of them are in ``dumps``."""
        if not self.dumps:
            return "-"
        return f"{self.chain}" if self.lineage.is_whole(self.dumps[-1]) else f"{self.chain}+"

    @property
    def failures(self) -> int:
        """Turns that failed."""
        return sum(turn.outcome == FAILED for turn in self.turns)

    @property
    def usual_seconds(self) -> float | None:
        """The median of how long its turns took; None: it had none that went well."""
        good = sorted(turn.seconds for turn in self.turns if turn.outcome != FAILED)
        return good[len(good) // 2] if good else None

    def grown(self, now_ns: int) -> int:
        """Bytes of the dumps of the last `DAYS`."""
        before = [stored for time_ns, stored in self.growth if time_ns < now_ns - DAYS * _DAY]
        return (self.growth[-1][1] if self.growth else 0) - (before[-1] if before else 0)


@dataclass(frozen=True)
class Report:
    """Everything. ``faults``: what is wrong with the configuration beside volumes; ``growth`` of all volumes together."""

    made_ns: int
    volumes: tuple[VolumeReport, ...]
    runs: tuple[RunBar, ...]
    moves: tuple[MoveRecord, ...]
    growth: tuple[tuple[int, int], ...]
    faults: tuple[str, ...] = ()


def gather(catalog: Catalog, found: Sequence[Standing], now_ns: int, faults: Sequence[str] = ()) -> Report:
    """The report of the volumes in ``found`` (of all, or of some)."""
    uuids = {each.volume.uuid for each in found}
    drawn = min(_MOST_DRAWN, max(_LEAST_DRAWN, _ALL_DRAWN // max(1, len(found))))
    if len(found) == 1:
        uuid = found[0].volume.uuid
        dumps, runs, moves = catalog.dumps(uuid)[-drawn:], catalog.runs(uuid, now_ns - DAYS * _DAY), catalog.moves(uuid)
    else:
        dumps, runs, moves = catalog.newest_dumps(drawn), catalog.runs(since_ns=now_ns - DAYS * _DAY), catalog.moves()
    by_volume: dict[str, list[StoredDump]] = {}
    for dump in dumps:
        by_volume.setdefault(dump.header.volume_uuid, []).append(dump)
    turns: dict[str, list[Turn]] = {}
    for run in runs:
        turns.setdefault(run.volume_uuid, []).append(_turn(run))
    growths = _growths(catalog, found)
    volumes = []
    for each in found:
        uuid = each.volume.uuid
        mine = tuple(by_volume.get(uuid, ()))
        left_out = max(0, each.dumps - len(mine))
        growth = tuple(growths.get(uuid, ()))
        volumes.append(VolumeReport(each, mine, left_out, Lineage(mine), growth, tuple(turns.get(uuid, ()))))
    mine_moves = [move for move in moves if move.volume_uuid in uuids]
    return Report(
        made_ns=now_ns,
        volumes=tuple(volumes),
        runs=_bars([run for run in runs if len(found) != 1 or run.volume_uuid in uuids]),
        moves=tuple(reversed(mine_moves[-_MOST_MOVES:])),
        growth=_total(volumes),
        faults=tuple(faults),
    )


def _turn(run: VolumeRun) -> Turn:
    outcome = FAILED if run.error else OK if run.exit_code == EXIT_DONE else PARTIAL
    return Turn(outcome, run.ended_ns, (run.ended_ns - run.started_ns) / 1e9, run.error)


def _bars(runs: Sequence[VolumeRun]) -> tuple[RunBar, ...]:
    by_run: dict[str, list[VolumeRun]] = {}
    for run in runs:
        by_run.setdefault(run.run_id, []).append(run)
    bars = []
    for run_id, members in by_run.items():
        outcomes = [_turn(run).outcome for run in members]
        bars.append(
            RunBar(
                run_id,
                min(run.started_ns for run in members),
                max(run.ended_ns for run in members),
                (outcomes.count(OK), outcomes.count(PARTIAL), outcomes.count(FAILED)),
                sum(run.stored_bytes for run in members),
            )
        )
    return tuple(sorted(bars, key=lambda bar: bar.started_ns))


def _growths(catalog: Catalog, found: Sequence[Standing]) -> dict[str, list[tuple[int, int]]]:
    """By volume, what was stored up to the end of each of some spans of time."""
    only = found[0].volume.uuid if len(found) == 1 else None
    growths: dict[str, list[tuple[int, int]]] = {}
    for uuid, time_ns, stored in catalog.stored_over_time(_POINTS, only):
        curve = growths.setdefault(uuid, [])
        curve.append((time_ns, stored + (curve[-1][1] if curve else 0)))
    return growths


def _total(volumes: Sequence[VolumeReport]) -> tuple[tuple[int, int], ...]:
    added: dict[int, int] = {}
    for volume in volumes:
        before = 0
        for time_ns, stored in volume.growth:
            added[time_ns] = added.get(time_ns, 0) + stored - before
            before = stored
    total = 0
    curve = []
    for time_ns in sorted(added):
        total += added[time_ns]
        curve.append((time_ns, total))
    return tuple(curve)
