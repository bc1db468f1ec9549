"""The index of names: which dumps have which names, in one SQLite file beside the catalog. Never the only place of a fact.

Whatever is wrong with the file, it is thrown away and made anew out of the stores. Two voltools may use it at once: SQLite's
locks order what they write, and who throws the file away is alone with it (`_Claim`). Imports SQLAlchemy, so it is imported late.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from voltool.browse.index_filling import Records, apply, load
from voltool.browse.index_schema import OPEN, TABLES, VERSION
from voltool.catalog.database import DamagedError, Database
from voltool.durable import make_directory
from voltool.errors import BusyError, IntegrityError, VoltoolError
from voltool.model import DumpHeader, StoredDump

_WHAT = "the index of names"
#: How long one waits for another's dump to be written into it, in seconds: a dump of millions of names takes its time.
_PATIENCE = 600.0
#: How long one waits for the others to close a damaged one.
_CLOSING_PATIENCE = 10.0
#: Rows of dumps that are gone are removed when they are more than one in so many.
_SWEEP_SHARE = 16
#: Both look into the keys of the two tables of dumps alone, not into their rows. `main.` is needed: where another voltool has
#: just made the table, `dumps` alone would be the catalog's.
_UNLEARNED = (
    "FROM remembered.dumps WHERE rowid IN (SELECT c.rowid FROM remembered.dumps c"
    " WHERE NOT EXISTS (SELECT 1 FROM main.dumps d WHERE d.dump_id = c.dump_id)"
)
_GONE = "FROM main.dumps d WHERE NOT EXISTS (SELECT 1 FROM remembered.dumps c WHERE c.dump_id = d.dump_id)"
#: The newest state is what the next dump is compared with: its rows are open, and stay, also when their dump is gone.
_UNUSED = (
    "t.last <> :open AND NOT EXISTS"
    " (SELECT 1 FROM dumps d WHERE d.volume = t.volume AND d.ordinal BETWEEN t.first AND t.last)"
)
OpenRecords = Callable[[], AbstractContextManager[Records]]


@dataclass(frozen=True)
class Comparison:
    """``unlearned``: uuids of the volumes with dumps that the index lacks; ``gone``: ordinals, by volume of the index, of dumps
    that the catalog does not know (any more)."""

    unlearned: tuple[str, ...]
    gone: dict[int, set[int]]


class NameIndex:
    """The index in the file ``path``, beside the catalog in ``catalog_path``; made where it is missing, too old or damaged.

    Damage that shows later raises DamagedError: `replace`, and begin again.
    """

    def __init__(self, path: str, catalog_path: str) -> None:
        self.path = path
        self._catalog_path = catalog_path
        self._claim = _Claim(path + ".lock")
        self._database = self._opened()

    def close(self) -> None:
        """Idempotent."""
        self._database.close()
        self._claim.close()

    def replace(self) -> None:
        """Throw the file away and begin an empty one; BusyError while others have it open for long."""
        self._database.close()
        seen = _identity(self.path)
        with self._claim.alone():
            if _identity(self.path) == seen:  # else another voltool has done it meanwhile
                for suffix in ("-wal", "-shm", "-journal", ""):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self.path + suffix)
        self._database = self._opened(again=False)

    def _opened(self, *, again: bool = True) -> Database:
        database = Database(self.path, _WHAT, f"rm {self.path}; it is made anew", _PATIENCE, "NORMAL")
        try:
            with database.transaction(immediate=True) as connection:
                version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                if version == 0 and not connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one():
                    for statement in TABLES:
                        connection.exec_driver_sql(statement)
                elif version != VERSION:
                    raise database.damaged(f"it is of version {version}, and this voltool makes version {VERSION}")
        except DamagedError:
            database.close()
            if not again:
                raise
            self._database = database
            self.replace()
            return self._database
        return database

    # ---------------------------------------------------------------------------------------------------- learning

    def knows(self, dump_id: str) -> bool:
        """Whether the dump is in it."""
        with self._database.transaction() as connection:
            row = connection.exec_driver_sql("SELECT 1 FROM dumps WHERE dump_id = ?", (dump_id,))
            return row.first() is not None

    def learn(self, dump: StoredDump, open_records: OpenRecords) -> None:
        """Take a dump in; its base must be in it. Atomic, idempotent. ``open_records`` is only called where they are needed.

        Raises IntegrityError for a dump that is malformed or whose base is not here.
        """
        if self.knows(dump.header.dump_id):
            return
        with self._database.session() as connection:
            with (
                connection.begin()
            ):  # nothing is locked while the dump is read: temporary tables are this connection's own
                cursor = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
                same = _find_state(cursor, dump.header.volume_uuid, dump.totals.state_id)
                if same is not None:
                    load(cursor, None)
                else:
                    with open_records() as records:
                        load(cursor, records)
            connection.execution_options(immediate=True)
            with connection.begin():
                _take_in(cursor, dump, was_read=same is None)

    # ------------------------------------------------------------------------------------- compared with the catalog

    def compare(self, volume_uuid: str | None = None) -> Comparison:
        """What the catalog knows of all volumes, or of one, against what is in here."""
        of_catalog, of_index, values = "", "", {"uuid": volume_uuid}
        if volume_uuid is not None:
            of_catalog = " AND c.volume_uuid = :uuid"
            of_index = " AND d.volume = (SELECT id FROM main.volumes WHERE uuid = :uuid)"
        unlearned = self._beside_catalog(f"SELECT DISTINCT volume_uuid {_UNLEARNED}{of_catalog})", values)
        gone: dict[int, set[int]] = {}
        if unlearned or volume_uuid is not None or not self._has_as_many():
            for volume, ordinal in self._beside_catalog(f"SELECT volume, ordinal {_GONE}{of_index}", values):
                gone.setdefault(volume, set()).add(ordinal)
        return Comparison(tuple(row[0] for row in unlearned), gone)

    def _has_as_many(self) -> bool:
        counts = "SELECT (SELECT count(*) FROM main.dumps) = (SELECT count(*) FROM remembered.dumps)"
        return bool(self._beside_catalog(counts, {})[0][0])

    def _beside_catalog(self, query: str, values: dict[str, str | None]) -> list[Any]:
        with self._database.session() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute("ATTACH DATABASE ? AS remembered", (self._catalog_path,))
            try:
                return list(raw.execute(query, values).fetchall())
            finally:
                raw.execute("DETACH DATABASE remembered")

    def sweep(self, gone: dict[int, set[int]]) -> None:
        """Forget dumps that are gone, volume by volume, where they are so many that it pays; what no other dump has goes too."""
        for volume, ordinals in gone.items():
            with self._database.transaction(immediate=True) as connection:
                raw: Any = connection.connection.driver_connection
                known = raw.execute("SELECT count(*) FROM dumps WHERE volume = ?", (volume,)).fetchone()[0]
                if len(ordinals) * _SWEEP_SHARE >= known:
                    _forget(raw, volume, ordinals)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """A cursor in one transaction: everything it is asked is as at one moment."""
        with self._database.transaction() as connection:
            yield connection.connection.driver_connection.cursor()  # type: ignore[union-attr]


def _take_in(cursor: Any, dump: StoredDump, *, was_read: bool) -> None:
    """What was loaded becomes the next ordinal of the volume; the write lock is held. ``was_read``: its records were loaded;
    else the state was known, and nothing was."""
    header = dump.header
    if cursor.execute("SELECT 1 FROM dumps WHERE dump_id = ?", (header.dump_id,)).fetchone():
        return
    cursor.execute(
        "INSERT OR IGNORE INTO volumes (uuid, name, newest, state) VALUES (?, ?, 0, '')",
        (header.volume_uuid, header.volume_name),
    )
    volume, newest, state = cursor.execute(
        "SELECT id, newest, state FROM volumes WHERE uuid = ?", (header.volume_uuid,)
    ).fetchone()
    if state != dump.totals.state_id:
        apply(cursor, volume, newest, _base_of(cursor, dump, was_read=was_read))
    cursor.execute(
        "INSERT INTO dumps VALUES (?, ?, ?, ?, ?, ?)",
        (header.dump_id, volume, newest + 1, header.sequence, header.clone_time_ns, dump.totals.state_id),
    )
    cursor.execute(
        "UPDATE volumes SET newest = ?, state = ?, name = ? WHERE id = ?",
        (newest + 1, dump.totals.state_id, header.volume_name, volume),
    )


def _base_of(cursor: Any, dump: StoredDump, *, was_read: bool) -> int | None:
    """The ordinal that what was loaded is a difference to; None: it is complete."""
    header = dump.header
    if was_read and header.base_state_id is None:
        return None
    state = dump.totals.state_id if not was_read else header.base_state_id or ""
    base = _find_state(cursor, header.volume_uuid, state)
    if base is None:
        raise _baseless(header)
    return base


def _baseless(header: DumpHeader) -> IntegrityError:
    return IntegrityError(
        f"the names of the dump {header.dump_id[:12]} cannot be told without its base",
        why=f"no dump of the state {(header.base_state_id or '')[:12]} is known",
        remedy="bring the base back into its store",
    )


def _find_state(cursor: Any, volume_uuid: str, state: str) -> int | None:
    row = cursor.execute(
        "SELECT max(d.ordinal) FROM dumps d JOIN volumes v ON v.id = d.volume WHERE v.uuid = ? AND d.state = ?",
        (volume_uuid, state),
    ).fetchone()
    return None if row[0] is None else int(row[0])


def _forget(raw: Any, volume: int, ordinals: set[int]) -> None:
    raw.executemany("DELETE FROM dumps WHERE volume = ? AND ordinal = ?", [(volume, ordinal) for ordinal in ordinals])
    unused, values = _UNUSED, {"volume": volume, "open": OPEN}
    if not raw.execute("SELECT 1 FROM dumps WHERE volume = ?", (volume,)).fetchone():
        raw.execute("DELETE FROM volumes WHERE id = ?", (volume,))
        unused = "true"
    removed = 0
    for table in ("entries", "objects"):
        done = raw.execute(f"DELETE FROM {table} AS t WHERE t.volume = :volume AND {unused}", values)  # noqa: S608
        removed += done.rowcount
    raw.execute("UPDATE removals SET rows = rows + ?", (removed,))
    # To look at all names takes long: only when many of them may be unused.
    if raw.execute("SELECT rows > (SELECT count(*) FROM names) / 4 FROM removals").fetchone()[0]:
        raw.execute("DELETE FROM names WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.name = names.id)")
        raw.execute("UPDATE removals SET rows = 0")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _Claim:
    """Everybody who has the index open shares a lock on a file beside it; who replaces the index has it alone.

    Without that, one voltool could go on in the journal of a file that another one has removed.
    """

    def __init__(self, path: str) -> None:
        make_directory(os.path.dirname(path))
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise VoltoolError(f"{_WHAT} cannot be opened", where=path, why=error.strerror or str(error)) from None
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else has it open while the context lasts; then it is shared again."""
        deadline = time.monotonic() + _CLOSING_PATIENCE
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    fcntl.flock(self._descriptor, fcntl.LOCK_SH)
                    why = "it is damaged, and another voltool still has it open"
                    raise BusyError(f"{_WHAT} is in use", why=why, remedy="again when that is done") from None
                time.sleep(0.05)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
