"""The fetch protocol: what was sent arrives, however it is cut; and what nobody of us sends is refused, not believed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.errors import AgentError, VoltoolError
from voltool.wire import fetching
from voltool.wire.fetching import ABSENT, ANSWERS, FOUND, WANTS, FetchDecoder, FetchFrame, Want

PATHS = st.binary(min_size=1, max_size=40).filter(lambda path: b"\0" not in path)
WISHES = st.lists(st.builds(Want, PATHS, st.integers(0, 1 << 62), st.integers(1, 4000)), min_size=1, max_size=50)


def frames(kind: int, data: bytes, sizes: list[int]) -> list[FetchFrame]:
    decoder = FetchDecoder(kind)
    found: list[FetchFrame] = []
    for size in [*sizes, len(data)]:
        found += decoder.feed(data[:size])
        data = data[size:]
    assert decoder.between_frames
    return found


@given(st.lists(WISHES, min_size=1, max_size=3), st.lists(st.integers(0, 60)))
def test_wants_arrive_however_they_are_cut(wishes: list[list[Want]], sizes: list[int]) -> None:
    payloads = [fetching.encode_wants(wants) for wants in wishes]
    data = b"".join(
        fetching.encode_head(WANTS, len(wants), 0, len(payload), len(payload)) + payload
        for wants, payload in zip(wishes, payloads, strict=True)
    )
    arrived = frames(WANTS, data, sizes)
    assert [fetching.decode_wants(frame.stored, frame.items) for frame in arrived] == wishes


@given(WISHES)
def test_answers_arrive(wants: list[Want]) -> None:
    data = [bytes([number % 256]) * (want.length if number % 3 else 0) for number, want in enumerate(wants)]
    kinds = [FOUND if number % 2 else ABSENT for number in range(len(wants))]
    parts = [
        b"".join(fetching.encode_answer(FOUND, piece) if kind == FOUND else fetching.encode_refusal(kind, "why"))
        for kind, piece in zip(kinds, data, strict=True)
    ]
    got = fetching.decode_answers(b"".join(parts), wants)
    assert [answer.kind for answer in got] == kinds
    assert [answer.data for answer in got] == [
        piece if kind == FOUND else b"why" for kind, piece in zip(kinds, data, strict=True)
    ]


@given(st.binary(max_size=200), st.integers(0, 5))
def test_noise_is_refused_and_never_anything_else(noise: bytes, items: int) -> None:
    wants = [Want(b"a", 0, 10)] * items
    for decode in (
        lambda: list(FetchDecoder(WANTS).feed(noise)),
        lambda: fetching.decode_wants(noise, items),
        lambda: fetching.decode_answers(noise, wants),
    ):
        with contextlib.suppress(VoltoolError):
            decode()


@pytest.mark.parametrize(
    "head",
    [
        fetching.encode_head(WANTS, 4097, 0, 10, 10),
        fetching.encode_head(WANTS, 0, 0, 10, 10),
        fetching.encode_head(WANTS, 1, 0, (8 << 20) + 1, 10),
        fetching.encode_head(WANTS, 1, 0, 10, (8 << 20) + 1),
        fetching.encode_head(ANSWERS, 1, 0, 10, 10),
        b"\2" + fetching.encode_head(WANTS, 1, 0, 10, 10)[1:],
    ],
)
def test_a_frame_beyond_the_limits_ends_it_at_its_head(head: bytes) -> None:
    with pytest.raises(AgentError):
        list(FetchDecoder(WANTS).feed(head))


def test_who_asks_for_too_much_or_answers_more_than_was_asked_is_refused() -> None:
    many = fetching.encode_wants([Want(b"a", 0, 4 << 20)] * 5)
    with pytest.raises(AgentError):
        fetching.decode_wants(many, 5)
    long = b"".join(fetching.encode_answer(FOUND, b"x" * 11))
    with pytest.raises(AgentError):
        fetching.decode_answers(long, [Want(b"a", 0, 10)])


@given(WISHES, st.integers(1, 20), st.integers(1, 9000))
def test_batches_hold_everything_in_order_within_their_limits(wants: list[Want], most: int, size: int) -> None:
    made = list(fetching.batches(wants, most, size))
    assert [want for batch in made for want in batch] == wants
    assert all(len(batch) <= most for batch in made)
    assert all(len(batch) == 1 or sum(want.length for want in batch) <= size for batch in made)
