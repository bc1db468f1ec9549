"""A copy of the catalog to work with where its own disk is full, for what needs it only to read: to make room, to look.

SQLite cannot even open a catalog there, since its log needs room. What is written into the copy is lost with it; the catalog is
never the only place of a fact, and learns of the stores' dumps when there is room again. Imports SQLAlchemy: imported late.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from voltool.catalog.sqlite import SqliteCatalog
from voltool.machine import Machine

#: Directories in memory come first: the temporary directory may lie on the very disk that is full.
_PLACES = ("/dev/shm", "/run", tempfile.gettempdir())  # noqa: S108 - a directory of our own, 0700, is made in it
#: A disk with less free than this (bytes) is full for SQLite.
_ROOM = 1 << 20


def is_full(path: str) -> bool:
    """Whether the file system of the existing file ``path`` has no room."""
    try:
        status = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return os.path.exists(path) and status.f_bavail * status.f_frsize < _ROOM


@contextlib.contextmanager
def spare_catalog(path: str, machine: Machine) -> Iterator[SqliteCatalog]:
    """A copy of the catalog at ``path``, gone when the context ends. Raises OSError where there is no room for one anywhere."""
    size = os.path.getsize(path)
    with tempfile.TemporaryDirectory(prefix="voltool-catalog-", dir=_place(4 * size + _ROOM)) as directory:
        copy = os.path.join(directory, os.path.basename(path))
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path + suffix, copy + suffix)
        catalog = SqliteCatalog(copy, machine)
        try:
            yield catalog
        finally:
            catalog.close()


def _place(room: int) -> str | None:
    for place in _PLACES:
        with contextlib.suppress(OSError):
            status = os.statvfs(place)
            if os.access(place, os.W_OK) and status.f_bavail * status.f_frsize >= room:
                return place
    return None
