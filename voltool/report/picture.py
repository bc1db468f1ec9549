"""Where things stand in the pictures of a report: pure geometry in the pictures' own units. Knows nothing of HTML."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from voltool.model import StoredDump
from voltool.policy.chain import Lineage
from voltool.policy.moves import MoveRecord, MoveStep

WIDTH = 860
#: Room left of the first dump for the levels' names, and right of the last one.
_LEFT, _RIGHT = 64, 24
_TOP, _ROW, _BOTTOM = 22, 34, 30
_LEAST_RADIUS, _MOST_RADIUS = 2.5, 13.0
_TICKS = 6


@dataclass(frozen=True)
class Node:
    """A dump: its area goes with its length. ``kind``: full, incremental; ``marks``: suspicious, problems."""

    dump: StoredDump
    x: float
    y: float
    radius: float
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """From a dump to its base, as an SVG path. ``faded``: the base is older than what is drawn, or gone."""

    path: str
    faded: bool


@dataclass(frozen=True)
class Tick:
    """A mark of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class ChainPicture:
    """Levels over time."""

    height: int
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    rows: tuple[Tick, ...]
    ticks: tuple[Tick, ...]


def chain_picture(dumps: Sequence[StoredDump], lineage: Lineage, suspicious: Collection[str]) -> ChainPicture:
    """The dumps of one volume, level 0 at the bottom: what rests on it stands above it."""
    levels = sorted({dump.header.level for dump in dumps}, reverse=True)
    rows = {level: _TOP + _ROW * number + _ROW / 2 for number, level in enumerate(levels)}
    bottom = _TOP + _ROW * len(levels)
    times = [dump.header.clone_time_ns for dump in dumps]
    largest = max((dump.totals.stored_bytes for dump in dumps), default=1) or 1
    nodes: dict[str, Node] = {}
    for dump in dumps:
        header = dump.header
        marks = tuple(
            name
            for name, holds in (("suspicious", header.dump_id in suspicious), ("problems", bool(dump.problems)))
            if holds
        )
        share = math.sqrt(max(0, dump.totals.stored_bytes) / largest)
        radius = _LEAST_RADIUS + (_MOST_RADIUS - _LEAST_RADIUS) * share
        nodes[header.dump_id] = Node(dump, _place(header.clone_time_ns, times), rows[header.level], radius, marks)
    edges = [_edge(node, _base(node, lineage, nodes)) for node in nodes.values() if node.dump.header.base_state_id]
    return ChainPicture(
        height=bottom + _BOTTOM,
        nodes=tuple(sorted(nodes.values(), key=lambda node: -node.radius)),
        edges=tuple(edges),
        rows=tuple(Tick(at, f"level {level}") for level, at in rows.items()),
        ticks=_time_ticks(times),
    )


def _base(node: Node, lineage: Lineage, nodes: dict[str, Node]) -> Node | None:
    base = lineage.base_of(node.dump)
    return nodes.get(base.header.dump_id) if base is not None else None


def _edge(node: Node, base: Node | None) -> Edge:
    if base is None:
        return Edge(f"M{node.x:.1f} {node.y:.1f}l-14 12", faded=True)
    bend = (node.y + base.y) / 2
    path = f"M{node.x:.1f} {node.y:.1f}C{node.x:.1f} {bend:.1f} {base.x:.1f} {bend:.1f} {base.x:.1f} {base.y:.1f}"
    return Edge(path, faded=False)


def _place(time_ns: int, times: Sequence[int]) -> float:
    first, last = min(times), max(times)
    if first == last:
        return (_LEFT + WIDTH - _RIGHT) / 2
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * (time_ns - first) / (last - first)


def _time_ticks(times: Sequence[int]) -> tuple[Tick, ...]:
    if not times:
        return ()
    first, last = min(times), max(times)
    number = _TICKS if last > first else 1
    moments = [first + (last - first) * each // max(1, number - 1) for each in range(number)]
    form = "%b %-d" if last - first > 2 * 86_400_000_000_000 else "%b %-d %H:%M"
    return tuple(Tick(_place(moment, times), _local(moment).strftime(form)) for moment in moments)


def _local(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone()


@dataclass(frozen=True)
class Curve:
    """Something over time, as paths: the line and the area below it."""

    line: str
    area: str
    top: int
    ticks: tuple[Tick, ...] = ()


def curve(points: Sequence[tuple[int, int]], width: int, height: int) -> Curve:
    """``points``: moments and values; the axis of values begins at 0."""
    if not points:
        return Curve("", "", 0)
    top = max(value for _time, value in points) or 1
    first, last = points[0][0], points[-1][0]
    spots: list[tuple[float, float]] = []
    for time_ns, value in points if len(points) > 1 else [points[0], points[0]]:
        x = width * (time_ns - first) / (last - first) if last > first else width * len(spots)
        spots.append((x, height - (height - 2) * value / top))
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    ticks = []
    for number in range(_TICKS if last > first else 1):
        moment = first + (last - first) * number // (_TICKS - 1)
        at = width * number / (_TICKS - 1) if last > first else 0
        ticks.append(Tick(at, _local(moment).strftime("%b %-d")))
    return Curve(line, f"{line}L{spots[-1][0]:.1f} {height}L{spots[0][0]:.1f} {height}Z", top, tuple(ticks))


@dataclass(frozen=True)
class Bar:
    """A step of a move on a line of its own time: place and width in percent of the whole."""

    step: MoveStep
    left: float
    width: float


@dataclass(frozen=True)
class MovePicture:
    """A move as two lines: the whole, with where the volume was locked; and what happened from the last lock on."""

    steps: tuple[Bar, ...]
    locks: tuple[tuple[float, float], ...]
    under_lock: tuple[Bar, ...]
    lock_seconds: float


def move_picture(move: MoveRecord) -> MovePicture:
    """The picture of a move. What has not ended lasts until the last news of it."""
    start, whole = move.started_ns, max(1, move.ended_ns - move.started_ns)
    steps = tuple(_bar(step, move, start, whole) for step in move.steps)
    locks = tuple(
        (_percent(lock.started_ns - start, whole), _percent(_length(lock.seconds, lock.started_ns, move), whole))
        for lock in move.locks
    )
    if not move.locks:
        return MovePicture(steps, locks, (), 0.0)
    last = move.locks[-1]
    length = max(1, _length(last.seconds, last.started_ns, move))
    inside = [step for step in move.steps if last.started_ns <= step.started_ns < last.started_ns + length]
    bars = tuple(_bar(step, move, last.started_ns, length) for step in inside)
    return MovePicture(steps, locks, bars, length / 1e9)


def _bar(step: MoveStep, move: MoveRecord, start: int, whole: int) -> Bar:
    left = _percent(step.started_ns - start, whole)
    return Bar(step, left, min(100 - left, _percent(_length(step.seconds, step.started_ns, move), whole)))


def _length(seconds: float, started_ns: int, move: MoveRecord) -> int:
    return max(0, int(seconds * 1e9)) if seconds >= 0 else max(0, move.ended_ns - started_ns)


def _percent(part: int, whole: int) -> float:
    return min(100.0, max(0.0, 100 * part / whole))
