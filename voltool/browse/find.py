"""`voltool find`: which dumps have which versions of which files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from voltool.backup.ports import World
from voltool.browse.history import EVERYTHING, Found, Timeline, VolumeHistory, Window
from voltool.browse.index import Comparison
from voltool.browse.learner import NameLearner
from voltool.browse.patterns import Pattern
from voltool.catalog.database import DamagedError
from voltool.errors import NotFoundError

#: So many paths are put in order at once where all are wanted.
_SORTED_AT_ONCE = 5000


@dataclass(frozen=True)
class Query:
    """What is looked for: in the volume called ``volume`` or in all; at most ``limit`` paths, 0 for all of them."""

    pattern: Pattern
    volume: str | None = None
    window: Window = EVERYTHING
    limit: int = 200


@dataclass(frozen=True)
class _Volume:
    """A volume that has dumps in the index; it may be gone from the catalog."""

    id: int
    uuid: str
    name: str


def find(world: World, learner: NameLearner, query: Query) -> Iterator[Found]:
    """The paths that match, in order within a volume: one more than ``limit`` where there are more.

    First the index takes in what it lacks. Raises NotFoundError for an unknown volume; DamagedError only if the index is
    damaged twice.
    """
    try:
        comparison = _catch_up(world, learner, query)
        found = _search(world, learner, query, comparison)
        first = next(found, None)
    except DamagedError:
        learner.replace_index()
        comparison = _catch_up(world, learner, query)
        found = _search(world, learner, query, comparison)
        first = next(found, None)
    if first is not None:
        yield first
        yield from found


def _catch_up(world: World, learner: NameLearner, query: Query) -> Comparison:
    """One volume where it is one of the catalog's; of another the name is only known by the dumps in the index."""
    named = [volume.uuid for volume in world.catalog.volumes() if volume.name == query.volume]
    return learner.catch_up(named[0] if named else None)


def _search(world: World, learner: NameLearner, query: Query, comparison: Comparison) -> Iterator[Found]:
    with learner.index.reading() as cursor:
        search = _Search(cursor, _volumes(world, cursor, query.volume), query, comparison.gone)
        found = search.paths()
        if query.limit:
            yield from sorted(islice(found, query.limit + 1), key=_order)
            return
        while chunk := sorted(islice(found, _SORTED_AT_ONCE), key=_order):
            yield from chunk


def _order(found: Found) -> tuple[str, list[bytes]]:
    return found.volume, found.path.split(b"/")


def _volumes(world: World, cursor: Any, name: str | None) -> dict[int, _Volume]:
    """The volumes to search. A volume that is known now wins over one that was called so."""
    known = {volume.uuid: volume.name for volume in world.catalog.volumes()}
    rows = cursor.execute("SELECT id, uuid, name FROM volumes").fetchall()
    volumes = [_Volume(number, uuid, known.get(uuid, last_name)) for number, uuid, last_name in rows]
    if name is None:
        return {volume.id: volume for volume in volumes}
    if name in known.values():
        return {volume.id: volume for volume in volumes if known.get(volume.uuid) == name}
    found = {volume.id: volume for volume in volumes if volume.name == name}
    if not found:
        raise NotFoundError(f"there is no volume {name!a}", remedy="voltool volume list")
    return found


class _Search:
    """One search in one state of the index."""

    def __init__(self, cursor: Any, volumes: dict[int, _Volume], query: Query, gone: dict[int, set[int]]) -> None:
        self._cursor = cursor
        self._volumes = volumes
        self._query = query
        self._gone = gone
        self._histories: dict[int, VolumeHistory] = {}

    def paths(self) -> Iterator[Found]:
        """All that match, as they are found: a path has one last name, so it can come twice only below one name."""
        for name_id, name in self._names():
            seen: set[tuple[int, bytes]] = set()
            for volume_id, directory, first, last in self._entries(name_id):
                if volume_id not in self._volumes:
                    continue
                history = self._history(volume_id)
                for path in history.paths(directory, name, first, last):
                    if (volume_id, path) in seen or not self._query.pattern.matches_path(path):
                        continue
                    seen.add((volume_id, path))
                    versions, gone = history.versions(path)
                    if versions:
                        yield Found(self._volumes[volume_id].name, path, versions, gone)

    def _names(self) -> Iterator[tuple[int, bytes]]:
        pattern = self._query.pattern
        where, values = "", ()  # type: tuple[str, tuple[object, ...]]
        if pattern.literal and pattern.ignore_case:
            escaped = pattern.literal.replace(b"\\", b"\\\\").replace(b"%", b"\\%").replace(b"_", b"\\_")
            where, values = " WHERE name LIKE ? ESCAPE '\\'", (f"%{escaped.decode()}%",)
        elif pattern.literal:
            where, values = " WHERE instr(name, ?)", (pattern.literal,)
        for number, name in _cursor_beside(self._cursor).execute(f"SELECT id, name FROM names{where}", values):  # noqa: S608
            if pattern.matches_name(name):
                yield number, name

    def _entries(self, name_id: int) -> Iterator[Sequence[int]]:
        query = "SELECT volume, directory, first, last FROM entries WHERE name = ?"
        if len(self._volumes) == 1:
            volume = next(iter(self._volumes))
            return iter(_cursor_beside(self._cursor).execute(query + " AND volume = ?", (name_id, volume)))
        return iter(_cursor_beside(self._cursor).execute(query, (name_id,)))

    def _history(self, volume: int) -> VolumeHistory:
        history = self._histories.get(volume)
        if history is None:
            rows = self._cursor.execute(
                "SELECT ordinal, time_ns, dump_id FROM dumps WHERE volume = ? ORDER BY sequence, time_ns", (volume,)
            ).fetchall()
            gone = self._gone.get(volume)
            if gone:
                rows = [row for row in rows if row[0] not in gone]
            history = VolumeHistory(self._cursor, volume, Timeline(rows, self._query.window))
            self._histories[volume] = history
        return history


def _cursor_beside(cursor: Any) -> Any:
    """Another cursor of the same connection, so that rows can be asked for while rows are read."""
    return cursor.connection.cursor()
