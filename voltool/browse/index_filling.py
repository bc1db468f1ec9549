"""How a dump's records become rows of the index. Knows SQL and records; nothing of stores, catalogs or files.

The index has the newest learned state of a volume open. A dump is brought to the differences between its state and that one:
those of a full dump by comparing everything; those of a dump above level 0 are its own records, and, where its base is not the
newest state, what has changed since its base, taken back.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Protocol

from voltool.browse.index_schema import LARGEST, OPEN, SCRATCH
from voltool.dumpfile import format as fmt

#: The years 1000 to 9999, in any zone: what can be shown as a date.
_FIRST_SECOND, _LAST_SECOND = -30_609_000_000, 253_402_000_000
#: Where the mtime is in an object record.
_MTIME_AT, _MTIME_END = 28, 40


class Records(Protocol):
    """A dump's own records; `dumpfile.reader.DumpReader` is one. Those of level 0 are a complete state."""

    @property
    def name(self) -> str:
        """How errors call it."""

    def objects(self) -> Iterator[bytes]:
        """The final object records, tombstones too, by number."""

    def entries(self) -> Iterator[bytes]:
        """The entry records, tombstones too, in order."""


def load(cursor: Any, records: Records | None) -> None:
    """Read a dump's records (None: none) into the temporary tables; touches nothing else. Raises IntegrityError."""
    cursor.execute("PRAGMA cache_size = -65536")
    for statement in SCRATCH:
        cursor.execute(statement)
    if records is None:
        return
    cursor.executemany(
        "INSERT OR REPLACE INTO temp.new_objects VALUES (?, ?, ?, ?, ?, ?)",
        _object_rows(records.objects(), records.name),
    )
    cursor.executemany("INSERT INTO temp.arrivals VALUES (?, ?, ?)", _entry_rows(records.entries(), records.name))


def apply(cursor: Any, volume: int, newest: int, base: int | None) -> None:
    """Let the next ordinal have the state that was loaded: complete, or, with ``base``, a difference to that ordinal."""
    values: dict[str, object] = {"volume": volume, "newest": newest, "next": newest + 1, "base": base, "open": OPEN}
    values |= {"kind": stat.S_IFMT(0xFFFF), "directory": stat.S_IFDIR}
    cursor.execute("INSERT OR IGNORE INTO names (name) SELECT name FROM temp.arrivals WHERE child <> 0")
    cursor.execute(
        """INSERT OR REPLACE INTO temp.new_entries
        SELECT directory, id, child FROM temp.arrivals CROSS JOIN names USING (name)"""
    )
    if base is not None and base != newest:
        _take_back(cursor, values)
    for statement in _CLOSE_DIFFERENCE if base is not None else _CLOSE_COMPLETE:
        cursor.execute(statement, values)
    cursor.execute(_CHANGED_KIND, values)
    if cursor.fetchone() is not None:
        cursor.execute(_MARK_DIRECTORIES, values)
    for statement in _OPEN:
        cursor.execute(statement, values)


def _take_back(cursor: Any, values: dict[str, object]) -> None:
    """Whatever has changed since the base is as it was there, but for what the dump's own records say."""
    cursor.execute(
        """INSERT OR IGNORE INTO temp.new_entries
        SELECT k.directory, k.name, coalesce((SELECT child FROM entries e WHERE e.volume = :volume
            AND e.directory = k.directory AND e.name = k.name AND :base BETWEEN e.first AND e.last), 0)
        FROM (SELECT DISTINCT directory, name FROM entries
            WHERE volume = :volume AND (first > :base OR (last >= :base AND last <> :open))) k""",
        values,
    )
    cursor.execute(
        """INSERT OR IGNORE INTO temp.new_objects
        SELECT k.number, coalesce(o.mode, 0), coalesce(o.size, 0), coalesce(o.mtime_s, 0), coalesce(o.mtime_ns, 0),
            coalesce(o.digest, 0)
        FROM (SELECT DISTINCT number FROM objects
            WHERE volume = :volume AND (first > :base OR (last >= :base AND last <> :open))) k
        LEFT JOIN objects o ON o.volume = :volume AND o.number = k.number AND :base BETWEEN o.first AND o.last""",
        values,
    )


_CLOSE_DIFFERENCE = (
    """UPDATE entries SET last = :newest WHERE (volume, directory, name, first) IN (
        SELECT e.volume, e.directory, e.name, e.first FROM temp.new_entries n CROSS JOIN entries e
        ON e.volume = :volume AND e.directory = n.directory AND e.name = n.name
        WHERE e.last = :open AND e.child <> n.child)""",
    """UPDATE objects SET last = :newest WHERE (volume, number, first) IN (
        SELECT o.volume, o.number, o.first FROM temp.new_objects n CROSS JOIN objects o
        ON o.volume = :volume AND o.number = n.number
        WHERE o.last = :open AND (o.digest <> n.digest OR o.mode <> n.mode))""",
)
_CLOSE_COMPLETE = (
    """UPDATE entries SET last = :newest WHERE volume = :volume AND last = :open AND NOT EXISTS (
        SELECT 1 FROM temp.new_entries n
        WHERE n.directory = entries.directory AND n.name = entries.name AND n.child = entries.child)""",
    """UPDATE objects SET last = :newest WHERE volume = :volume AND last = :open AND NOT EXISTS (
        SELECT 1 FROM temp.new_objects n
        WHERE n.number = objects.number AND n.digest = objects.digest AND n.mode = objects.mode)""",
)
#: A number that had been something else before it was a directory: its names may have been there already. Rare.
_CHANGED_KIND = """SELECT 1 FROM temp.new_objects n CROSS JOIN objects o ON o.volume = :volume AND o.number = n.number
    WHERE n.mode & :kind = :directory AND o.mode & :kind <> :directory LIMIT 1"""
_MARK_DIRECTORIES = """UPDATE entries SET is_directory = 1
    WHERE volume = :volume AND last = :open AND NOT is_directory AND EXISTS (SELECT 1 FROM temp.new_objects n
        WHERE n.number = entries.child AND n.mode & :kind = :directory)"""
_OPEN = (
    """INSERT INTO objects SELECT :volume, n.number, :next, :open, n.mode, n.size, n.mtime_s, n.mtime_ns, n.digest
        FROM temp.new_objects n WHERE n.mode <> 0 AND NOT EXISTS (
            SELECT 1 FROM objects o WHERE o.volume = :volume AND o.number = n.number AND o.last = :open)""",
    """INSERT INTO entries SELECT :volume, n.directory, n.name, :next, :open, n.child, EXISTS (
            SELECT 1 FROM objects o WHERE o.volume = :volume AND o.number = n.child AND o.last = :open
            AND o.mode & :kind = :directory)
        FROM temp.new_entries n WHERE n.child <> 0 AND NOT EXISTS (
            SELECT 1 FROM entries e
            WHERE e.volume = :volume AND e.directory = n.directory AND e.name = n.name AND e.last = :open)""",
)


def _object_rows(records: Iterator[bytes], where: str) -> Iterator[tuple[int, int, int, int, int, int]]:
    unpack, smallest = fmt.OBJECT.unpack_from, fmt.OBJECT_SIZE
    for record in records:
        if len(record) < smallest:
            raise fmt.damaged("an object record is cut off", where)
        number, mode, _uid, _gid, size, mtime_s, mtime_ns = unpack(record)[:7]
        if number > LARGEST or size > LARGEST:
            raise fmt.damaged("an object record has a value out of range", where)
        if not mode:
            yield number, 0, 0, 0, 0, 0
            continue
        if stat.S_ISDIR(mode):
            mtime_s = mtime_ns = 0
            attributes = record[8:_MTIME_AT] + record[_MTIME_END : fmt.STATE_OFFSET]
        else:
            attributes = record[8 : fmt.STATE_OFFSET]
        unknown = b"?" if record[fmt.STATE_OFFSET] & fmt.STATE_UNKNOWN else b"."
        whole = attributes + unknown + record[fmt.STATE_OFFSET + 1 :]
        digest = int.from_bytes(blake2b(whole, digest_size=8).digest(), "big", signed=True)
        yield number, mode, size, min(max(mtime_s, _FIRST_SECOND), _LAST_SECOND), mtime_ns, digest


def _entry_rows(records: Iterator[bytes], where: str) -> Iterator[tuple[int, bytes, int]]:
    for record in records:
        directory, name, child = fmt.decode_entry(record, where)
        if directory > LARGEST or child > LARGEST:
            raise fmt.damaged("an entry record has a value out of range", where)
        yield directory, name, child
