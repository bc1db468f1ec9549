"""The index of names: any history of states is told back, whoever is killed or writes at once, whatever happens to the file."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.browse import states
from tests.browse.scale import DUMPS, VOLUMES, dump_id, make_installation
from tests.browse.states import Records, State, stored
from tests.browse.truth import Tree, check
from tests.catalog.samples import SECOND
from tests.core.harness import Recorder, Rig
from tests.filesystems import LoopFilesystem
from voltool.backup.ports import World
from voltool.browse import history as history_module
from voltool.browse.find import Query, find
from voltool.browse.history import Found, Window
from voltool.browse.index import Comparison, NameIndex
from voltool.browse.learner import NameLearner
from voltool.browse.patterns import parse_pattern
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import BusyError, IntegrityError, NotFoundError
from voltool.model import StoredDump
from voltool.stores.opening import StoreOpener

_fork = multiprocessing.get_context("fork")


class Bench:
    """An index, a catalog, and what `find` says."""

    def __init__(self, directory: Path) -> None:
        self.catalog = SqliteCatalog(str(directory / "catalog.sqlite"))
        self.reporter = Recorder()
        self.world = World(None, StoreOpener(0.0), self.catalog, self.reporter, "a test")  # type: ignore[arg-type]
        self.path = str(directory / "names.sqlite")
        self.learner = NameLearner(self.world, self.path, self.catalog.path)
        self.dumps: list[StoredDump] = []
        self.trees: list[Tree] = []

    def close(self) -> None:
        self.learner.close()
        self.catalog.close()

    @property
    def index(self) -> NameIndex:
        return self.learner.index

    def learn(self, state: State, base: State | None = None, *, number: int = 0) -> StoredDump:
        dump = stored(number or len(self.dumps) + 1, state, base)
        self.index.learn(dump, Records(state, base).opened)
        self.catalog.add_dump(dump)
        self.dumps.append(dump)
        self.trees.append(state.tree())
        return dump

    def find(self, pattern: str, **values: object) -> list[Found]:
        return list(find(self.world, self.learner, Query(parse_pattern(pattern), **values)))  # type: ignore[arg-type]

    def check(self, found: list[Found]) -> None:
        check(found, [dump.header.dump_id for dump in self.dumps], self.trees)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_any_history_of_states_is_told_back(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Dumps on any earlier one, states that come back, numbers that are given out anew, dumps that are pruned."""
    rng = random.Random(seed)
    bench = Bench(tmp_path_factory.mktemp("states"))
    known: list[State] = []
    for number in range(1, rng.randrange(2, 12)):
        base = rng.choice(known) if known and rng.random() < 0.7 else None
        state = states.changed(base or (known[-1] if known else states.empty()), rng, mtime=number)
        if base is None and rng.random() < 0.5:
            state = states.renumbered(state, rng)
        if known and rng.random() < 0.1:
            state = rng.choice(known)
        bench.learn(state, base, number=number)
        known.append(state)
        if len(known) > 2 and rng.random() < 0.2:
            at = rng.randrange(len(known))
            bench.catalog.remove_dump(bench.dumps.pop(at).header.dump_id)
            bench.trees.pop(at)
            known.pop(at)
            bench.index.sweep(bench.index.compare().gone)
    bench.check(bench.find("*", limit=0))
    bench.close()


def test_the_dumps_that_are_asked_about(bench: Bench) -> None:
    state = states.empty()
    for number in range(1, 6):
        state = state.copy()
        state.objects[10] = states.Thing(stat.S_IFREG | 0o644, number)
        state.entries[1, b"each"] = 10
        if number == 2:
            state.objects[11] = states.Thing(stat.S_IFREG | 0o644, 1)
            state.entries[1, b"early"] = 11
        elif number == 4:
            del state.objects[11], state.entries[1, b"early"]
        bench.learn(state)
    (early,) = bench.find("early")
    assert [(version.first.time_ns, version.last.time_ns) for version in early.versions] == [(2 * SECOND, 3 * SECOND)]
    assert early.gone is not None
    assert early.gone.time_ns == 4 * SECOND
    (each,) = bench.find("each", window=Window(at_ns=3 * SECOND + 1))
    assert [version.size for version in each.versions] == [3]
    (each,) = bench.find("each", window=Window(since_ns=2 * SECOND, until_ns=3 * SECOND))
    assert [version.size for version in each.versions] == [2, 3]
    assert bench.find("early", window=Window(at_ns=SECOND)) == []
    assert bench.find("early", window=Window(since_ns=4 * SECOND)) == []
    assert len(bench.find("early", window=Window(since_ns=3 * SECOND))) == 1
    assert [one.path for one in bench.find("ea", volume="vol1")] == [b"each", b"early"]
    assert [one.path for one in bench.find("ea", limit=1)] == [b"each", b"early"]  # one more says that there are more
    with pytest.raises(NotFoundError, match="no volume"):
        bench.find("ea", volume="other")


def test_what_pruned_dumps_alone_had_goes(bench: Bench) -> None:
    names = [f"only-{number}".encode() for number in range(12)]
    for number, name in enumerate(names):
        bench.learn(State({1: states.Thing(stat.S_IFDIR), 2: states.Thing(stat.S_IFREG, number)}, {(1, name): 2}))
    for dump in bench.dumps[:9]:
        bench.catalog.remove_dump(dump.header.dump_id)
    bench.index.sweep(bench.index.compare().gone)
    del bench.dumps[:9], bench.trees[:9]
    bench.check(bench.find("only"))
    with sqlite3.connect(bench.path) as connection:
        kept = {row[0] for row in connection.execute("SELECT name FROM names")}
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (3,)
    connection.close()
    assert kept == set(names[9:])


def test_the_state_of_a_pruned_dump_comes_back(bench: Bench) -> None:
    """What is learned next is compared with the newest state, also when nothing but the comparison needs that any more."""
    rng = random.Random(4)
    first = states.changed(states.empty(), rng, mtime=1)
    second = states.changed(first, rng, mtime=2)
    bench.learn(first)
    bench.catalog.remove_dump(bench.learn(second, first).header.dump_id)
    bench.index.sweep(bench.index.compare().gone)
    del bench.dumps[1:], bench.trees[1:]
    bench.learn(second, first, number=9)
    bench.check(bench.find("*", limit=0))


def test_a_number_that_becomes_a_directory_in_its_place(bench: Bench) -> None:
    file, directory = states.Thing(stat.S_IFREG | 0o644), states.Thing(stat.S_IFDIR | 0o755)
    first = State({1: directory, 2: file}, {(1, b"a"): 2})
    bench.learn(first)
    bench.learn(State({1: directory, 2: directory, 3: file}, {(1, b"a"): 2, (2, b"b"): 3}), first)
    bench.check(bench.find("*", limit=0))


def test_a_difference_without_its_base_is_refused(bench: Bench) -> None:
    base, state = states.empty(), states.changed(states.empty(), random.Random(5), mtime=1)
    with pytest.raises(IntegrityError, match="base"):
        bench.index.learn(stored(1, state, base), Records(state, base).opened)
    assert bench.find("*") == []


def test_hostile_records_are_refused_or_lead_nowhere(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops, a directory in many places, absurd depth, times no calendar has, names that move the cursor."""
    directory = states.Thing(stat.S_IFDIR | 0o755)
    objects = dict.fromkeys(range(1, 3000), directory)
    entries = {(number, b"deep"): number + 1 for number in range(10, 2998)}
    entries |= {(1, b"top"): 10, (3, b"loop"): 4, (4, b"loop"): 3, (1, b"one"): 5, (1, b"two"): 5, (5, b"in both"): 6}
    entries |= {(7777, b"orphan"): 8888, (1, b"\x1b[2J"): 9, (1, b"old"): 8}
    objects[9] = states.Thing(stat.S_IFREG, (1 << 63) - 1, -(1 << 63))
    objects[8] = states.Thing(stat.S_IFREG, 0, (1 << 63) - 1)
    monkeypatch.setattr(history_module, "MAX_PATH", 2000)
    bench.learn(State(objects, entries))
    found = {one.path: one for one in bench.find("*", limit=0)}
    assert 1990 < max(map(len, found)) <= 2005
    assert {b"one", b"two", b"top/deep", b"\x1b[2J", b"old"} <= set(found)
    assert not [path for path in found if b"loop" in path or b"orphan" in path]
    for number in (1 << 63, (1 << 64) - 1):
        records = Records(State({1: directory, number: directory}, {}))
        with pytest.raises(IntegrityError):
            bench.index.learn(stored(9, records.state), records.opened)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Five dumps of a real volume; each test has an index of its own."""
    ground = tmp_path_factory.mktemp("rig")
    (ground / "v" / "vol" / "dir").mkdir(parents=True)
    with Rig(ground / "rig", ground / "v" / "vol") as made:
        for number in range(5):
            (made.path / "dir" / f"file{number}").write_bytes(b"x" * number)
            made.dump(number % 3)
        yield made


@pytest.fixture
def learner(rig: Rig, tmp_path: Path) -> Iterator[NameLearner]:
    rig.reporter.events.clear()
    made = _learner(rig, tmp_path)
    yield made
    made.close()


def _learner(rig: Rig, directory: Path) -> NameLearner:
    return NameLearner(rig.world, str(directory / "names.sqlite"), rig.catalog.path)


def _sizes(rig: Rig, learner: NameLearner) -> list[int]:
    return [found.versions[-1].size for found in find(rig.world, learner, Query(parse_pattern("file")))]


@pytest.mark.parametrize("damage", ["lost", "garbage", "pages", "version"])
def test_an_index_that_is_lost_or_damaged_is_made_anew(
    rig: Rig, learner: NameLearner, tmp_path: Path, damage: str
) -> None:
    assert _sizes(rig, learner) == [0, 1, 2, 3, 4]
    learner.close()
    path = tmp_path / "names.sqlite"
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("names*")} == {0o600}
    data = bytearray(path.read_bytes())
    if damage == "lost":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif damage == "version":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:  # what opens well, and shows only when it is read
        for at in range(4096, len(data), 4096):
            data[at : at + 64] = b"\xff" * 64
        path.write_bytes(data)
    assert _sizes(rig, learner) == [0, 1, 2, 3, 4]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM dumps").fetchone() == (5,)
    connection.close()


def test_damage_while_another_voltool_has_it_open(
    rig: Rig, learner: NameLearner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voltool.browse.index._CLOSING_PATIENCE", 0.2)
    other = _learner(rig, tmp_path)
    other.index.knows("")
    learner.index.knows("")
    with pytest.raises(BusyError, match="in use"):
        learner.index.replace()
    other.close()
    learner.index.replace()
    assert _sizes(rig, learner) == [0, 1, 2, 3, 4]


def test_what_cannot_be_read_is_a_warning(rig: Rig, learner: NameLearner) -> None:
    middle = rig.catalog.dumps()[1]
    path = rig.directory / "store" / middle.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert _sizes(rig, learner) == [0, 1, 2, 3, 4]  # the fourth dump is a full one, and the last rests on that
    warnings = [notice for notice in rig.reporter.notices() if "cannot be searched" in notice]
    assert len(warnings) == 2  # the damaged one, and the one that rests on it
    assert middle.header.dump_id[:12] in warnings[0]
    path.write_bytes(whole)
    learner(rig.catalog.dumps()[2])
    assert learner.index.compare() == Comparison((), {})


def test_two_voltools_fill_it_at_once(rig: Rig, learner: NameLearner, tmp_path: Path) -> None:
    def fill() -> None:
        mine = _learner(rig, tmp_path)
        assert (_sizes(rig, mine), rig.reporter.notices()) == ([0, 1, 2, 3, 4], [])
        mine.close()

    rig.catalog.close()
    processes = [_fork.Process(target=fill) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    rig.reporter.events.clear()
    assert _sizes(rig, learner) == [0, 1, 2, 3, 4]
    assert rig.reporter.events == []


def test_killed_while_it_is_filled(bench: Bench) -> None:
    """At any moment: what was learned stays, and the rest is learned afterwards."""
    rng = random.Random(3)
    dumps: list[tuple[StoredDump, Records]] = []
    state = states.empty()
    for number in range(1, 30):
        state = states.changed(state, rng, mtime=number)
        dumps.append((stored(number, state), Records(state)))
    bench.learner.close()

    def fill() -> None:
        index = NameIndex(bench.path, bench.catalog.path)
        for dump, records in dumps:
            index.learn(dump, records.opened)

    for number in range(10):
        process = _fork.Process(target=fill)
        process.start()
        time.sleep(0.01 * (number + 1))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    fill()
    for dump, records in dumps:
        bench.catalog.add_dump(dump)
        bench.dumps.append(dump)
        bench.trees.append(records.state.tree())
    bench.check(bench.find("*", limit=0))
    assert bench.reporter.notices() == []


def test_a_full_disk_leaves_what_was_learned(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    thing = states.Thing(stat.S_IFREG | 0o644)
    for number in (1, 2):
        names = [f"name-{number}-{at}".encode() for at in range(20_000 * (number - 1) + 3)]
        state = State({1: states.Thing(stat.S_IFDIR), 2: thing}, {(1, name): 2 for name in names})
        bench.catalog.add_dump(states.write(bench.world, f"{tmp_path}/store", stored(number, state), Records(state)))
    second = bench.catalog.dumps()[1]
    bench.catalog.remove_dump(second.header.dump_id)
    with LoopFilesystem("ext4", 16 << 20) as filesystem:
        learner = NameLearner(bench.world, str(filesystem.path / "state/names.sqlite"), bench.catalog.path)
        query = Query(parse_pattern("name"), limit=0)
        assert len(list(find(bench.world, learner, query))) == 3
        bench.catalog.add_dump(second)
        filler = filesystem.fill()
        assert len(list(find(bench.world, learner, query))) == 3
        assert "is not searched" in bench.reporter.notices()[-1]
        filler.unlink()
        assert len(list(find(bench.world, learner, query))) == 20_006
        learner.close()


def test_find_answers_below_a_second_with_1000_volumes_of_400_dumps(tmp_path: Path) -> None:
    """Of a processor's time, after start-up; all of it is known to the index."""
    catalog_path, index_path = make_installation(tmp_path)
    catalog = SqliteCatalog(catalog_path)
    reporter = Recorder()
    world = World(None, StoreOpener(0.0), catalog, reporter, "a test")  # type: ignore[arg-type]

    def timed(pattern: str, **values: object) -> tuple[float, list[Found]]:
        cheapest, found = 60.0, []
        for _ in range(5):
            learner = NameLearner(world, index_path, catalog_path)
            before = time.process_time()
            found = list(find(world, learner, Query(parse_pattern(pattern), **values)))  # type: ignore[arg-type]
            cheapest = min(cheapest, time.process_time() - before)
            learner.close()
            if cheapest < 1.0:
                break
        return cheapest, found

    seconds, found = timed("IMG_0007919")
    assert seconds < 1.0
    assert len(found) == 1
    seconds, found = timed("notes.txt", volume="vol777")
    assert seconds < 1.0
    assert [version.last.dump_id for version in found[0].versions] == [dump_id(777, number) for number in range(DUMPS)]
    seconds, found = timed("**/dir1/file*", window=Window(at_ns=100 * 86_400 * SECOND))
    assert seconds < 1.0
    assert len(found) == 201
    seconds, found = timed("notes.txt", window=Window(at_ns=7 * 86_400 * SECOND), limit=VOLUMES)
    assert {(one.path, one.versions[0].size) for one in found} == {(b"notes.txt", 8)}
    assert len(found) == VOLUMES
    seconds, found = timed("no such name")
    assert seconds < 1.0
    assert found == []
    assert reporter.events == []
    catalog.close()
