"""The tables of the index of names, and what their rows mean. No I/O.

The index holds, for each volume, one after the other, the complete states its dumps lead to; each dump has an *ordinal*, in the
order in which the index learned them. A row of ``entries`` or ``objects`` says: from the dump ``first`` to the dump ``last``
(`OPEN`: to the newest) this name led to this object, this object was so. So what a dump did not change costs nothing, also
where a full dump has it once more; and nothing in here depends on object numbers meaning the same in two dumps.
"""

from __future__ import annotations

#: Of another version nothing is read: the index is made anew from the stores.
VERSION = 1
#: ``last`` of a row that holds for the newest dump, and for the next one unless that says otherwise.
OPEN = 0x7FFF_FFFF
#: What SQLite's integers hold; a dump with larger numbers is no dump of ours.
LARGEST = (1 << 63) - 1

TABLES = (
    # Each base name there is, once.
    "CREATE TABLE names (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE)",
    # newest, state: ordinal and state id of the dump that was learned last, which may be gone by now.
    """CREATE TABLE volumes (
        id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL, newest INTEGER NOT NULL,
        state TEXT NOT NULL)""",
    """CREATE TABLE dumps (
        dump_id TEXT PRIMARY KEY, volume INTEGER NOT NULL, ordinal INTEGER NOT NULL, sequence INTEGER NOT NULL,
        time_ns INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX dumps_of_volume ON dumps (volume, sequence, time_ns, ordinal)",
    # is_directory: the child was a directory at some time in between.
    """CREATE TABLE entries (
        volume INTEGER NOT NULL, directory INTEGER NOT NULL, name INTEGER NOT NULL, first INTEGER NOT NULL,
        last INTEGER NOT NULL, child INTEGER NOT NULL, is_directory INTEGER NOT NULL,
        PRIMARY KEY (volume, directory, name, first)) WITHOUT ROWID""",
    "CREATE INDEX entries_by_name ON entries (name)",
    "CREATE INDEX entries_of_directories ON entries (volume, child) WHERE is_directory",
    # digest: of all that the dump's record says (of a directory: but its times, which change with each name in it).
    """CREATE TABLE objects (
        volume INTEGER NOT NULL, number INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        mode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_s INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
        digest INTEGER NOT NULL, PRIMARY KEY (volume, number, first)) WITHOUT ROWID""",
    # How many rows were removed since the names were last looked through for unused ones.
    "CREATE TABLE removals (rows INTEGER NOT NULL)",
    "INSERT INTO removals VALUES (0)",
    f"PRAGMA user_version = {VERSION}",
)

#: A dump's records as they are read; then, by key, everything in which its state may differ from the newest one.
SCRATCH = (
    "CREATE TEMP TABLE IF NOT EXISTS arrivals (directory INTEGER, name BLOB, child INTEGER)",
    """CREATE TEMP TABLE IF NOT EXISTS new_entries (
        directory INTEGER, name INTEGER, child INTEGER, PRIMARY KEY (directory, name)) WITHOUT ROWID""",
    """CREATE TEMP TABLE IF NOT EXISTS new_objects (
        number INTEGER PRIMARY KEY, mode INTEGER, size INTEGER, mtime_s INTEGER, mtime_ns INTEGER, digest INTEGER)""",
    "DELETE FROM temp.arrivals",
    "DELETE FROM temp.new_entries",
    "DELETE FROM temp.new_objects",
)
