"""Paths and versions out of the index's rows. Knows SQL; nothing of patterns or of how results are shown.

A path is put together only for names that matched, by following directories upwards; what it was in which dump, by following it
down again. Hostile rows (loops, absurd depth, a directory in two places) cost a bounded number of steps and lead to no path.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from voltool.browse.index_schema import OPEN
from voltool.model import ROOT_OBJECT

#: Deeper, or longer than so many bytes, no path is put together.
MAX_DEPTH = 4096
MAX_PATH = 1 << 16
#: Bytes and paths that are remembered, roughly.
_KEPT_BYTES = 16 << 20
_KEPT_DEPTH = 64


@dataclass(frozen=True)
class Point:
    """A dump, as a point in time."""

    dump_id: str
    time_ns: int


@dataclass(frozen=True)
class Version:
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
        length, first, last = 0, 0, OPEN
        place = self._known_place(directory, ordinal)
        while place is None:
            row = self._cursor.execute(
                "SELECT e.directory, n.name, e.first, e.last FROM entries e JOIN names n ON n.id = e.name"
                " WHERE e.volume = ? AND e.child = ? AND e.is_directory AND ? BETWEEN e.first AND e.last LIMIT 1",
                (self._volume, directory, ordinal),
            ).fetchone()
            if row is None:
                return None
            climbed.append((directory, row[2], row[3], row[1] + b"/"))
            length += len(row[1]) + 1
            if len(climbed) > MAX_DEPTH or length > MAX_PATH:
                return None
            directory = row[0]
            place = self._known_place(directory, ordinal)
        path, first, last = place.path, place.first, place.last
        for depth, (number, row_first, row_last, name) in enumerate(reversed(climbed), 1):
            path, first, last = path + name, max(first, row_first), min(last, row_last)
            place = _Place(first, last, path)
            if depth <= _KEPT_DEPTH or depth == len(climbed):
                self._keep(len(path))
                self._places.setdefault(number, []).append(place)
        return place

    def _known_place(self, directory: int, ordinal: int) -> _Place | None:
        if directory == ROOT_OBJECT:
            return _Place(0, OPEN, b"")
        return next((place for place in self._places.get(directory, ()) if place.first <= ordinal <= place.last), None)

    def _keep(self, size: int) -> None:
        self._kept += size + 100
        if self._kept > _KEPT_BYTES:
            self._kept = 0
            self._places.clear()
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
        for state, run in groupby(range(len(seen)), seen.__getitem__):
            positions = list(run)
            if state is None:
                gone = timeline.point(positions[0]) if versions else None
                continue
            gone = None
            if timeline.asked.isdisjoint(positions):
                continue
            mode, size, mtime_s, mtime_ns, _digest = state
            versions.append(
                Version(
                    mode=mode,
                    size=size,
                    mtime_ns=None if mode & 0o170000 == 0o040000 else mtime_s * 1_000_000_000 + mtime_ns,
                    first=timeline.point(positions[0]),
                    last=timeline.point(positions[-1]),
                    dumps=len(positions),
                )
            )
        return tuple(versions), gone
