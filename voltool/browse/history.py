"""Paths and versions out of the index's rows. Knows SQL; nothing of patterns or of how results are shown.

A path is put together only for names that matched, by following directories upwards; what it was in which dump, by following it
down again. Hostile rows (loops, absurd depth, a directory in two places) cost a bounded number of steps and lead to no path.
"""

from __future__ import annotations

import stat
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from voltool.browse.index_schema import OPEN
from voltool.model import ROOT_OBJECT

#: A longer path of a directory, in bytes, is not put together: PATH_MAX is 4096, but who goes down step by step gets deeper.
MAX_PATH = 1 << 16
#: Bytes and paths that are remembered, roughly.
_KEPT_BYTES = 16 << 20
_KEPT_DEPTH = 64
#: So many steps upwards that led nowhere are more than a sound dump has: then it is only climbed a little.
_LOST_STEPS = 200_000
_PARENT = """SELECT e.directory, n.name, e.first, e.last FROM entries e JOIN names n ON n.id = e.name
    WHERE e.volume = ? AND e.child = ? AND e.is_directory AND ? BETWEEN e.first AND e.last LIMIT 1"""


class Point(NamedTuple):
    """A dump, as a point in time."""

    dump_id: str
    time_ns: int


class Version(NamedTuple):
    """One state of a path, in one or more dumps in a row. ``mtime_ns`` is None for a directory: its times are not kept here."""

    mode: int
    size: int
    mtime_ns: int | None
    first: Point
    last: Point
    dumps: int


@dataclass(frozen=True)
class Found:
    """A path and its versions, oldest first. ``gone``: the first dump after the last version, where the path was not any more."""

    volume: str
    path: bytes
    versions: tuple[Version, ...]
    gone: Point | None


class Span(NamedTuple):
    """From ordinal ``first`` to ``last`` the object ``number`` stood at some path."""

    first: int
    last: int
    number: int


class _Place(NamedTuple):
    """From ordinal ``first`` to ``last`` a directory had this path."""

    first: int
    last: int
    path: bytes


@dataclass(frozen=True)
class Window:
    """Which dumps are asked about: of each volume the newest not later than ``at_ns``, or all from ``since_ns`` to
    ``until_ns``."""

    at_ns: int | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    def positions(self, times: list[int]) -> list[int]:
        """The places in ``times`` (of dumps, oldest first) that are asked about."""
        if self.at_ns is not None:
            return [at for at, time_ns in enumerate(times) if time_ns <= self.at_ns][-1:]
        since = self.since_ns if self.since_ns is not None else min(times, default=0)
        until = self.until_ns if self.until_ns is not None else max(times, default=0)
        return [at for at, time_ns in enumerate(times) if since <= time_ns <= until]


EVERYTHING = Window()


class Timeline:
    """The dumps of a volume that there are, oldest first, and which of them are asked about."""

    def __init__(self, rows: list[tuple[int, int, str]], window: Window) -> None:
        self._rows = rows
        self._position = {ordinal: at for at, (ordinal, _time, _id) in enumerate(rows)}
        self._ordinals = sorted(self._position)
        self.asked = set(window.positions([time_ns for _ordinal, time_ns, _id in rows]))
        self._asked_ordinals = sorted(rows[at][0] for at in self.asked)

    def __len__(self) -> int:
        return len(self._rows)

    def next_asked(self, ordinal: int) -> int | None:
        """The first ordinal from ``ordinal`` on that is asked about."""
        at = bisect_left(self._asked_ordinals, ordinal)
        return self._asked_ordinals[at] if at < len(self._asked_ordinals) else None

    def positions(self, first: int, last: int) -> Iterator[int]:
        """Where the dumps of these ordinals stand."""
        for at in range(bisect_left(self._ordinals, first), bisect_right(self._ordinals, last)):
            yield self._position[self._ordinals[at]]

    def point(self, position: int) -> Point:
        """The dump that stands there."""
        _ordinal, time_ns, dump_id = self._rows[position]
        return Point(dump_id, time_ns)


class VolumeHistory:
    """One volume in the index. ``cursor`` reads in one transaction."""

    def __init__(self, cursor: Any, volume: int, timeline: Timeline) -> None:
        self.timeline = timeline
        self._cursor = cursor
        self._volume = volume
        self._places: dict[int, list[_Place]] = {}
        self._lost: set[tuple[int, int]] = set()
        self._lost_steps = 0
        self._walks: dict[bytes, list[Span]] = {}
        self._names: dict[bytes, int | None] = {}
        self._kept = 0

    # ------------------------------------------------------------------------------------------------- upwards

    def paths(self, directory: int, name: bytes, first: int, last: int) -> Iterator[bytes]:
        """The paths that an entry had in dumps that are asked about."""
        ordinal = self.timeline.next_asked(first)
        while ordinal is not None and ordinal <= last:
            place = self._place(directory, ordinal)
            if place is not None:
                yield place.path + name
                ordinal = max(ordinal, place.last)
            ordinal = self.timeline.next_asked(ordinal + 1)

    def _place(self, directory: int, ordinal: int) -> _Place | None:
        """Where a directory was in a dump; the path ends with a slash, that of the root is empty."""
        climbed: list[tuple[int, int, int, bytes]] = []
        length, above = 0, directory
        deepest = MAX_PATH if self._lost_steps < _LOST_STEPS else _KEPT_DEPTH
        while (place := self._known_place(above, ordinal)) is None:
            row = None
            if (above, ordinal) not in self._lost and len(climbed) < deepest and length <= MAX_PATH:
                row = self._cursor.execute(_PARENT, (self._volume, above, ordinal)).fetchone()
            if row is None:
                self._lose(directory, ordinal, len(climbed))
                return None
            climbed.append((above, row[2], row[3], row[1] + b"/"))
            length += len(row[1]) + 1
            above = row[0]
        if len(place.path) + length > MAX_PATH:
            self._lose(directory, ordinal, len(climbed))
            return None
        for depth, (number, first, last, name) in enumerate(reversed(climbed), 1):
            place = _Place(max(place.first, first), min(place.last, last), place.path + name)
            if depth <= _KEPT_DEPTH or depth % _KEPT_DEPTH == 0 or depth == len(climbed):
                self._keep(len(place.path))
                self._places.setdefault(number, []).append(place)
        return place

    def _lose(self, directory: int, ordinal: int, steps: int) -> None:
        """A directory that hangs on no root, in a loop, or too deep; whatever is looked for below it is lost at once."""
        self._lost_steps += steps
        self._keep(0)
        self._lost.add((directory, ordinal))

    def _known_place(self, directory: int, ordinal: int) -> _Place | None:
        if directory == ROOT_OBJECT:
            return _Place(0, OPEN, b"")
        return next((place for place in self._places.get(directory, ()) if place.first <= ordinal <= place.last), None)

    def _keep(self, size: int) -> None:
        self._kept += size + 100
        if self._kept > _KEPT_BYTES:
            self._kept = 0
            self._places.clear()
            self._lost.clear()
            self._walks.clear()
            self._names.clear()

    # ----------------------------------------------------------------------------------------------- downwards

    def spans(self, path: bytes) -> list[Span]:
        """Which object stood at ``path``, when."""
        found = [Span(0, OPEN, ROOT_OBJECT)]
        names = path.split(b"/")
        for depth in range(len(names), 0, -1):  # from the longest beginning that is known
            prefix = b"/".join(names[:depth])
            if prefix in self._walks:
                found, names = self._walks[prefix], names[depth:]
                break
        else:
            prefix = b""
        for at, name in enumerate(names):
            found = self._step(found, name)
            prefix = prefix + b"/" + name if prefix else name
            if at < len(names) - 1 and at < _KEPT_DEPTH:
                self._keep(len(prefix) + 100 * len(found))
                self._walks[prefix] = found
        return found

    def _step(self, spans: list[Span], name: bytes) -> list[Span]:
        if name not in self._names:
            row = self._cursor.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
            self._keep(len(name))
            self._names[name] = None if row is None else row[0]
        found = []
        for span in spans:
            rows = self._cursor.execute(
                "SELECT first, last, child FROM entries WHERE volume = ? AND directory = ? AND name = ?"
                " AND first <= ? AND last >= ?",
                (self._volume, span.number, self._names[name], span.last, span.first),
            ).fetchall()
            found += [Span(max(first, span.first), min(last, span.last), child) for first, last, child in rows]
        return found

    def versions(self, path: bytes) -> tuple[tuple[Version, ...], Point | None]:
        """The versions of ``path`` that are in dumps which are asked about, and the dump in which it was gone."""
        timeline = self.timeline
        seen: list[tuple[int, int, int, int, int] | None] = [None] * len(timeline)
        for span in self.spans(path):
            rows = self._cursor.execute(
                "SELECT first, last, mode, size, mtime_s, mtime_ns, digest FROM objects"
                " WHERE volume = ? AND number = ? AND first <= ? AND last >= ?",
                (self._volume, span.number, span.last, span.first),
            ).fetchall()
            for first, last, *state in rows:
                for position in timeline.positions(max(first, span.first), min(last, span.last)):
                    seen[position] = tuple(state)
        return self._runs(seen)

    def _runs(self, seen: list[tuple[int, int, int, int, int] | None]) -> tuple[tuple[Version, ...], Point | None]:
        timeline = self.timeline
        versions: list[Version] = []
        gone = None
        end = 0
        for state, run in groupby(seen):
            start, end = end, end + sum(1 for _ in run)
            if state is None:
                gone = timeline.point(start) if versions else None
                continue
            gone = None
            if timeline.asked.isdisjoint(range(start, end)):
                continue
            mode, size, mtime_s, mtime_ns, _digest = state
            mtime = None if stat.S_ISDIR(mode) else mtime_s * 1_000_000_000 + mtime_ns
            versions.append(Version(mode, size, mtime, timeline.point(start), timeline.point(end - 1), end - start))
        return tuple(versions), gone
