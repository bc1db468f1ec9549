"""Any history of a volume, dumped at any levels: what is merged and read out of a chain equals the plain model."""

from __future__ import annotations

import dataclasses
import random
import stat
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dumpfile import model
from tests.dumpfile.model import CHUNK, State, Thing
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.merge import Merge, merge
from voltool.dumpfile.selection import Selection
from voltool.dumpfile.verify import verify_chain

DIRECTORY = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644


class Dumped(NamedTuple):
    state: State
    level: int
    base: int | None
    data: bytes


class History:
    """Changes a state step by step, and dumps it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.objects: dict[int, Thing] = {1: Thing(DIRECTORY)}
        self.entries: dict[tuple[int, bytes], int] = {}
        self.next_number = 2
        self.dumps: list[Dumped] = []

    def step(self) -> None:
        self.rng.choice([self.create, self.create, self.create, self.write, self.write, self.touch, self.delete,
                         self.rename, self.link, self.lose])()  # fmt: skip

    def _directories(self) -> list[int]:
        return [number for number, thing in self.objects.items() if stat.S_ISDIR(thing.mode)]

    def _files(self) -> list[int]:
        return [number for number, thing in self.objects.items() if thing.is_file]

    def content(self, old: bytes | None = None) -> bytes:
        rng = self.rng
        if old and len(old) > CHUNK and rng.random() < 0.8:
            return self._changed(bytearray(old))
        size = rng.choice([0, 1, 100, 5000, 5000, 70000, CHUNK, CHUNK + 1, CHUNK + 9000, 2 * CHUNK, 3 * CHUNK + 77])
        if rng.random() < 0.1:
            return bytes(size)
        data = bytearray(rng.randbytes(min(size, 3000)) * (size // min(size, 3000) + 1) if size else b"")[:size]
        if rng.random() < 0.4:
            start = rng.randrange(size + 1)
            data[start : start + CHUNK] = bytes(len(data[start : start + CHUNK]))
        return bytes(data)

    def _changed(self, data: bytearray) -> bytes:
        rng = self.rng
        for _time in range(rng.randrange(4)):
            at = rng.randrange(len(data))
            data[at : at + 50] = rng.randbytes(len(data[at : at + 50]))
        if rng.random() < 0.3:
            at = rng.randrange(len(data))
            data[at : at + 20000] = bytes(len(data[at : at + 20000]))
        size = rng.choice([len(data), len(data), 0, CHUNK, CHUNK + 5, len(data) + 5000, len(data) + CHUNK])
        return bytes(data[:size]) + bytes(max(0, size - len(data)))

    def create(self) -> None:
        rng = self.rng
        thing = rng.choice([Thing(DIRECTORY), Thing(FILE, self.content()), Thing(FILE, self.content()),
                            Thing(stat.S_IFLNK | 0o777, target=b"t"), Thing(stat.S_IFIFO | 0o600)])  # fmt: skip
        number, self.next_number = self.next_number, self.next_number + rng.randint(1, 3)
        self.entries[rng.choice(self._directories()), b"n%d" % number] = number
        self.objects[number] = thing

    def write(self) -> None:
        for number in self.rng.sample(self._files(), min(2, len(self._files()))):
            thing = self.objects[number]
            self.objects[number] = dataclasses.replace(thing, data=self.content(thing.data))

    def touch(self) -> None:
        number = self.rng.choice(list(self.objects))
        thing = self.objects[number]
        self.objects[number] = dataclasses.replace(thing, mtime=thing.mtime + 1, xattrs=self.xattrs())

    def xattrs(self) -> bytes:
        return fmt.encode_xattrs([(b"user.n%d" % at, self.rng.randbytes(at)) for at in range(self.rng.randrange(3))])

    def lose(self) -> None:
        number, self.next_number = self.next_number, self.next_number + 1
        self.objects[number] = Thing(FILE, None)
        self.entries[1, b"lost%d" % number] = number

    def delete(self) -> None:
        names = [
            key for key, child in self.entries.items() if child not in {directory for directory, _ in self.entries}
        ]
        if names:
            child = self.entries.pop(self.rng.choice(names))
            if child not in self.entries.values():
                del self.objects[child]

    def rename(self) -> None:
        if self.entries:
            key = self.rng.choice(list(self.entries))
            self.entries[key[0], b"r%d" % self.rng.randrange(1 << 40)] = self.entries.pop(key)

    def link(self) -> None:
        if self._files():
            child = self.rng.choice(self._files())
            self.entries[self.rng.choice(self._directories()), b"l%d" % self.rng.randrange(1 << 40)] = child

    def dump(self, level: int) -> None:
        state = State(dict(self.objects), dict(self.entries))
        lower = [at for at, dump in enumerate(self.dumps) if dump.level < level]
        base = lower[-1] if lower else None
        level = level if lower else 0
        base_state = self.dumps[base].state if base is not None else None
        header = model.header_of(f"d{len(self.dumps)}", level, base_state)
        data, _totals = model.write_dump(state, base_state, header, self.rng)
        self.dumps.append(Dumped(state, level, base, data))

    def chain(self, at: int | None) -> Chain:
        readers = []
        while at is not None:
            readers.append(model.open_dump(self.dumps[at].data, f"d{at}"))
            at = self.dumps[at].base
        return Chain(readers[::-1])


def history_of(seed: int, levels: list[int], steps: int) -> History:
    history = History(seed)
    for level in levels:
        for _step in range(steps):
            history.step()
        history.dump(level)
    return history


HISTORIES = {
    "seed": st.integers(0, 1 << 32),
    "levels": st.lists(st.integers(0, 5), min_size=1, max_size=5),
    "steps": st.integers(1, 12),
}
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(**HISTORIES)
def test_any_chain_merges_to_the_state_at_its_time(seed: int, levels: list[int], steps: int) -> None:
    history = history_of(seed, levels, steps)
    for at, dump in enumerate(history.dumps):
        merging = Merge(history.chain(at))
        stream = b"".join(merging.stream())
        assert model.read_stream(stream) == dump.state
        assert model.open_dump(stream).state_id == model.state_id_of(dump.state)


@FEW
@given(**HISTORIES)
def test_any_chain_reads_as_the_state_at_its_time(seed: int, levels: list[int], steps: int) -> None:
    history = history_of(seed, levels, steps)
    state = history.dumps[-1].state
    chain = history.chain(len(history.dumps) - 1)
    assert (list(chain.objects()), list(chain.entries())) == model.records_of(state)
    for number, thing in state.objects.items():
        record = chain.object(number)
        assert record is not None
        listed = dict(chain.entries_of(number))
        assert listed == {name: child for (parent, name), child in state.entries.items() if parent == number}
        if thing.is_file:
            assert b"".join(bytes(piece) for piece in chain.content(record)) == (thing.data or b"")


@FEW
@given(**HISTORIES, after=st.integers(0, 60))
def test_a_resumed_merge_leaves_out_what_is_there(seed: int, levels: list[int], steps: int, after: int) -> None:
    history = history_of(seed, levels, steps)
    state = history.dumps[-1].state
    there = {number: thing.data for number, thing in state.objects.items() if number <= after and thing.data}
    stream = b"".join(merge(history.chain(len(history.dumps) - 1), resume_after=after))
    assert model.read_stream(stream, there) == state
    assert not any(frame_holds(stream, number) for number in there)


def frame_holds(stream: bytes, number: int) -> bool:
    return any(True for _extent in model.open_dump(stream).extents(number))


@FEW
@given(**HISTORIES, which=st.randoms(use_true_random=False))
def test_a_selection_is_a_complete_dump_of_its_part(
    seed: int, levels: list[int], steps: int, which: random.Random
) -> None:
    history = history_of(seed, levels, steps)
    state = history.dumps[-1].state
    paths = [which.choice(all_paths(state)) for _time in range(which.randint(1, 3))]
    chain = history.chain(len(history.dumps) - 1)
    stream = b"".join(merge(chain, selection=Selection(chain, paths)))
    expected = part_of(state, paths)
    assert model.read_stream(stream) == expected
    assert model.open_dump(stream).state_id == model.state_id_of(expected)


def all_paths(state: State) -> list[list[bytes]]:
    paths: list[list[bytes]] = [[]]
    waiting: list[tuple[int, list[bytes]]] = [(1, [])]
    while waiting:
        directory, path = waiting.pop()
        for (parent, name), child in state.entries.items():
            if parent == directory:
                paths.append([*path, name])
                waiting.append((child, [*path, name]))
    return paths


def part_of(state: State, paths: list[list[bytes]]) -> State:
    kept = {
        tuple(path)
        for path in all_paths(state)
        if any(path[: len(chosen)] == chosen or chosen[: len(path)] == path for chosen in paths)
    }
    objects, entries = {1: state.objects[1]}, {}
    for path in sorted(kept, key=len):
        number, directory = 1, 1
        for name in path:
            directory, number = number, state.entries[number, name]
        if path:
            entries[directory, path[-1]] = number
            objects[number] = state.objects[number]
    return State(objects, entries)


@pytest.mark.parametrize("seed", range(3))
def test_a_lone_dump_passes_through_as_it_is(seed: int) -> None:
    history = history_of(seed, [0], 20)
    assert b"".join(merge(history.chain(0))) == history.dumps[0].data


@FEW
@given(**HISTORIES)
def test_every_chain_is_found_whole(seed: int, levels: list[int], steps: int) -> None:
    history = history_of(seed, levels, steps)
    for at in range(len(history.dumps)):
        seen: list[tuple[int, int]] = []
        verify_chain(history.chain(at), lambda read, files: seen.append((read, files)))  # noqa: B023 - called at once
        assert seen[-1][0] == sum(reader.totals.stored_bytes for reader in history.chain(at).readers)
