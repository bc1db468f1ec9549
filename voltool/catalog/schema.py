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

#: Dumps: a column for whatever is searched, shown or added up. ``problems`` is a JSON array of FileProblem; ``origin`` is what is
#: left of the header, as JSON: the same text for many dumps of a volume, so that it is decoded once.
DUMPS = sa.Table(
    "dumps",
    METADATA,
    sa.Column("dump_id", sa.Text, primary_key=True),
    sa.Column("volume_uuid", sa.Text, nullable=False),
    sa.Column("volume_name", sa.Text, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("clone_time_ns", sa.Integer, nullable=False),
    sa.Column("consistency", sa.Text, nullable=False),
    sa.Column("state_id", sa.Text, nullable=False),
    sa.Column("base_state_id", sa.Text),
    sa.Column("base_dump_id", sa.Text),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("objects", sa.Integer, nullable=False),
    sa.Column("data_bytes", sa.Integer, nullable=False),
    sa.Column("stored_bytes", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("store", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("problem_count", sa.Integer, nullable=False),
    sa.Column("problems", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
)

#: Directories of stores as they were when they were last listed: one whose modification time is still this is not listed again.
LISTED = sa.Table(
    "listed",
    METADATA,
    sa.Column("store", sa.Text, primary_key=True),
    sa.Column("directory", sa.Text, primary_key=True),
    sa.Column("mtime_ns", sa.Integer, nullable=False),
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

#: Moves, also those that have not ended; ``body`` is the whole MoveRecord as JSON.
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

#: Dumps that looked suspicious when their volume was last looked at, and why.
SUSPICIOUS = sa.Table(
    "suspicious",
    METADATA,
    sa.Column("dump_id", sa.Text, primary_key=True),
    sa.Column("volume_uuid", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)

#: Replicas, and former homes that have not heard of a promotion; ``body`` is the whole KnownReplica as JSON.
REPLICAS = sa.Table(
    "replicas",
    METADATA,
    sa.Column("replica_id", sa.Text, primary_key=True),
    sa.Column("volume_uuid", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)

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
    (
        "ALTER TABLE dumps RENAME TO dumps_as_json",
        """CREATE TABLE dumps (
            dump_id TEXT PRIMARY KEY, volume_uuid TEXT NOT NULL, volume_name TEXT NOT NULL, level INTEGER NOT NULL,
            sequence INTEGER NOT NULL, clone_time_ns INTEGER NOT NULL, consistency TEXT NOT NULL, state_id TEXT NOT NULL,
            base_state_id TEXT, base_dump_id TEXT, entries INTEGER NOT NULL, objects INTEGER NOT NULL,
            data_bytes INTEGER NOT NULL, stored_bytes INTEGER NOT NULL, seconds REAL NOT NULL, store TEXT NOT NULL,
            file TEXT NOT NULL, problem_count INTEGER NOT NULL, problems TEXT NOT NULL, origin TEXT NOT NULL)""",
        # What was no dump in words is left behind: the dump itself is found again in its store.
        """INSERT OR IGNORE INTO dumps SELECT
            dump_id, volume_uuid, json_extract(body, '$.header.volume_name'), json_extract(body, '$.header.level'),
            sequence, clone_time_ns, json_extract(body, '$.header.consistency'), json_extract(body, '$.totals.state_id'),
            json_extract(body, '$.header.base_state_id'), json_extract(body, '$.header.base_dump_id'),
            json_extract(body, '$.totals.entries'), json_extract(body, '$.totals.objects'),
            json_extract(body, '$.totals.data_bytes'), json_extract(body, '$.totals.stored_bytes'),
            json_extract(body, '$.seconds'), json_extract(body, '$.store'), json_extract(body, '$.file'),
            json_array_length(body, '$.problems'), json_extract(body, '$.problems'),
            json_remove(json_extract(body, '$.header'), '$.dump_id', '$.volume_uuid', '$.volume_name', '$.level',
                '$.sequence', '$.clone_time_ns', '$.consistency', '$.base_state_id', '$.base_dump_id')
            FROM dumps_as_json WHERE json_valid(body)""",
        "DROP TABLE dumps_as_json",
        "CREATE INDEX dumps_by_volume ON dumps (volume_uuid, sequence)",
        """CREATE INDEX dumps_by_level ON dumps
            (volume_uuid, level, store, sequence, clone_time_ns, stored_bytes, data_bytes)""",
        "CREATE INDEX dumps_by_name ON dumps (volume_name)",
        "CREATE INDEX dumps_by_file ON dumps (store, file)",
        """CREATE TABLE listed (
            store TEXT NOT NULL, directory TEXT NOT NULL, mtime_ns INTEGER NOT NULL, PRIMARY KEY (store, directory))""",
        "CREATE INDEX moves_by_time ON moves (ended_ns)",
        "CREATE TABLE suspicious (dump_id TEXT PRIMARY KEY, volume_uuid TEXT NOT NULL, why TEXT NOT NULL)",
    ),
    (
        """CREATE TABLE replicas (
            replica_id TEXT PRIMARY KEY, volume_uuid TEXT NOT NULL, host TEXT NOT NULL, body TEXT NOT NULL)""",
        "CREATE INDEX replicas_by_volume ON replicas (volume_uuid)",
    ),
)
