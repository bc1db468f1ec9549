"""Narrow questions about dumps, answered from indexes: what a catalog of half a million dumps must not be read through for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import sqlalchemy as sa

from voltool.catalog.rows import DumpDecoder
from voltool.catalog.schema import DUMPS, LISTED
from voltool.model import DumpHeader, StoredDump
from voltool.policy.due import DumpFact
from voltool.policy.latest import LatestDump

#: SQLite takes 32,766 values in one statement, older ones 999.
_MOST_VALUES = 500
#: Above every hex digit: the end of a range of ids that begin alike.
_AFTER_HEX = "g"
#: The character after ``/``.
_AFTER_SLASH = "0"


class DumpQueries(ABC):
    """What `SqliteCatalog` answers about many dumps at once; see `voltool.backup.ports.Catalog`."""

    @abstractmethod
    def _transaction(self, *, immediate: bool = False) -> AbstractContextManager[sa.Connection]: ...

    def latest(self) -> list[LatestDump]:
        """For each volume and level that has dumps the newest one, and the sums of all."""
        newest = (
            sa.select(
                DUMPS.c.volume_uuid,
                DUMPS.c.level,
                sa.func.max(DUMPS.c.sequence).label("sequence"),
                sa.func.count().label("dumps"),
                sa.func.sum(DUMPS.c.stored_bytes).label("all_stored_bytes"),
                sa.func.sum(DUMPS.c.data_bytes).label("all_data_bytes"),
            )
            .group_by(DUMPS.c.volume_uuid, DUMPS.c.level)
            .subquery()
        )
        keys = [newest.c[name] == DUMPS.c[name] for name in ("volume_uuid", "level", "sequence")]
        sums = (newest.c.dumps, newest.c.all_stored_bytes, newest.c.all_data_bytes)
        query = sa.select(*(DUMPS.c[name] for name in _LATEST), *sums).join_from(newest, DUMPS, sa.and_(*keys))
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(DUMPS.c.volume_uuid, DUMPS.c.level, DUMPS.c.clone_time_ns))
            found: list[tuple[Any, ...]] = [tuple(row) for row in rows]
        # Two dumps of one sequence (a clone that was dumped twice): the later one stands for both.
        return [LatestDump(*values) for values in {(values[0], values[2]): values for values in found}.values()]

    def newest_facts(self) -> list[tuple[str, str, str, DumpFact]]:
        """For each volume and level the newest dump: the volume's uuid, store, file and what the schedule must know of it.

        ``made_ns`` is the host's clock at its clone.
        """
        keys = ("volume_uuid", "level", "sequence")
        newest = (
            sa.select(DUMPS.c.volume_uuid, DUMPS.c.level, sa.func.max(DUMPS.c.sequence).label("sequence"))
            .group_by(DUMPS.c.volume_uuid, DUMPS.c.level)
            .subquery()
        )
        same = sa.and_(*(newest.c[name] == DUMPS.c[name] for name in keys))
        query = sa.select(*(DUMPS.c[name] for name in _FACT)).join_from(newest, DUMPS, same)
        with self._transaction() as connection:
            return [(uuid, store, file, DumpFact(*rest)) for uuid, store, file, *rest in connection.execute(query)]

    def newest_dumps(self, each: int) -> list[StoredDump]:
        """Of each volume the newest ``each`` dumps (highest sequences), ordered as `dumps` are."""
        of_volume = DUMPS.alias("of_volume")
        volumes = sa.select(DUMPS.c.volume_uuid).distinct().subquery()
        ids = (
            sa.select(of_volume.c.dump_id)
            .where(of_volume.c.volume_uuid == volumes.c.volume_uuid)
            .order_by(of_volume.c.sequence.desc(), of_volume.c.clone_time_ns.desc())
            .limit(each)
            .scalar_subquery()
            .correlate(volumes)
        )
        query = sa.select(DUMPS).join_from(volumes, DUMPS, DUMPS.c.dump_id.in_(ids))
        with self._transaction() as connection:
            decoder = DumpDecoder()
            return in_order([decoder.dump(row) for row in connection.execute(query)])

    def stored_over_time(self, points: int, volume_uuid: str | None = None) -> list[tuple[str, int, int]]:
        """By volume (or of one), and within it by time: the bytes of the dumps of each of ``points`` equal spans of the time that
        all these dumps cover, with the end of the span (ns). Spans without dumps are left out."""
        is_meant = DUMPS.c.volume_uuid == volume_uuid if volume_uuid is not None else sa.true()
        ends = sa.select(sa.func.min(DUMPS.c.clone_time_ns), sa.func.max(DUMPS.c.clone_time_ns)).where(is_meant)
        with self._transaction() as connection:
            first, last = connection.execute(ends).one()
            if first is None:
                return []
            width = (last - first) // points + 1
            span = ((DUMPS.c.clone_time_ns - first) // width).label("span")
            query = (
                sa.select(DUMPS.c.volume_uuid, span, sa.func.sum(DUMPS.c.stored_bytes))
                .where(is_meant)
                .group_by(DUMPS.c.volume_uuid, span)
                .order_by(DUMPS.c.volume_uuid, span)
            )
            rows = connection.execute(query)
            return [(uuid, min(last, first + (number + 1) * width), stored) for uuid, number, stored in rows]

    def dumps_by_prefix(self, prefix: str, most: int) -> list[StoredDump]:
        """The dumps whose id begins with ``prefix`` (lower-case hex digits), at the most ``most`` of them."""
        query = sa.select(DUMPS).where(DUMPS.c.dump_id >= prefix, DUMPS.c.dump_id < prefix + _AFTER_HEX)
        return self._some_dumps(query.order_by(DUMPS.c.dump_id).limit(most))

    def dumps_named(self, name: str) -> list[StoredDump]:
        """The dumps of volumes that were called ``name`` when they were dumped."""
        return in_order(self._some_dumps(sa.select(DUMPS).where(DUMPS.c.volume_name == name)))

    def dump_count(self, store: str | None = None) -> int:
        """How many dumps there are, or in the store ``store``."""
        query = sa.select(sa.func.count()).select_from(DUMPS)
        if store is not None:
            query = query.where(DUMPS.c.store == store)
        with self._transaction() as connection:
            return int(connection.execute(query).scalar_one())

    def volume_count(self) -> int:
        """How many volumes have dumps."""
        volumes = sa.select(DUMPS.c.volume_uuid).distinct().subquery()
        with self._transaction() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(volumes)).scalar_one())

    def stores_of(self, volume_uuid: str | None = None) -> list[str]:
        """The stores that dumps (of the volume) are known in."""
        if volume_uuid is not None:
            query = sa.select(DUMPS.c.store).where(DUMPS.c.volume_uuid == volume_uuid).distinct()
            with self._transaction() as connection:
                return [row.store for row in connection.execute(query.order_by(DUMPS.c.store))]
        found: list[str] = []
        with self._transaction() as connection:  # from one store to the next, not through all dumps of each
            while True:
                query = sa.select(sa.func.min(DUMPS.c.store)).where(DUMPS.c.store > (found[-1] if found else ""))
                url = connection.execute(query).scalar()
                if url is None:
                    return found
                found.append(url)

    def files_in(self, store: str, directory: str) -> dict[str, str]:
        """The files of known dumps in a top-level directory of a store, and the dumps' ids."""
        first, after = f"{directory}/", f"{directory}{_AFTER_SLASH}"
        query = sa.select(DUMPS.c.file, DUMPS.c.dump_id).where(
            DUMPS.c.store == store, DUMPS.c.file >= first, DUMPS.c.file < after
        )
        with self._transaction() as connection:
            return {row.file: row.dump_id for row in connection.execute(query)}

    def directories_of(self, store: str) -> list[str]:
        """The top-level directories of a store that dumps are known in."""
        with self._transaction() as connection:
            rows = connection.execute(_DIRECTORIES, {"store": store})
            return [row.file.partition("/")[0] for row in rows if "/" in row.file]

    def bases_of(self, dumps: Iterable[StoredDump]) -> dict[str, str]:
        """For each of ``dumps`` that has a base that is known: the ids of the two. See `policy.chain.Lineage`."""
        wanted = [dump for dump in dumps if dump.header.base_state_id is not None]
        known = self.known_ids(dump.header.base_dump_id for dump in wanted if dump.header.base_dump_id is not None)
        found = {}
        for dump in wanted:
            base = dump.header.base_dump_id
            if base not in known:
                base = self._of_state(dump)
            if base is not None:
                found[dump.header.dump_id] = base
        return found

    def _of_state(self, dump: StoredDump) -> str | None:
        """Another dump of the state that ``dump`` is a difference to, such as a synthetic full."""
        header = dump.header
        query = sa.select(DUMPS.c.dump_id).where(
            DUMPS.c.volume_uuid == header.volume_uuid,
            DUMPS.c.store == dump.store,
            DUMPS.c.state_id == header.base_state_id,
            DUMPS.c.dump_id != header.dump_id,
        )
        with self._transaction() as connection:
            return connection.execute(query.limit(1)).scalar()

    def known_ids(self, ids: Iterable[str]) -> set[str]:
        """Those of ``ids`` that are ids of known dumps."""
        found: set[str] = set()
        with self._transaction() as connection:
            for some in _in_parts(ids):
                query = sa.select(DUMPS.c.dump_id).where(DUMPS.c.dump_id.in_(some))
                found.update(row.dump_id for row in connection.execute(query))
        return found

    def listed(self, store: str) -> dict[str, int]:
        """The directories of a store that need not be listed again while their modification time (ns) is this."""
        query = sa.select(LISTED.c.directory, LISTED.c.mtime_ns).where(LISTED.c.store == store)
        with self._transaction() as connection:
            return {row.directory: row.mtime_ns for row in connection.execute(query)}

    def put_listed(self, store: str, directories: Mapping[str, int | None]) -> None:
        """Remember (None: forget) when directories of a store were last changed before they were listed."""
        if not directories:
            return
        is_one = sa.and_(LISTED.c.store == store, LISTED.c.directory == sa.bindparam("which"))
        values = [
            {"store": store, "directory": directory, "mtime_ns": mtime_ns}
            for directory, mtime_ns in directories.items()
            if mtime_ns is not None
        ]
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(LISTED).where(is_one), [{"which": directory} for directory in directories])
            if values:
                connection.execute(sa.insert(LISTED), values)

    def _some_dumps(self, query: sa.Select[tuple[object, ...]]) -> list[StoredDump]:
        with self._transaction() as connection:
            decoder = DumpDecoder()
            return [decoder.dump(row) for row in connection.execute(query)]


#: From the first file of one directory to the first of the next: as many steps as there are directories.
_DIRECTORIES = sa.text("""
    WITH RECURSIVE first (file) AS (
        SELECT min(file) FROM dumps WHERE store = :store
        UNION ALL
        SELECT (SELECT min(file) FROM dumps WHERE store = :store AND file >=
            CASE instr(first.file, '/') WHEN 0 THEN first.file || ' '
            ELSE substr(first.file, 1, instr(first.file, '/') - 1) || '0' END)
        FROM first WHERE first.file IS NOT NULL)
    SELECT file FROM first WHERE file IS NOT NULL""")

#: The volume's uuid, store, file; then the fields of `DumpFact`.
_FACT = (
    "volume_uuid", "store", "file", "dump_id", "level", "sequence", "clone_time_ns", "state_id", "base_state_id",
)  # fmt: skip
_LATEST = (
    "volume_uuid", "volume_name", "level", "dump_id", "sequence", "clone_time_ns", "store", "entries", "stored_bytes",
    "data_bytes", "seconds", "problem_count",
)  # fmt: skip


def in_order(dumps: Iterable[StoredDump]) -> list[StoredDump]:
    """Oldest first: by sequence within a volume, volumes by their oldest dump."""
    found = list(dumps)
    oldest: dict[str, tuple[int, int]] = {}
    for dump in found:
        header = dump.header
        first = (header.sequence, header.clone_time_ns)
        oldest[header.volume_uuid] = min(first, oldest.get(header.volume_uuid, first))
    found.sort(key=lambda dump: _place(dump.header, oldest))
    return found


def _place(header: DumpHeader, oldest: dict[str, tuple[int, int]]) -> tuple[int, str, int, int]:
    return oldest[header.volume_uuid][1], header.volume_uuid, header.sequence, header.clone_time_ns


def _in_parts(values: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(values)
    while some := list(islice(remaining, _MOST_VALUES)):
        yield some
