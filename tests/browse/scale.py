"""A catalog and an index of names as an installation of 1,000 volumes with 400 dumps each has them, made in seconds.

Written straight into the tables: the volumes share their names and their tree, and each dump changed one file.
"""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

from tests.catalog.samples import SECOND, make_dump, make_volume
from voltool.browse.index import NameIndex
from voltool.browse.index_schema import OPEN
from voltool.catalog.rows import values_of
from voltool.catalog.sqlite import SqliteCatalog

VOLUMES, DUMPS = 1000, 400
#: In each volume: directories below the root, files in each.
DIRECTORIES, FILES = 10, 10
#: Names that only one volume has, in all: what is distinct in sixty servers' home directories.
OWN_NAMES = 100_000
_DAY = 86_400


def make_installation(state: Path) -> tuple[str, str]:
    """The paths of the catalog and of the index."""
    catalog, index = str(state / "catalog.sqlite"), str(state / "names.sqlite")
    made = SqliteCatalog(catalog)
    NameIndex(index, catalog).close()
    made.close()
    with sqlite3.connect(catalog) as connection:
        _hurry(connection)
        _fill_catalog(connection)
    connection.close()
    with sqlite3.connect(index) as connection:
        _hurry(connection)
        _fill_index(connection)
    connection.close()
    return catalog, index


def _hurry(connection: sqlite3.Connection) -> None:
    for pragma in ("synchronous = OFF", "journal_mode = OFF", "cache_size = -400000"):
        connection.execute(f"PRAGMA {pragma}")


def dump_id(volume: int, number: int) -> str:
    """Spread as random ids are."""
    return f"{(volume * DUMPS + number) * 0x9E3779B97F4A7C15 % (1 << 64):016x}{volume:08x}{number:08x}"


def _uuid(volume: int) -> str:
    return f"{volume:032x}"


def _fill_catalog(connection: sqlite3.Connection) -> None:
    volumes = [make_volume(f"vol{number}", uuid=_uuid(number)) for number in range(VOLUMES)]
    connection.executemany(
        "INSERT INTO volumes VALUES (?, ?, ?, ?, ?, '[]', '', '')",
        [(volume.uuid, volume.name, volume.host, volume.path, volume.driver) for volume in volumes],
    )
    # Whole rows, so that who reads them pays for them; of one volume's dumps, for they are made slowly.
    rows = [values_of(make_dump(number)) for number in range(DUMPS)]
    columns = ("dump_id", "volume_uuid", "sequence", "clone_time_ns")
    others = [name for name in rows[0] if name not in columns]
    names = ", ".join([*columns, *others])
    tails = [tuple(row[name] for name in others) for row in rows]
    connection.executemany(
        f"INSERT INTO dumps ({names}) VALUES ({', '.join('?' * len(rows[0]))})",  # noqa: S608 - our own words
        (
            (dump_id(volume, number), _uuid(volume), number, number * _DAY * SECOND, *tails[number])
            for volume in range(VOLUMES)
            for number in range(DUMPS)
        ),
    )


def _fill_index(connection: sqlite3.Connection) -> None:
    names = ["notes.txt", *(f"dir{at}" for at in range(DIRECTORIES)), *(f"file{at:04}.dat" for at in range(FILES))]
    names += [f"IMG_{at * 7919 % 9_999_991:07}_{at:x}.jpg" for at in range(OWN_NAMES)]
    connection.executemany("INSERT INTO names VALUES (?, ?)", [(at, name.encode()) for at, name in enumerate(names, 1)])
    connection.executemany(
        "INSERT INTO volumes VALUES (?, ?, ?, ?, ?)",
        [(at + 1, _uuid(at), f"vol{at}", DUMPS, f"{DUMPS:064x}") for at in range(VOLUMES)],
    )
    connection.executemany(
        "INSERT INTO dumps VALUES (?, ?, ?, ?, ?, ?)",
        (
            (dump_id(volume, number), volume + 1, number + 1, number, number * _DAY * SECOND, f"{number + 1:064x}")
            for volume in range(VOLUMES)
            for number in range(DUMPS)
        ),
    )
    entries, objects = _tree()
    for volume in range(1, VOLUMES + 1):
        own = OWN_NAMES // VOLUMES
        first = len(names) - OWN_NAMES + (volume - 1) * own + 1
        mine: list[tuple[int, ...]] = [(2, first + at, 1, OPEN, 1_000_000 + at, 0) for at in range(own)]
        connection.executemany(f"INSERT INTO entries VALUES ({volume}, ?, ?, ?, ?, ?, ?)", entries + mine)  # noqa: S608
        things: list[tuple[int, ...]] = [
            (1_000_000 + at, 1, OPEN, stat.S_IFREG | 0o644, at, at, 0, at) for at in range(own)
        ]
        connection.executemany(f"INSERT INTO objects VALUES ({volume}, ?, ?, ?, ?, ?, ?, ?, ?)", objects + things)  # noqa: S608


def _tree() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """notes.txt, which each dump has in another version, and the directories with their files."""
    entries: list[tuple[int, ...]] = [(1, 1, 1, OPEN, 1000, 0)]
    objects: list[tuple[int, ...]] = [(1, 1, OPEN, stat.S_IFDIR | 0o755, 0, 0, 0, 0)]
    objects += [(1000, at, at, stat.S_IFREG | 0o644, at, at * _DAY, 0, at) for at in range(1, DUMPS + 1)]
    for directory in range(DIRECTORIES):
        number = 2 + directory
        entries.append((1, 2 + directory, 1, OPEN, number, 1))
        objects.append((number, 1, OPEN, stat.S_IFDIR | 0o755, 0, 0, 0, 0))
        for file in range(FILES):
            child = 2000 + directory * FILES + file
            entries.append((number, 2 + DIRECTORIES + file, 1, OPEN, child, 0))
            objects.append((child, 1, OPEN, stat.S_IFREG | 0o644, file, file, 0, child))
    return entries, objects
