"""Reading anywhere in a file of a chain gives its very bytes, or an error; and names are counted as they are."""

from __future__ import annotations

import collections
import random
import threading

import pytest
from hypothesis import HealthCheck, given, settings

from tests.dumpfile import model
from tests.dumpfile.model import CHUNK, State, Thing
from tests.dumpfile.test_merge_property import DIRECTORY, FILE, HISTORIES, history_of
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.content import Content
from voltool.dumpfile.links import count_links
from voltool.dumpfile.lru import Lru
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError


def content_of(chain: Chain, number: int, kept: int = 2 * CHUNK) -> Content:
    record = chain.object(number)
    assert record is not None
    return Content(chain, record, Lru(kept))


def with_kept_frames(chain: Chain, limit: int = 3 * CHUNK) -> Chain:
    kept: Lru[object] = Lru(limit)
    return Chain([DumpReader(reader._source, reader.name, kept) for reader in chain.readers])  # type: ignore[arg-type]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(**HISTORIES)
def test_any_place_of_any_file_of_any_history(seed: int, levels: list[int], steps: int) -> None:
    history = history_of(seed, levels, steps)
    rng = random.Random(seed)
    for at, dump in enumerate(history.dumps):
        chain = with_kept_frames(history.chain(at))
        for number, thing in dump.state.objects.items():
            if not thing.is_file:
                continue
            content = content_of(chain, number)
            assert content.is_known is (thing.data is not None)
            data = thing.data or b""
            for _time in range(4 if content.is_known else 0):
                offset = rng.randrange(len(data) + 10)
                length = rng.choice([1, 4096, 131072, CHUNK + 3])
                assert content.read(offset, length) == data[offset : offset + length]
            check_ranges(content, data)
        names = collections.Counter(dump.state.entries.values())
        assert count_links(chain) == {number: count for number, count in names.items() if count > 1}


def check_ranges(content: Content, data: bytes) -> None:
    """What is said to be a hole, or a chunk of zeros, is nothing but zeros."""
    if not content.is_known:
        return
    end = 0
    for start, stop in [*content.data_ranges(), (len(data), len(data))] if data else []:
        assert not any(data[end:start])
        assert end <= start <= stop
        end = stop
    chunks = set(content.data_chunks())
    for number in range(-(-len(data) // CHUNK)):
        if number not in chunks:
            assert not any(data[number * CHUNK : (number + 1) * CHUNK])


def two_dumps(size: int) -> tuple[Chain, bytes, list[bytearray]]:
    """A large file, and a patch over it; the dumps' bytes too."""
    rng = random.Random(5)
    old = rng.randbytes(size)
    new = bytearray(old)
    for at in range(0, size - 100, size // 40):
        new[at : at + 100] = rng.randbytes(100)
    states = [
        State({1: Thing(DIRECTORY), 2: Thing(FILE, data), 3: Thing(FILE, b"small")}, {(1, b"f"): 2, (1, b"g"): 3})
        for data in (old, bytes(new))
    ]
    raw = []
    for level, state in enumerate(states):
        base = states[0] if level else None
        data, _totals = model.write_dump(state, base, model.header_of(f"d{level}", level, base), random.Random(9))
        raw.append(bytearray(data))
    sources = [model.Memory(data) for data in raw]  # type: ignore[arg-type]
    return Chain([DumpReader(source, f"d{at}", Lru(2 * CHUNK)) for at, source in enumerate(sources)]), bytes(new), raw


def test_a_read_in_the_middle_does_not_read_what_is_before() -> None:
    chain, data, _raw = two_dumps(24 * CHUNK)
    content = content_of(chain, 2)
    assert content.read(0, 1) == data[:1]  # the table of hashes is read once
    read = 0
    for reader in chain.readers:
        whole = reader._source

        def counting(offset: int, length: int, read_at=whole.read_at) -> bytes:  # type: ignore[no-untyped-def] # noqa: ANN001
            nonlocal read
            read += length
            return bytes(read_at(offset, length))

        whole.read_at = counting  # type: ignore[method-assign]
    assert content.read(20 * CHUNK + 5, 4096) == data[20 * CHUNK + 5 :][:4096]
    assert read < 6 * CHUNK


def test_damage_is_an_error_where_it_is_and_nowhere_else() -> None:
    chain, data, raw = two_dumps(8 * CHUNK)
    reader = chain.readers[0]
    positions = list(reader.data_frames(2, 5 * CHUNK))
    entry = reader.index.entry(positions[1])
    raw[0][entry.offset + fmt.FRAME_SIZE + entry.stored // 2] ^= 1
    content = content_of(chain, 2)
    assert content.read(0, CHUNK) == data[:CHUNK]
    with pytest.raises(IntegrityError):
        content.read(entry.key2, CHUNK)
    assert content.read(0, CHUNK) == data[:CHUNK]
    assert content_of(chain, 3).read(0, 10) == b"small"


def test_bytes_that_are_not_those_of_the_hash_are_never_given() -> None:
    """Every checksum of the dump is right; only the content is another file's."""
    chain, _data, _raw = two_dumps(4 * CHUNK)
    other, _other, _raw = two_dumps(4 * CHUNK)
    for reader in chain.readers:
        original = reader.extents

        def swapped(number, offset=0, original=original):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
            for extent, part in original(number, offset):
                yield extent, memoryview(bytes(len(part)))

        reader.extents = swapped  # type: ignore[method-assign]
    for number in (2, 3):
        with pytest.raises(IntegrityError):
            content_of(chain, number).read(0, 10)
    assert content_of(other, 3).read(0, 10) == b"small"


def test_many_threads_read_one_file_at_once() -> None:
    chain, data, _raw = two_dumps(6 * CHUNK)
    content = content_of(chain, 2, kept=CHUNK)
    wrong: list[int] = []

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _time in range(40):
            at = rng.randrange(len(data))
            if content.read(at, 5000) != data[at : at + 5000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=[seed]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
