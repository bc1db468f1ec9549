"""A damaged catalog is put aside, never deleted: what is in it and in no store (the history of runs) may be wanted some day."""

from __future__ import annotations

import os
import time

from voltool.catalog.database import DamagedError
from voltool.catalog.sqlite import SqliteCatalog
from voltool.durable import fsync_directory, rename_new

#: SQLite's own, beside the database. They go first: a log that stays behind would be played into the next catalog.
_BESIDE = ("-wal", "-shm")


def put_aside_if_damaged(path: str) -> str | None:
    """Check the catalog at ``path``. Where it is damaged rename it, and say to what; None where it is sound, or not there.

    Raises BusyError, SpaceError, VoltoolError where that cannot be told.
    """
    if not os.path.lexists(path):
        return None
    try:
        catalog = SqliteCatalog(path)
        try:
            catalog.check()
        finally:
            catalog.close()
    except DamagedError:
        return _put_aside(path)
    return None


def _put_aside(path: str) -> str:
    aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
    for ending in _BESIDE:
        if os.path.lexists(path + ending):
            rename_new(path + ending, aside + ending)
    rename_new(path, aside)
    fsync_directory(os.path.dirname(path))
    return aside
