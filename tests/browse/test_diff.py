"""`diff` against the states themselves, for any history of states: what it tells leads from one to the other."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.browse import states
from tests.browse.diff_truth import check_diff
from tests.browse.states import Records, State, Thing, stored, write
from tests.core.harness import Recorder
from voltool.backup.ports import World
from voltool.browse.diff import diff
from voltool.browse.diff_records import Change
from voltool.catalog.sqlite import SqliteCatalog
from voltool.model import StoredDump
from voltool.stores.opening import StoreOpener

DIRECTORY = Thing(stat.S_IFDIR | 0o755)


class Bench:
    """A store with dumps of states, and what `diff` says of them."""

    def __init__(self, directory: Path) -> None:
        (directory / "store").mkdir()
        self.catalog = SqliteCatalog(str(directory / "catalog.sqlite"))
        self.world = World(None, StoreOpener(0.0), self.catalog, Recorder(), "a test")  # type: ignore[arg-type]
        self._url = f"file://{directory}/store"
        self._number = 0

    def dump(self, state: State, base: tuple[StoredDump, State] | None = None) -> StoredDump:
        """A dump of ``state``, on ``base`` and its state."""
        self._number += 1
        dump = stored(self._number, state, base[1] if base else None)
        header = replace(dump.header, level=base[0].header.level + 1 if base else 0)
        dump = write(self.world, self._url, replace(dump, header=header), Records(state, base[1] if base else None))
        self.catalog.add_dump(dump)
        return dump

    def told(self, old: StoredDump, new: StoredDump, *only: bytes) -> list[tuple[str, bytes, bytes | None]]:
        """Kind, path and old path of each difference."""
        return [(one.kind, one.path, one.old_path) for one in diff(self.world, old, new, only)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.catalog.close()


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_what_is_told_leads_from_one_state_to_any_other(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    bench = Bench(tmp_path_factory.mktemp("diff"))
    known: list[tuple[StoredDump, State]] = []
    for number in range(1, rng.randrange(3, 7)):
        base = rng.choice(known) if known and rng.random() < 0.8 else None
        state = states.changed(base[1] if base else states.empty(), rng, mtime=number)
        for _ in range(rng.randrange(3)):
            state = states.changed(state, rng, mtime=number)
        if base is None and known:
            state = states.renumbered(states.changed(known[-1][1], rng, mtime=number), rng)
        known.append((bench.dump(state, base), state))
    for old, before in known:
        for new, after in known:
            check_diff(diff(bench.world, old, new), before.tree(), after.tree())
    bench.catalog.close()


def test_a_renamed_directory_is_one_line_and_what_else_happens_is_told(bench: Bench) -> None:
    file = Thing(stat.S_IFREG | 0o644, 3, 1)
    old = State(
        {1: DIRECTORY, 2: DIRECTORY, 3: file, 4: file, 5: file},
        {(1, b"d"): 2, (2, b"f"): 3, (2, b"g"): 4, (1, b"x"): 5},
    )
    new = old.copy()
    new.entries = {(1, b"e"): 2, (2, b"f"): 3, (1, b"d"): 9, (9, b"g"): 10, (1, b"x"): 5, (1, b"y"): 5}
    new.objects = {
        1: DIRECTORY,
        2: DIRECTORY,
        3: replace(file, mode=stat.S_IFREG | 0o600),
        5: file,
        9: DIRECTORY,
        10: file,
    }
    first = bench.dump(old)
    second = bench.dump(new, (first, old))
    assert bench.told(first, second) == [
        ("added", b"d", None),
        ("removed", b"d/g", None),  # the directory that has the name d now is another one
        ("added", b"d/g", None),
        ("renamed", b"e", b"d"),
        ("changed", b"e/f", None),
        ("added", b"y", None),
    ]
    assert bench.told(first, second, b"d") == [
        ("added", b"d", None), ("removed", b"d/g", None), ("added", b"d/g", None), ("renamed", b"e", b"d"),
    ]  # fmt: skip
    assert bench.told(first, second, b"e/f", b"y") == [("changed", b"e/f", None), ("added", b"y", None)]
    (changed,) = diff(bench.world, first, second, [b"e/f"])
    assert changed.changes == (Change.MODE,)


def test_a_number_given_out_twice_is_no_rename(bench: Bench) -> None:
    """Two dumps of one base, and a new file in each: their numbers are equal, and mean nothing to each other."""
    base = State({1: DIRECTORY, 2: Thing(stat.S_IFREG | 0o644)}, {(1, b"old"): 2})
    zero = bench.dump(base)
    one = State(base.objects | {3: Thing(stat.S_IFREG | 0o644, 1)}, base.entries | {(1, b"x"): 3})
    other = State(base.objects | {3: Thing(stat.S_IFREG | 0o644, 1)}, {(1, b"new"): 2, (1, b"y"): 3})
    told = bench.told(bench.dump(one, (zero, base)), bench.dump(other, (zero, base)))
    assert told == [("renamed", b"new", b"old"), ("removed", b"x", None), ("added", b"y", None)]


def test_equal_states_have_no_difference_and_need_no_file(bench: Bench, tmp_path: Path) -> None:
    state = states.changed(states.empty(), random.Random(1), mtime=1)
    first, second = bench.dump(state), bench.dump(state)
    (tmp_path / "store" / first.file).unlink()
    assert bench.told(first, second) == []


def test_two_full_dumps_are_compared_by_path(bench: Bench) -> None:
    """With other numbers, and an equal number for another file."""
    file = Thing(stat.S_IFREG | 0o644, 3, 1)
    first = bench.dump(State({1: DIRECTORY, 2: file, 3: replace(file, size=4)}, {(1, b"a"): 2, (1, b"b"): 3}))
    second = bench.dump(State({1: DIRECTORY, 2: replace(file, size=4), 3: file}, {(1, b"b"): 2, (1, b"c"): 3}))
    assert bench.told(first, second) == [("removed", b"a", None), ("added", b"c", None)]


def test_loops_and_depth_in_a_hostile_dump_lead_nowhere(bench: Bench) -> None:
    objects = dict.fromkeys(range(1, 3000), DIRECTORY)
    entries = {(number, b"n" * 255): number + 1 for number in range(10, 2998)}
    entries |= {(1, b"top"): 10, (3, b"loop"): 4, (4, b"loop"): 3}
    hostile = bench.dump(State(objects, entries))
    told = bench.told(bench.dump(states.empty()), hostile)
    assert told[0] == ("added", b"top", None)
    assert max(len(path) for _kind, path, _old in told) < 66_000
    assert not [path for _kind, path, _old in told if b"loop" in path]
