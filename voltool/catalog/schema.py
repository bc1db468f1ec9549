"""The tables of the catalog and the migrations that lead to them. No I/O.

A migration is a tuple of SQL statements that leads from the version before to its own; a published one never changes.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

#: Volumes; ``excludes`` is a JSON array of base64 text (globs are bytes); ``hostname`` and ``machine_id`` say what ``local`` is.
VOLUMES = sa.Table(
    "volumes",
    METADATA,
    sa.Column("uuid", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("path", sa.LargeBinary, nullable=False),
    sa.Column("driver", sa.Text, nullable=False),
    sa.Column("excludes", sa.Text, nullable=False),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("machine_id", sa.Text, nullable=False),
)

#: Dumps; ``body`` is the whole StoredDump as JSON, the other columns are what is searched by.
DUMPS = sa.Table(
    "dumps",
    METADATA,
    sa.Column("dump_id", sa.Text, primary_key=True),
    sa.Column("volume_uuid", sa.Text, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("clone_time_ns", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

#: Turns of volumes in runs of `voltool backup`; ``body`` is the whole VolumeRun as JSON.
RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("volume", sa.Text, primary_key=True),
    sa.Column("volume_uuid", sa.Text, nullable=False),
    sa.Column("ended_ns", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

#: Moves that ended; ``body`` is what the report shows of one, as JSON.
MOVES = sa.Table(
    "moves",
    METADATA,
    sa.Column("move_id", sa.Text, primary_key=True),
    sa.Column("volume_uuid", sa.Text, nullable=False),
    sa.Column("ended_ns", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

#: Dumps that looked suspicious and that somebody has looked at.
ACCEPTED = sa.Table("accepted", METADATA, sa.Column("dump_id", sa.Text, primary_key=True))

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE volumes (
            uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, host TEXT NOT NULL, path BLOB NOT NULL,
            driver TEXT NOT NULL, excludes TEXT NOT NULL)""",
        """CREATE TABLE dumps (
            dump_id TEXT PRIMARY KEY, volume_uuid TEXT NOT NULL, sequence INTEGER NOT NULL,
            clone_time_ns INTEGER NOT NULL, body TEXT NOT NULL)""",
        "CREATE INDEX dumps_by_volume ON dumps (volume_uuid, sequence)",
    ),
    (
        "ALTER TABLE volumes ADD COLUMN hostname TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE volumes ADD COLUMN machine_id TEXT NOT NULL DEFAULT ''",
    ),
    (
        """CREATE TABLE runs (
            run_id TEXT NOT NULL, volume TEXT NOT NULL, volume_uuid TEXT NOT NULL, ended_ns INTEGER NOT NULL,
            body TEXT NOT NULL, PRIMARY KEY (run_id, volume))""",
        "CREATE INDEX runs_by_time ON runs (ended_ns)",
        "CREATE INDEX runs_by_volume ON runs (volume_uuid, ended_ns)",
        """CREATE TABLE moves (
            move_id TEXT PRIMARY KEY, volume_uuid TEXT NOT NULL, ended_ns INTEGER NOT NULL, body TEXT NOT NULL)""",
        "CREATE TABLE accepted (dump_id TEXT PRIMARY KEY)",
    ),
)
