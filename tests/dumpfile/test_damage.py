"""A damaged dump is refused with IntegrityError, wherever the damage is, and never gives wrong bytes."""

from __future__ import annotations

import itertools
import random
import stat

import pytest

from tests.dumpfile import model
from tests.dumpfile.model import CHUNK, State, Thing
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.frames import FrameDecoder
from voltool.dumpfile.merge import Merge
from voltool.dumpfile.verify import verify_chain
from voltool.dumpfile.writer import DumpWriter, pack_frame
from voltool.errors import IntegrityError

DIRECTORY = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644


def small_state() -> State:
    objects = {1: Thing(DIRECTORY), 2: Thing(FILE, b"hello world" * 9), 3: Thing(FILE, b""),
               4: Thing(stat.S_IFLNK | 0o777, target=b"a")}  # fmt: skip
    return State(objects, {(1, b"a"): 2, (1, b"b"): 3, (1, b"c"): 4})


def changed_state() -> State:
    state = small_state()
    return State({**state.objects, 2: Thing(FILE, b"changed"), 5: Thing(FILE, b"new")}, {**state.entries, (1, b"d"): 5})


def full(state: State | None = None) -> bytes:
    return model.write_dump(state or small_state(), None, model.header_of("f0", 0, None), random.Random(1))[0]


def incremental() -> bytes:
    header = model.header_of("f1", 1, small_state())
    return model.write_dump(changed_state(), small_state(), header, random.Random(2))[0]


def decode(data: bytes) -> None:
    decoder = FrameDecoder("dump")
    decoder.feed(data)
    decoder.finish()


def read_everything(*dumps: bytes) -> bytes:
    chain = Chain([model.open_dump(data, f"dump{at}") for at, data in enumerate(dumps)])
    verify_chain(chain)
    return b"".join(Merge(chain).stream())


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_any_flipped_byte_is_noticed(flip: int) -> None:
    data = full()
    for at in range(len(data)):
        damaged = data[:at] + bytes((data[at] ^ flip,)) + data[at + 1 :]
        with pytest.raises(IntegrityError):
            decode(damaged)
        with pytest.raises(IntegrityError):
            read_everything(damaged)


def test_any_flipped_byte_of_either_dump_keeps_a_chain_from_merging() -> None:
    dumps = [full(), incremental()]
    expected = model.read_stream(read_everything(*dumps))
    for which in (0, 1):
        for at in range(0, len(dumps[which]), 3):
            damaged = list(dumps)
            damaged[which] = dumps[which][:at] + bytes((dumps[which][at] ^ 0x10,)) + dumps[which][at + 1 :]
            with pytest.raises(IntegrityError):
                read_everything(*damaged)
            _merges_right_or_not_at_all(damaged, expected)


def _merges_right_or_not_at_all(dumps: list[bytes], expected: State) -> None:
    """A merge reads only what it needs, so damage elsewhere may go unseen; but then its result is right."""
    try:
        chain = Chain([model.open_dump(data) for data in dumps])
        stream = b"".join(Merge(chain).stream())
    except IntegrityError:
        return
    assert model.read_stream(stream) == expected


def test_cut_off_anywhere_it_is_no_dump() -> None:
    data = full()
    for length in range(len(data)):
        with pytest.raises(IntegrityError):
            decode(data[:length])
        with pytest.raises(IntegrityError):
            model.open_dump(data[:length])


def test_nothing_may_follow_the_trailer() -> None:
    for more in (b"\0", full()):
        with pytest.raises(IntegrityError):
            decode(full() + more)
        with pytest.raises(IntegrityError):
            model.open_dump(full() + more)


def test_the_pieces_it_comes_in_do_not_matter() -> None:
    data = full()
    whole = FrameDecoder("dump").feed(data)
    for size in (1, 7, 59, 60, 61, 1000):
        decoder = FrameDecoder("dump")
        frames = [frame for at in range(0, len(data), size) for frame in decoder.feed(data[at : at + size])]
        assert frames == whole
        assert decoder.finish().state_id.hex() == model.state_id_of(small_state())


def test_a_frame_left_out_doubled_or_swapped_is_noticed() -> None:
    data = full()
    index = model.open_dump(data).index
    places = [index.entry(at) for at in range(len(index))]
    spans = [(place.offset, place.offset + fmt.FRAME_SIZE + place.stored) for place in places]
    for (start, end), (_next_start, next_end) in itertools.pairwise(spans):
        for middle in (b"", data[start:end] * 2, data[end:next_end] + data[start:end]):
            rest = data[next_end:] if middle.startswith(data[end:next_end]) and middle else data[end:]
            with pytest.raises(IntegrityError):
                decode(data[:start] + middle + rest)


def test_a_wrong_base_is_refused() -> None:
    other = State({**small_state().objects, 2: Thing(FILE, b"other")}, small_state().entries)
    with pytest.raises(IntegrityError, match="fit"):
        Chain([model.open_dump(full(other)), model.open_dump(incremental())])
    with pytest.raises(IntegrityError, match="fit"):
        Chain([model.open_dump(incremental())])
    with pytest.raises(IntegrityError, match="fit"):
        Chain([model.open_dump(full()), model.open_dump(full())])


def test_a_dump_that_lies_about_its_state_is_found() -> None:
    base, lying = full(), incremental()
    trailer = fmt.decode_trailer(lying[-fmt.TRAILER_SIZE :])
    for change in ({"state_id": b"\1" * 32}, {"objects": 99}, {"entries": 99}):
        forged = lying[: -fmt.TRAILER_SIZE] + fmt.encode_trailer(trailer._replace(**change))
        chain = Chain([model.open_dump(base), model.open_dump(forged)])
        with pytest.raises(IntegrityError, match="state"):
            verify_chain(chain)
        with pytest.raises(IntegrityError, match="state"):
            Merge(chain)


def test_wrong_content_under_right_checksums_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(
        {1: Thing(DIRECTORY), 2: Thing(DIRECTORY), 3: Thing(FILE, b"small"), 4: Thing(FILE, b"L" * (CHUNK + 5))},
        {(1, b"dir"): 2, (2, b"small"): 3, (2, b"lar\nge"): 4},
    )  # fmt: skip
    original = model.cut
    for number, name in ((3, "dir/small"), (4, r"dir/lar\\x0age")):

        def altered(at: int, data: bytes, rng: random.Random, *, fresh: bool, which: int = number) -> object:
            return original(at, data[:-1] + b"!" if at == which else data, rng, fresh=fresh)

        monkeypatch.setattr(model, "cut", altered)
        with pytest.raises(IntegrityError, match=name):
            verify_chain(Chain([model.open_dump(full(state), "the dump")]))


def test_content_out_of_a_chain_is_checked_before_it_is_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    state = State({1: Thing(DIRECTORY), 2: Thing(FILE, b"L" * (2 * CHUNK + 50))}, {(1, b"a"): 2})
    original = model.cut
    monkeypatch.setattr(model, "cut", lambda at, data, rng, fresh: original(at, data[:-9] + b"!" * 9, rng, fresh=fresh))
    chain = Chain([model.open_dump(full(state))])
    record = chain.object(2)
    assert record is not None
    given = bytearray()

    def read() -> None:
        for piece in chain.content(record):
            given.extend(piece)

    with pytest.raises(IntegrityError):
        read()
    assert bytes(given) == b"L" * (2 * CHUNK)


@pytest.mark.parametrize("written", [b"\0", b"!"])
def test_data_that_should_equal_the_bases_is_checked_too(written: bytes) -> None:
    """Zeros written over a hole: the newer dump has data of its own under the hash of the base."""
    data = bytes(CHUNK) + b"L" * CHUNK
    state = State({1: Thing(DIRECTORY), 2: Thing(FILE, data)}, {(1, b"large"): 2})
    pieces: list[bytes] = []
    writer = DumpWriter(lambda data: pieces.append(bytes(data)), fmt.CODEC_NONE)
    writer.begin(model.header_of("f1", 1, state))
    final = model.record_of(2, state.objects[2])
    pending = bytearray(model.record_of(2, Thing(FILE)))
    pending[fmt.STATE_OFFSET] |= fmt.STATE_PENDING
    writer.objects([bytes(pending)])
    extent = fmt.Extent(2, 4096, 4096, fmt.EXTENT_DATA, 0)
    writer.frame(pack_frame(fmt.DATA, fmt.encode_data([extent], [written * 4096]), 1, fmt.CODEC_NONE, 2, 4096))
    writer.chunks([fmt.encode_chunk_run(2, 0, model.chunk_hashes(data)[:1])])
    writer.content([final])
    writer.finish(model.state_id_of(state), 2, 1)
    chain = Chain([model.open_dump(full(state), "base"), model.open_dump(b"".join(pieces), "newer")])
    if written == b"\0":
        verify_chain(chain)
        return
    with pytest.raises(IntegrityError, match="large"):
        verify_chain(chain)
