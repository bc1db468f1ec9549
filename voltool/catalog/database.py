"""A SQLite file with private contents: write-ahead log, synchronous FULL, short transactions; survives kill -9 and two voltools
at once. The catalog and the index of names stand on it.

Imports SQLAlchemy, so it is imported late. Knows nothing of what is in the tables.
Sources: https://sqlite.org/wal.html, https://sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from voltool.durable import make_directory
from voltool.errors import BusyError, SpaceError, VoltoolError

#: How long a transaction waits for another voltool's, in seconds.
BUSY_TIMEOUT = 30.0

_CORRUPT, _NOT_A_DATABASE, _FULL = "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FULL"
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED")


class DamagedError(VoltoolError):
    """The file is no database, or one that contradicts itself."""


class Database:
    """The file ``path``, made on first use with the directories above it (0700).

    ``what`` is how messages call it; ``remedy`` is what to try when it is damaged. What is done in `transaction` raises
    DamagedError, BusyError when another process keeps it locked for longer than ``patience`` seconds, SpaceError on a full
    disk, VoltoolError for all else that SQLite and the system say. ``synchronous`` NORMAL: a power cut may take the last
    transactions back; the file stays whole.
    """

    def __init__(
        self, path: str, what: str, remedy: str, patience: float = BUSY_TIMEOUT, synchronous: str = "FULL"
    ) -> None:
        self.path = path
        self.what = what
        self._remedy = remedy
        self._patience = patience
        self._synchronous = synchronous
        with self._translated():
            make_directory(os.path.dirname(path))
            # SQLite gives its -wal and -shm files the mode of the database: nobody else may read any of them.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.engine = sa.create_engine(sa.URL.create("sqlite", database=path))
            sa.event.listen(self.engine, "connect", self._prepare)
            sa.event.listen(self.engine, "begin", _begin)

    def close(self) -> None:
        """Close the file; idempotent."""
        self.engine.dispose()

    @contextlib.contextmanager
    def transaction(self, *, immediate: bool = False) -> Iterator[sa.Connection]:
        """One transaction. ``immediate`` takes the write lock first: upgrading later could fail half-way."""
        engine = self.engine.execution_options(immediate=True) if immediate else self.engine
        with self._translated(), engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def session(self) -> Iterator[sa.Connection]:
        """A connection for several transactions, which keeps its temporary tables between them."""
        with self._translated(), self.engine.connect() as connection:
            yield connection

    def damaged(self, why: str) -> DamagedError:
        """The error that says so."""
        return DamagedError(f"{self.what} is damaged", where=self.path, why=why, remedy=self._remedy)

    def _prepare(self, connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {int(self._patience * 1000)}")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        _switch_to_wal(connection, self._patience)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            raise self._own_error(error.orig) from None
        except sqlite3.Error as error:
            raise self._own_error(error) from None
        except OSError as error:
            remedy = "check the directory, or set VOLTOOL_STATE_DIR to another one"
            why = error.strerror or str(error)
            raise VoltoolError(f"{self.what} cannot be opened", where=self.path, why=why, remedy=remedy) from None

    def _own_error(self, error: BaseException | None) -> VoltoolError:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith((_CORRUPT, _NOT_A_DATABASE)):
            return self.damaged(str(error))
        if name.startswith(_BUSY):
            why = f"another voltool has kept it locked for {self._patience:.0f} s"
            return BusyError(f"{self.what} is in use", where=self.path, why=why, remedy="wait until it is done")
        if name.startswith(_FULL):
            return SpaceError(f"{self.what} cannot grow", where=self.path, why=str(error), remedy="make room there")
        remedy = "check the directory, or set VOLTOOL_STATE_DIR to another one"
        return VoltoolError(f"{self.what} cannot be used", where=self.path, why=str(error), remedy=remedy)


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _switch_to_wal(connection: Any, patience: float) -> None:
    """Write-ahead log for good. The switch itself does not wait for others (SQLite's busy handler is not called)."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(_BUSY) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
