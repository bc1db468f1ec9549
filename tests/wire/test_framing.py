from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.errors import AgentError
from voltool.wire import framing
from voltool.wire.framing import BEAT, DATA, MESSAGE, SYNC, FrameDecoder, WireFrame, encode_frame_head

frames_strategy = st.lists(
    st.one_of(st.tuples(st.sampled_from([MESSAGE, DATA]), st.binary(max_size=200)), st.just((BEAT, b""))), max_size=8
)


def encoded(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(encode_frame_head(kind, len(payload)) + payload for kind, payload in frames)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(frames=frames_strategy, noise=st.binary(max_size=60), places=st.lists(st.integers(0, 5000), max_size=12))
def test_frames_survive_any_noise_and_any_cutting(
    frames: list[tuple[int, bytes]], noise: bytes, places: list[int]
) -> None:
    noise = noise.replace(b"\0", b"n")
    decoder = FrameDecoder(expect_sync=True)
    got: list[WireFrame] = []
    for piece in cut(noise + SYNC + b"\n" + encoded(frames), places):
        got += decoder.feed(piece)
    assert [(frame.kind, frame.payload) for frame in got] == [frame for frame in frames if frame[0] != BEAT]
    assert decoder.noise == noise
    assert decoder.synced
    assert decoder.between_frames


@given(payload=st.binary(min_size=1, max_size=50), missing=st.integers(1, 50))
def test_an_incomplete_frame_is_not_handed_out(payload: bytes, missing: int) -> None:
    data = encoded([(DATA, payload)])
    decoder = FrameDecoder(expect_sync=False)
    assert list(decoder.feed(data[: max(0, len(data) - missing)])) == []
    assert decoder.between_frames == (missing >= len(data))


@pytest.mark.parametrize(
    "head", [encode_frame_head(DATA, framing.MAX_PAYLOAD + 1), encode_frame_head(7, 1), encode_frame_head(BEAT, 1)]
)
def test_what_is_no_frame_is_refused_before_anything_is_allocated(head: bytes) -> None:
    with pytest.raises(AgentError, match="not voltool's protocol"):
        list(FrameDecoder(expect_sync=False).feed(head))


def test_endless_noise_is_given_up() -> None:
    decoder = FrameDecoder(expect_sync=True)
    with pytest.raises(AgentError, match="prints without end"):
        list(itertools.chain.from_iterable(decoder.feed(b"yes\n" * 4096) for _ in range(100)))


def test_large_data_is_split_without_copies() -> None:
    data = bytearray(framing.DATA_PIECE * 2 + 5)
    pieces = list(framing.split_data(data))
    assert [len(piece) for piece in pieces] == [framing.DATA_PIECE, framing.DATA_PIECE, 5]
    assert all(piece.obj is data for piece in pieces)
