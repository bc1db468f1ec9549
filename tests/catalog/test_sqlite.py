"""The catalog: what is remembered is read back, whoever dies or writes at the same time, and damage is named."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalog.samples import UUID, make_dump, make_volume
from tests.filesystems import LoopFilesystem
from voltool.catalog import sqlite
from voltool.catalog.schema import METADATA, MIGRATIONS
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import BusyError, NotFoundError, RefusedError, SpaceError, UsageError, VoltoolError
from voltool.machine import Machine
from voltool.model import FileProblem, KnownVolume, Problem
from voltool.policy.moves import DONE, RUNNING, LockWindow, MoveRecord, MoveStep
from voltool.policy.runs import VolumeRun
from voltool.wire import codec


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    made = SqliteCatalog(str(tmp_path / "state/catalog.sqlite"))
    yield made
    made.close()


def test_volumes_are_remembered(catalog: SqliteCatalog) -> None:
    one = make_volume("b", path=b"/srv/\xff\n", excludes=(b"*.\xfe", b"x"))
    two = make_volume("a")
    catalog.put_volume(one)
    catalog.put_volume(two)
    assert catalog.volumes() == [two, one]
    assert catalog.volume("b") == one


def test_an_unknown_volume_names_the_known_ones(catalog: SqliteCatalog) -> None:
    with pytest.raises(NotFoundError) as caught:
        catalog.volume("x")
    assert "voltool volume add x" in caught.value.remedy
    catalog.put_volume(make_volume("vol1"))
    with pytest.raises(NotFoundError) as caught:
        catalog.volume("x")
    assert "vol1" in caught.value.remedy


def test_a_volume_changes_but_never_takes_anothers_name(catalog: SqliteCatalog) -> None:
    volume = make_volume("a")
    catalog.put_volume(volume)
    catalog.put_volume(KnownVolume(volume.uuid, "b", "local", b"/other", "btrfs"))
    assert [known.name for known in catalog.volumes()] == ["b"]
    with pytest.raises(UsageError, match="another volume"):
        catalog.put_volume(make_volume("b", uuid="f" * 32))
    assert catalog.volume("b").uuid == volume.uuid


def test_a_forgotten_volumes_dumps_stay(catalog: SqliteCatalog) -> None:
    volume = make_volume("a")
    catalog.put_volume(volume)
    catalog.add_dump(make_dump(1, volume=volume))
    catalog.remove_volume(volume.uuid)
    catalog.remove_volume(volume.uuid)
    assert catalog.volumes() == []
    assert len(catalog.dumps(volume.uuid)) == 1


def test_dumps_come_back_whole_and_in_order(catalog: SqliteCatalog) -> None:
    problems = (FileProblem(Problem.UNSTABLE, b"a/\xff", "why"),)
    dumps = [make_dump(number, problems=problems) for number in (3, 1, 2)]
    other = make_dump(9, volume=make_volume("z", uuid="e" * 32), time_ns=0)
    for dump in (*dumps, other):
        catalog.add_dump(dump)
        catalog.add_dump(dump)
    assert catalog.dumps(dumps[0].header.volume_uuid) == [dumps[1], dumps[2], dumps[0]]
    assert catalog.dumps() == [other, dumps[1], dumps[2], dumps[0]]
    catalog.remove_dump(other.header.dump_id)
    catalog.remove_dump(other.header.dump_id)
    assert len(catalog.dumps()) == 3


def test_it_is_there_the_next_time_and_for_its_owner_alone(catalog: SqliteCatalog) -> None:
    catalog.put_volume(make_volume("a"))
    path = Path(catalog.path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    catalog.close()
    again = SqliteCatalog(catalog.path)
    assert [volume.name for volume in again.volumes()] == ["a"]
    again.close()


def test_the_log_is_written_ahead_and_synchronously(catalog: SqliteCatalog) -> None:
    with catalog._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_the_migrations_lead_to_the_tables(catalog: SqliteCatalog) -> None:
    with sqlite3.connect(catalog.path) as connection:
        for table in METADATA.tables.values():
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")]
            assert columns == [column.name for column in table.columns]
    connection.close()
    assert {"volumes", "dumps"} <= set(METADATA.tables)


def test_a_newer_voltools_catalog_is_left_alone(catalog: SqliteCatalog) -> None:
    catalog.close()
    with sqlite3.connect(catalog.path) as connection:
        connection.execute("INSERT INTO migrations VALUES (?, 0)", (len(MIGRATIONS) + 1,))
    connection.close()
    with pytest.raises(VoltoolError, match="newer voltool"):
        SqliteCatalog(catalog.path)


@given(st.integers(0, 2**32), st.integers(512, 4096))  # SQLite takes anything shorter for a new file
def test_a_damaged_catalog_is_named_with_its_remedy(
    tmp_path_factory: pytest.TempPathFactory, seed: int, size: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "catalog.sqlite"
    path.write_bytes(bytes((seed * 31 + at * 7) % 255 + 1 for at in range(size)))
    with pytest.raises(VoltoolError) as caught:
        SqliteCatalog(str(path))
    assert "damaged" in caught.value.what
    assert str(path) in caught.value.where
    assert "voltool catalog rebuild" in caught.value.remedy


def test_a_damaged_page_in_the_middle(catalog: SqliteCatalog) -> None:
    for number in range(200):
        catalog.add_dump(make_dump(number))
    catalog.close()
    path = Path(catalog.path)
    data = bytearray(path.read_bytes())
    for at in range(4096 * 2, len(data), 4096):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(VoltoolError, match="damaged"):
        SqliteCatalog(str(path)).dumps()


def test_a_row_that_makes_no_sense(catalog: SqliteCatalog) -> None:
    catalog.add_dump(make_dump(1))
    with sqlite3.connect(catalog.path) as connection:
        connection.execute("UPDATE dumps SET origin = '{}'")
    connection.close()
    with pytest.raises(VoltoolError, match="damaged"):
        catalog.dumps()


def test_a_catalog_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VoltoolError, match="cannot be opened") as caught:
        SqliteCatalog(str(tmp_path / "file/catalog.sqlite"))
    assert "VOLTOOL_STATE_DIR" in caught.value.remedy


def test_one_that_stays_locked_is_busy(catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.2)
    impatient = SqliteCatalog(catalog.path)
    blocker = sqlite3.connect(catalog.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError, match="in use"):
        impatient.put_volume(make_volume("a"))
    assert impatient.volumes() == []
    blocker.close()
    impatient.close()


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path) -> None:
    with LoopFilesystem("ext4", 16 << 20) as filesystem:
        catalog = SqliteCatalog(str(filesystem.path / "state/catalog.sqlite"))
        catalog.add_dump(make_dump(1))
        filler = filesystem.fill()
        acknowledged = [1]
        with pytest.raises(VoltoolError) as caught:
            add_many(catalog, acknowledged)
        assert isinstance(caught.value, SpaceError)
        assert caught.value.remedy
        filler.unlink()
        assert len(catalog.dumps()) == len(acknowledged)
        catalog.close()


def add_many(catalog: SqliteCatalog, acknowledged: list[int]) -> None:
    for number in range(2, 2000):
        catalog.add_dump(make_dump(number))
        acknowledged.append(number)


HAMMER = """
import sys
from tests.catalog.samples import UUID, make_dump, make_volume
from voltool.catalog.sqlite import SqliteCatalog
who, count = sys.argv[2], int(sys.argv[3])
catalog = SqliteCatalog(sys.argv[1])
for number in range(count):
    catalog.add_dump(make_dump(int(who) * 100000 + number))
    catalog.put_volume(make_volume("vol" + who, uuid=who * 32))
    catalog.dumps("nobody")
    print(number, flush=True)
"""


def hammer(path: Path, who: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HAMMER, str(path), str(who), str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_several_processes_at_once_from_the_first_moment_on(tmp_path: Path) -> None:
    path = tmp_path / "state/catalog.sqlite"
    processes = [hammer(path, who, 40) for who in (1, 2, 3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    catalog = SqliteCatalog(str(path))
    assert len(catalog.dumps()) == 120
    assert [volume.name for volume in catalog.volumes()] == ["vol1", "vol2", "vol3"]
    catalog.close()


@pytest.mark.parametrize("acknowledged", [1, 7, 23])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "catalog.sqlite"
    process = hammer(path, 1, 100_000)
    assert process.stdout is not None
    for _ in range(acknowledged):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    total = acknowledged + rest.count("\n")
    catalog = SqliteCatalog(str(path))
    assert total <= len(catalog.dumps()) <= total + 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    catalog.close()


def test_what_is_local_to_another_machine_is_not_reached_from_here(catalog: SqliteCatalog) -> None:
    """The catalog was copied: `local` there is not `local` here."""
    here, there = Machine("here", "1" * 32), Machine("there", "2" * 32)
    catalog.put_volume(dataclasses.replace(make_volume(host="local"), hostname="there", machine_id=there.machine_id))
    catalog.put_volume(make_volume("other"))
    catalog.put_volume(make_volume("unknown", host="local"))
    catalog.close()
    copied = SqliteCatalog(catalog.path, here)
    with pytest.raises(RefusedError, match=r"added on there.*this is here.*voltool volume set vol1 --host HOST"):
        copied.volume("vol1")
    assert [volume.name for volume in copied.volumes() if copied.is_elsewhere(volume)] == ["vol1"]
    assert copied.volume("other").host == "hostA"
    assert copied.volume("unknown").host == "local"
    copied.close()
    renamed = SqliteCatalog(catalog.path, Machine("renamed", there.machine_id))
    assert renamed.volume("vol1").hostname == "there"
    renamed.close()


def test_a_catalog_of_the_first_schema_is_taken_along(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_ns INTEGER NOT NULL)")
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (1, 0)")
        connection.execute("INSERT INTO volumes VALUES ('ab', 'old', 'local', x'2f7372762f6f6c64', 'directory', '[]')")
    connection.close()
    catalog = SqliteCatalog(str(path), Machine("here", "1" * 32))
    assert catalog.volume("old") == KnownVolume("ab", "old", "local", b"/srv/old", "directory")
    catalog.close()


def test_dumps_of_an_older_catalog_are_kept(tmp_path: Path) -> None:
    """They were one JSON text each. What is none is left behind: the dump lies in its store."""
    problems = (FileProblem(Problem.UNSTABLE, b"a/\xff", "why"),)
    base = dataclasses.replace(make_dump(1, problems=problems), seconds=2.0)
    dumps = [base, make_dump(2, level=1, base=base)]
    path = tmp_path / "catalog.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE migrations (version INTEGER PRIMARY KEY, applied_ns INTEGER NOT NULL)")
        for number, statements in enumerate(MIGRATIONS[:3], 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, 0)", (number,))
        for dump in dumps:
            header = dump.header
            body = json.dumps(codec.to_plain(dump))
            values = (header.dump_id, header.volume_uuid, header.sequence, header.clone_time_ns, body)
            connection.execute("INSERT INTO dumps VALUES (?, ?, ?, ?, ?)", values)
        connection.execute("INSERT INTO dumps VALUES ('x', 'u', 1, 1, 'no JSON')")
        connection.execute("INSERT INTO dumps VALUES ('y', 'u', 1, 1, '{}')")
    connection.close()
    catalog = SqliteCatalog(str(path))
    assert catalog.dumps() == dumps
    catalog.close()


def test_narrow_questions(catalog: SqliteCatalog) -> None:
    other = make_volume("other")
    full = make_dump(1)
    dumps = [full, make_dump(2, level=1, base=full), make_dump(3, level=1, base=full), make_dump(4, volume=other)]
    elsewhere = dataclasses.replace(make_dump(5, volume=other), store="file:///b", file="a.b/x.voltool")
    for dump in (*dumps, elsewhere):
        catalog.add_dump(dump)
    newest = {(each.volume_name, each.level): each for each in catalog.latest()}
    assert set(newest) == {("vol1", 0), ("vol1", 1), ("other", 0)}
    one = newest["vol1", 1]
    assert (one.dump_id, one.dumps, one.all_stored_bytes) == (dumps[2].header.dump_id, 2, 1400)
    assert catalog.newest_dumps(1) == [dumps[2], elsewhere]
    assert catalog.newest_dumps(2) == [dumps[1], dumps[2], dumps[3], elsewhere]
    assert catalog.dumps_by_prefix("0" * 31, 9) == [*dumps, elsewhere]
    assert catalog.dumps_by_prefix(f"{3:032x}", 9) == [dumps[2]]
    assert catalog.dumps_by_prefix("0", 2) == dumps[:2]
    assert catalog.dumps_named("other") == [dumps[3], elsewhere]
    assert (catalog.dump_count(), catalog.dump_count("file:///b"), catalog.volume_count()) == (5, 1, 2)
    assert catalog.stores_of() == ["file:///b", full.store]
    assert catalog.stores_of(full.header.volume_uuid) == [full.store]
    assert catalog.directories_of(full.store) == ["other", "vol1"]
    assert catalog.directories_of("file:///b") == ["a.b"]
    assert catalog.files_in("file:///b", "a.b") == {elsewhere.file: elsewhere.header.dump_id}
    assert catalog.files_in("file:///b", "a") == {}
    assert catalog.known_ids([full.header.dump_id, "x"]) == {full.header.dump_id}
    assert catalog.bases_of(dumps) == dict.fromkeys(
        (dumps[1].header.dump_id, dumps[2].header.dump_id), full.header.dump_id
    )
    merged = dataclasses.replace(full, header=dataclasses.replace(full.header, dump_id="f" * 32))
    catalog.remove_dump(full.header.dump_id)
    assert catalog.bases_of(dumps) == {}
    catalog.add_dump(merged)
    assert set(catalog.bases_of(dumps).values()) == {"f" * 32}


def test_marks_of_directories(catalog: SqliteCatalog) -> None:
    catalog.put_listed("a", {"x": 1, "y": 2})
    catalog.put_listed("b", {"x": 3})
    catalog.put_listed("a", {"x": None, "y": 5, "z": None})
    assert catalog.listed("a") == {"y": 5}
    assert catalog.listed("b") == {"x": 3}


def test_moves_and_what_is_suspicious(catalog: SqliteCatalog) -> None:
    move = MoveRecord("m1", UUID, "vol1", "hostA", b"/a/\xff", "hostB", b"/b", 1, 5, RUNNING)
    catalog.put_move(move)
    done = dataclasses.replace(
        move,
        ended_ns=9,
        outcome=DONE,
        steps=(MoveStep("copy", 1, 2.5, bytes=7, entries=3), MoveStep("lock", 4, 0.5, ok=False)),
        locks=(LockWindow(4, 1.0, 30, switched=True),),
    )
    catalog.put_move(done)
    other = dataclasses.replace(move, record_id="m2", volume_uuid="f" * 32, ended_ns=7)
    catalog.put_move(other)
    assert catalog.moves() == [other, done]
    assert catalog.moves(UUID) == [done]
    assert catalog.moves(since_ns=8) == [done]
    earlier = dataclasses.replace(move, record_id="m3", ended_ns=2)
    catalog.put_move(earlier)
    assert sorted(catalog.last_moves(), key=lambda each: each.ended_ns) == [other, done]
    catalog.put_suspicious(UUID, {"d1": "much", "d2": "more"})
    catalog.put_suspicious("f" * 32, {"d3": "x"})
    catalog.put_suspicious(UUID, {"d2": "most"})
    assert catalog.suspicious() == {UUID: {"d2": "most"}, "f" * 32: {"d3": "x"}}


def test_the_last_run(catalog: SqliteCatalog) -> None:
    assert catalog.run_of() == []
    for run_id, volume, ended_ns in (("r1", "a", 1), ("r2", "b", 2), ("r2", "a", 3), ("r1", "c", 2)):
        catalog.add_run(VolumeRun(run_id, volume, volume * 32, "host", 0, 0, ended_ns, 0))
    assert [run.volume for run in catalog.run_of()] == ["b", "a"]
    assert [run.volume for run in catalog.run_of("r1")] == ["a", "c"]
