"""The catalog on SQLite: write-ahead log, synchronous FULL, short transactions; survives kill -9 and two voltools at once.

Implements `voltool.backup.ports.Catalog`, which it must not import. Imports SQLAlchemy, so it is imported late.
Sources: https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from voltool.catalog.memories import Memories
from voltool.catalog.queries import DumpQueries, in_order
from voltool.catalog.rows import values_of
from voltool.catalog.schema import ACCEPTED, DUMPS, MIGRATIONS, RUNS, VOLUMES
from voltool.durable import make_directory
from voltool.errors import AgentError, BusyError, NotFoundError, RefusedError, SpaceError, UsageError, VoltoolError
from voltool.machine import Machine
from voltool.model import KnownVolume, StoredDump
from voltool.policy.runs import VolumeRun
from voltool.showing import shown
from voltool.wire import codec

#: How long a transaction waits for another voltool's, in seconds.
BUSY_TIMEOUT = 30.0

_CORRUPT, _NOT_A_DATABASE, _FULL = "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FULL"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")
_LOCAL = "local"
_UNKNOWN = Machine()


class DamagedCatalogError(VoltoolError):
    """The file is no catalog any more, or parts of it are lost."""


class SqliteCatalog(DumpQueries, Memories):
    """The catalog in the file ``path``, made on first use with the directories above it (0700).

    ``machine`` is the one we run on: a volume that is `local` to another one is not reached from here.

    Every method is one transaction and raises VoltoolError when the file is damaged, BusyError when another process
    keeps it locked for longer than `BUSY_TIMEOUT`, SpaceError on a full disk.
    """

    def __init__(self, path: str, machine: Machine = _UNKNOWN) -> None:
        self.path = path
        self._machine = machine
        with self._translated():
            make_directory(os.path.dirname(path))
            # SQLite gives its -wal and -shm files the mode of the database: nobody else may read any of them.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._engine = sa.create_engine(sa.URL.create("sqlite", database=path))
            sa.event.listen(self._engine, "connect", self._prepare)
            sa.event.listen(self._engine, "begin", _begin)
            self._migrate()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._engine.dispose()

    def volume(self, name: str) -> KnownVolume:
        """The volume called ``name``.

        Raises NotFoundError with the names that are known, RefusedError where it is `local` to another machine.
        """
        known = self.volumes()
        for volume in known:
            if volume.name == name:
                if self.is_elsewhere(volume):
                    raise _elsewhere(volume, self._machine)
                return volume
        names = ", ".join(volume.name for volume in known)
        remedy = f"one of: {names}" if names else f"voltool volume add {name} HOST:/path"
        raise NotFoundError(f"there is no volume {name!a}", remedy=remedy)

    def is_elsewhere(self, volume: KnownVolume) -> bool:
        """Whether the volume is `local`, but to another machine than this one: then the catalog was copied here."""
        return volume.host == _LOCAL and Machine(volume.hostname, volume.machine_id).is_other_than(self._machine)

    def volumes(self) -> list[KnownVolume]:
        """All, by name."""
        with self._transaction() as connection:
            return [_volume_from(row) for row in connection.execute(sa.select(VOLUMES).order_by(VOLUMES.c.name))]

    def put_volume(self, volume: KnownVolume) -> None:
        """Insert or replace by uuid; UsageError when another volume has the name."""
        values = {
            "uuid": volume.uuid,
            "name": volume.name,
            "host": volume.host,
            "path": volume.path,
            "driver": volume.driver,
            "excludes": json.dumps([b64encode(glob).decode() for glob in volume.excludes]),
            "hostname": volume.hostname,
            "machine_id": volume.machine_id,
        }
        with self._transaction(immediate=True) as connection:
            other = connection.execute(sa.select(VOLUMES.c.uuid).where(VOLUMES.c.name == volume.name)).scalar()
            if other not in (None, volume.uuid):
                raise UsageError(f"another volume is called {volume.name}", remedy="another name")
            connection.execute(sa.delete(VOLUMES).where(VOLUMES.c.uuid == volume.uuid))
            connection.execute(sa.insert(VOLUMES), values)

    def remove_volume(self, uuid: str) -> None:
        """Forget it; its dumps stay known. Idempotent."""
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(VOLUMES).where(VOLUMES.c.uuid == uuid))

    def add_dump(self, dump: StoredDump) -> None:
        """Remember a published dump; idempotent (the later call wins)."""
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(DUMPS).where(DUMPS.c.dump_id == dump.header.dump_id))
            connection.execute(sa.insert(DUMPS), values_of(dump))

    def remove_dump(self, dump_id: str) -> None:
        """Forget it; idempotent."""
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(DUMPS).where(DUMPS.c.dump_id == dump_id))

    def dumps(self, volume_uuid: str | None = None) -> list[StoredDump]:
        """Oldest first: by sequence within a volume, volumes by their oldest dump."""
        query = sa.select(DUMPS)
        if volume_uuid is not None:
            query = query.where(DUMPS.c.volume_uuid == volume_uuid)
        return in_order(self._some_dumps(query))

    def add_run(self, run: VolumeRun) -> None:
        """Remember a volume's turn in a run; idempotent (the later call wins)."""
        values = {
            "run_id": run.run_id,
            "volume": run.volume,
            "volume_uuid": run.volume_uuid,
            "ended_ns": run.ended_ns,
            "body": json.dumps(codec.to_plain(run), separators=(",", ":")),
        }
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(RUNS).where(sa.and_(RUNS.c.run_id == run.run_id, RUNS.c.volume == run.volume)))
            connection.execute(sa.insert(RUNS), values)

    def runs(self, volume_uuid: str | None = None, since_ns: int = 0) -> list[VolumeRun]:
        """The turns that ended at ``since_ns`` or later, oldest first."""
        query = sa.select(RUNS.c.body).where(RUNS.c.ended_ns >= since_ns).order_by(RUNS.c.ended_ns)
        if volume_uuid is not None:
            query = query.where(RUNS.c.volume_uuid == volume_uuid)
        with self._transaction() as connection:
            return [codec.from_plain(VolumeRun, json.loads(row.body)) for row in connection.execute(query)]

    def last_runs(self, until_ns: int) -> list[VolumeRun]:
        """Of each volume that is known the last turn that ended at ``until_ns`` or before."""
        of_known = sa.and_(RUNS.c.volume_uuid != "", RUNS.c.ended_ns <= until_ns)
        last = (
            sa.select(RUNS.c.volume_uuid, sa.func.max(RUNS.c.ended_ns).label("ended_ns"))
            .where(of_known)
            .group_by(RUNS.c.volume_uuid)
            .subquery()
        )
        is_last = sa.and_(RUNS.c.volume_uuid == last.c.volume_uuid, RUNS.c.ended_ns == last.c.ended_ns)
        query = sa.select(RUNS.c.body).join_from(RUNS, last, is_last)
        with self._transaction() as connection:
            return [codec.from_plain(VolumeRun, json.loads(row.body)) for row in connection.execute(query)]

    def accept_dump(self, dump_id: str) -> None:
        """Remember that a suspicious dump is as it should be; idempotent."""
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(ACCEPTED).where(ACCEPTED.c.dump_id == dump_id))
            connection.execute(sa.insert(ACCEPTED), {"dump_id": dump_id})

    def accepted(self) -> frozenset[str]:
        """The ids of the dumps that were accepted."""
        with self._transaction() as connection:
            return frozenset(row.dump_id for row in connection.execute(sa.select(ACCEPTED.c.dump_id)))

    def identity(self) -> str:
        """What tells this catalog from one that was made anew in its place: the moment it was made."""
        with self._transaction() as connection:
            return str(connection.exec_driver_sql("SELECT applied_ns FROM migrations WHERE version = 1").scalar_one())

    def check(self) -> None:
        """Read all of it; DamagedCatalogError where something is lost."""
        with self._transaction() as connection:
            answer = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if answer != "ok":
                raise self._damaged(str(answer))
        self.volumes(), self.dumps(), self.runs(), self.accepted()

    def _migrate(self) -> None:
        with self._transaction(immediate=True) as connection:
            connection.exec_driver_sql(
                "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied_ns INTEGER NOT NULL)"
            )
            version = connection.exec_driver_sql("SELECT coalesce(max(version), 0) FROM migrations").scalar_one()
            if version > len(MIGRATIONS):
                why = f"it has version {version}, this voltool knows up to {len(MIGRATIONS)}"
                raise VoltoolError(
                    "the catalog was made by a newer voltool",
                    where=self.path,
                    why=why,
                    remedy="that voltool or a newer",
                )
            for number, statements in enumerate(MIGRATIONS[version:], version + 1):
                for statement in statements:
                    connection.exec_driver_sql(statement)
                connection.exec_driver_sql("INSERT INTO migrations VALUES (?, ?)", (number, time.time_ns()))

    @contextlib.contextmanager
    def _transaction(self, *, immediate: bool = False) -> Iterator[sa.Connection]:
        """One transaction. ``immediate`` takes the write lock first: upgrading later could fail half-way."""
        engine = self._engine.execution_options(immediate=True) if immediate else self._engine
        with self._translated(), engine.begin() as connection:
            yield connection

    def _prepare(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        connection.execute("PRAGMA synchronous = FULL")
        _switch_to_wal(connection)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self._own_error(error.orig) from None
        except (json.JSONDecodeError, AgentError) as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            remedy = "check the directory, or set VOLTOOL_STATE_DIR to another one"
            why = error.strerror or str(error)
            raise VoltoolError("the catalog cannot be opened", where=self.path, why=why, remedy=remedy) from None

    def _own_error(self, error: BaseException | None) -> VoltoolError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith((_CORRUPT, _NOT_A_DATABASE)):
            return self._damaged(str(error))
        if name.startswith(_BUSY):
            why = f"another voltool has kept it locked for {BUSY_TIMEOUT:.0f} s"
            return BusyError("the catalog is in use", where=self.path, why=why, remedy="wait until it is done")
        if name.startswith(_FULL):
            return SpaceError("the catalog cannot grow", where=self.path, why=str(error), remedy="make room there")
        remedy = "check the directory, or set VOLTOOL_STATE_DIR to another one"
        return VoltoolError("the catalog cannot be used", where=self.path, why=str(error), remedy=remedy)

    def _damaged(self, why: str) -> VoltoolError:
        return DamagedCatalogError(
            "the catalog is damaged",
            where=self.path,
            why=why,
            remedy="voltool catalog rebuild --store URL: it puts the file aside and gets everything back from stores and hosts",
        )


def _volume_from(row: Any) -> KnownVolume:
    excludes = tuple(b64decode(glob) for glob in json.loads(row.excludes))
    return KnownVolume(
        row.uuid, row.name, row.host, bytes(row.path), row.driver, excludes, row.hostname, row.machine_id
    )


def _elsewhere(volume: KnownVolume, machine: Machine) -> RefusedError:
    return RefusedError(
        f"the volume {volume.name} is local to another machine",
        where=f"local:{shown(volume.path)}",
        why=f"it was added on {volume.hostname or volume.machine_id}, and this is {machine.hostname or machine.machine_id}",
        remedy=f"voltool volume set {volume.name} --host HOST, with the name by which that machine is reached from here"
        " (--host local if the volume's disk is in this machine now)",
    )


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _switch_to_wal(connection: Any) -> None:
    """Write-ahead log for good. The switch itself does not wait for others (SQLite's busy handler is not called)."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_BUSY) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
