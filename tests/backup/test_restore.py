"""Restore, verify, ls and cat of a chain in a store, the target written by a real agent on this machine."""

from __future__ import annotations

import dataclasses
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dumpfile import model
from tests.dumpfile.model import CHUNK, State, Thing
from voltool.backup.browse import list_directory, read_file
from voltool.backup.ports import World
from voltool.backup.restore import restore
from voltool.backup.verify import verify
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import IntegrityError, NotFoundError, RefusedError, UsageError
from voltool.events import Silent
from voltool.model import DumpTotals, StoredDump
from voltool.remote.connect import LOCAL, HostSettings, RemoteHosts
from voltool.stores.opening import StoreOpener

DIRECTORY = Thing(stat.S_IFDIR | 0o755)
FILE = stat.S_IFREG | 0o644
BIG = b"0123456789abcdef" * (CHUNK // 8)

FIRST = State(
    {1: DIRECTORY, 2: DIRECTORY, 3: Thing(FILE, b"old"), 4: Thing(FILE, BIG), 5: Thing(FILE, b"kept"),
     6: Thing(stat.S_IFLNK | 0o777, target=b"small")},
    {(1, b"dir"): 2, (1, b"small"): 3, (2, b"big"): 4, (2, b"kept"): 5, (1, b"link"): 6},
)  # fmt: skip
PATCHED = BIG[:5000] + bytes(9000) + BIG[14000:-3] + b"end" + b"more"
SECOND = State(
    {**FIRST.objects, 3: Thing(FILE, b"new"), 4: Thing(FILE, PATCHED), 7: Thing(FILE, b"seven")},
    {**FIRST.entries, (2, b"se\nven"): 7},
)


class Bench:
    """A store and a catalog with the two dumps of a chain."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.catalog = SqliteCatalog(str(directory / "catalog.db"))
        reporter = Silent()
        hosts = RemoteHosts(lambda _host: HostSettings(), reporter, "tester")
        self.world = World(hosts, StoreOpener(0.0), self.catalog, reporter, "tester")
        self.url = f"file://{directory / 'store'}"
        self.first = self.add("a" * 32, 0, None, FIRST)
        self.second = self.add("b" * 32, 1, FIRST, SECOND)

    def add(self, dump_id: str, level: int, base: State | None, state: State) -> StoredDump:
        header = dataclasses.replace(model.header_of(dump_id, level, base), sequence=level + 1)
        data, totals = model.write_dump(state, base, header, random.Random(level))
        return self.put(data, StoredDump(header, totals, self.world.stores.open(self.url).url, f"vol/{dump_id}"))

    def put(self, data: bytes, dump: StoredDump) -> StoredDump:
        writer = self.world.stores.open(self.url).create(dump.file)
        writer.write(data)
        writer.publish()
        self.catalog.add_dump(dump)
        return dump

    def path(self, dump: StoredDump) -> Path:
        return self.directory / "store" / dump.file


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if os.getuid() != 0:
        pytest.skip("owners can be restored by root alone")
    monkeypatch.setenv("VOLTOOL_STATE_DIR", str(tmp_path / "state"))
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


def content_of(target: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(target)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in target.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_each_point_in_time_comes_back(bench: Bench) -> None:
    old = restore(bench.world, bench.first, LOCAL, os.fsencode(bench.directory / "old"))
    new = restore(bench.world, bench.second, LOCAL, os.fsencode(bench.directory / "new"))
    assert (old.dump_ids, new.dump_ids) == (("a" * 32,), ("a" * 32, "b" * 32))
    assert (old.exit_code, new.exit_code, new.problems) == (0, 0, ())
    assert content_of(bench.directory / "old") == {
        "small": b"old", "dir/big": BIG, "dir/kept": b"kept", "link": b"small",
    }  # fmt: skip
    assert content_of(bench.directory / "new") == {
        "small": b"new", "dir/big": PATCHED, "dir/kept": b"kept", "link": b"small", "dir/se\nven": b"seven",
    }  # fmt: skip


@pytest.mark.parametrize("path", [b"dir/big", b"/dir/big", b"/srv/vol/dir/big"])
def test_only_some_paths(bench: Bench, path: bytes) -> None:
    target = bench.directory / "part"
    restore(bench.world, bench.second, LOCAL, os.fsencode(target), only=[path])
    assert content_of(target) == {"dir/big": PATCHED}


def test_a_path_that_is_not_there_touches_nothing(bench: Bench) -> None:
    target = bench.directory / "part"
    with pytest.raises(UsageError):
        restore(bench.world, bench.second, LOCAL, os.fsencode(target), only=[b"dir/../dir/big"])
    with pytest.raises(NotFoundError, match="dir/seven"):
        restore(bench.world, bench.second, LOCAL, os.fsencode(target), only=[b"dir/seven"])
    assert not target.exists()


def test_damage_and_a_missing_base_leave_no_target(bench: Bench) -> None:
    target = bench.directory / "target"
    path = bench.path(bench.first)
    sound = path.read_bytes()
    for at in range(0, len(sound), len(sound) // 23):
        path.write_bytes(sound[:at] + bytes((sound[at] ^ 1,)) + sound[at + 1 :])
        with pytest.raises(IntegrityError):
            verify(bench.world, bench.second)
        with pytest.raises(IntegrityError):
            restore(bench.world, bench.first, LOCAL, os.fsencode(target))
        assert not target.exists()
    path.write_bytes(sound)
    bench.catalog.remove_dump(bench.first.header.dump_id)
    with pytest.raises(IntegrityError, match="base"):
        restore(bench.world, bench.second, LOCAL, os.fsencode(target))
    assert not target.exists()


def test_an_exchanged_file_is_noticed(bench: Bench) -> None:
    bench.path(bench.second).write_bytes(bench.path(bench.first).read_bytes())
    with pytest.raises(IntegrityError, match="not the one"):
        verify(bench.world, bench.second)


def test_what_was_never_read_is_named_and_costs_exit_code_3(bench: Bench) -> None:
    lost = State({1: DIRECTORY, 2: Thing(FILE, None), 3: Thing(FILE, b"here")}, {(1, b"lost"): 2, (1, b"here"): 3})
    dump = bench.add("c" * 32, 0, None, lost)
    outcome = restore(bench.world, dump, LOCAL, os.fsencode(bench.directory / "target"))
    assert (outcome.exit_code, [problem.path for problem in outcome.problems]) == (3, [b"lost"])
    assert content_of(bench.directory / "target") == {"here": b"here"}
    with pytest.raises(RefusedError, match="not known"):
        b"".join(read_file(bench.world, dump, b"lost"))


def test_verify_reads_the_whole_chain(bench: Bench) -> None:
    outcome = verify(bench.world, bench.second)
    totals: list[DumpTotals] = [bench.first.totals, bench.second.totals]
    assert outcome.dump_ids == ("a" * 32, "b" * 32)
    assert (outcome.entries, outcome.exit_code) == (len(SECOND.entries), 0)
    assert outcome.bytes == sum(total.stored_bytes for total in totals)


def test_listing_and_reading_without_a_restore(bench: Bench) -> None:
    assert [entry.name for entry in list_directory(bench.world, bench.second, b"")] == [b"dir", b"link", b"small"]
    assert [entry.name for entry in list_directory(bench.world, bench.second, b"/srv/vol/dir/")] == [
        b"big", b"kept", b"se\nven",
    ]  # fmt: skip
    (link,) = list_directory(bench.world, bench.second, b"link")
    assert (link.name, link.target) == (b"link", b"small")
    assert b"".join(read_file(bench.world, bench.second, b"dir/big")) == PATCHED
    assert b"".join(read_file(bench.world, bench.first, b"dir/big")) == BIG
    for path, kind in ((b"dir", "a directory"), (b"link", "a symbolic link to small")):
        with pytest.raises(RefusedError, match=kind):
            b"".join(read_file(bench.world, bench.second, path))
    with pytest.raises(NotFoundError, match="small/x"):
        list(list_directory(bench.world, bench.second, b"small/x"))


def test_the_dumps_are_pinned_while_they_are_read(bench: Bench) -> None:
    store = bench.world.stores.open(bench.url)
    reading = read_file(bench.world, bench.second, b"dir/big")
    next(reading)
    assert store.is_pinned(bench.first.file)
    assert store.is_pinned(bench.second.file)
    for _piece in reading:
        pass
    assert not store.is_pinned(bench.first.file)
