"""A catalog as it is after years: many volumes, each with many dumps of a monthly cycle. Made by SQL, in seconds."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.catalog.samples import SECOND, make_dump, make_volume
from voltool.catalog.rows import values_of
from voltool.catalog.sqlite import SqliteCatalog
from voltool.policy.runs import VolumeRun
from voltool.stores.naming import format_name
from voltool.wire import codec

DAY = 86_400 * SECOND
#: Nights that runs are remembered of.
_RUNS = 30
#: Levels, one a day.
CYCLE = "0325476132547613254761325476"


def name_of(volume: int) -> str:
    return f"vol{volume:04d}"


def fill(path: Path, volumes: int, dumps: int, *, store: str, now_ns: int) -> None:
    """``dumps`` dumps of each of ``volumes`` volumes, one a day, the last one an hour before ``now_ns``."""
    catalog = SqliteCatalog(str(path))
    catalog.close()
    days = _days(dumps, now_ns)
    sample = values_of(make_dump(1))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'dumps' AND sql NOT NULL"
        ).fetchall()
        connection.execute("BEGIN")
        for name, _sql in indexes:  # they are made faster when all is there
            connection.execute(f"DROP INDEX {name}")
        for volume in range(volumes):
            known = make_volume(name_of(volume))
            connection.execute(
                "INSERT INTO volumes VALUES (?, ?, ?, ?, ?, '[]', '', '')",
                (known.uuid, known.name, f"host{volume % 60}", known.path, known.driver),
            )
        connection.execute(
            "CREATE TEMP TABLE days (day INTEGER, level INTEGER, base INTEGER, time_ns INTEGER, stamp TEXT)"
        )
        connection.executemany("INSERT INTO days VALUES (?, ?, ?, ?, ?)", days)
        identity = "printf('%08x%024x', ((v.rowid * 1000 + {0}) * 2654435761) % 4294967296, v.rowid * 1000 + {0})"
        state = "printf('%064x', v.rowid * 1000 + {0})"
        mine = identity.format("day")
        connection.execute(  # only words of our own are put together
            f"""INSERT INTO dumps SELECT {mine}, v.uuid, v.name, level, day + 1, time_ns, 'snapshot', {state.format("day")},
                iif(base IS NULL, NULL, {state.format("base")}), iif(base IS NULL, NULL, {identity.format("base")}),
                1000 + day, 900 + day, 1000000 / (level + 1) + v.rowid * 1000, 500000 / (level + 1) + v.rowid * 500,
                1.5, ?, v.name || '/' || stamp || '-L' || level || '-' || {mine} || '.voltool', 0, '[]', ?
                FROM days CROSS JOIN volumes v""",  # noqa: S608
            (store, sample["origin"]),
        )
        run = json.dumps(codec.to_plain(VolumeRun("", "", "", "hostA", 1, 0, 0, 0, made_level=1)))
        connection.execute(
            """INSERT INTO runs SELECT 'run' || day, v.name, v.uuid, time_ns,
                json_set(?, '$.run_id', 'run' || day, '$.volume', v.name, '$.volume_uuid', v.uuid,
                '$.started_ns', time_ns - 5000000000, '$.ended_ns', time_ns)
                FROM days CROSS JOIN volumes v WHERE day >= ?""",
            (run, dumps - _RUNS),
        )
        for _name, sql in indexes:
            connection.execute(sql)
        connection.execute("COMMIT")


def _days(dumps: int, now_ns: int) -> list[tuple[int, int, int | None, int, str]]:
    days: list[tuple[int, int, int | None, int, str]] = []
    newest: dict[int, int] = {}
    for day in range(dumps):
        level = int(CYCLE[day % len(CYCLE)])
        base = max((other for lower, other in newest.items() if lower < level), default=None)
        newest[level] = day
        time_ns = now_ns - (dumps - 1 - day) * DAY - 3600 * SECOND
        stamp = format_name("x", time_ns, level, "").partition("/")[2].partition("-")[0]
        days.append((day, level, base, time_ns, stamp))
    return days
