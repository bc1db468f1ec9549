"""The LZ4 decoder in plain Python against the library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.dumpfile.codec import find_lz4
from voltool.dumpfile.lz4_block import decompress_block

#: Pieces, each repeated: literals of all lengths, and matches that overlap.
TEXTS = st.lists(st.tuples(st.binary(max_size=40), st.integers(1, 300)), max_size=12).map(
    lambda parts: b"".join(part * count for part, count in parts)
)


@given(TEXTS)
def test_it_undoes_what_the_library_does(raw: bytes) -> None:
    lz4 = find_lz4()
    assert lz4 is not None
    assert decompress_block(bytes(lz4.compress(raw)), len(raw)) == raw


@given(TEXTS, st.data())
def test_damaged_blocks_are_refused_as_the_library_refuses_them(raw: bytes, data: st.DataObject) -> None:
    lz4 = find_lz4()
    assert lz4 is not None
    stored = bytearray(lz4.compress(raw))
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decompress_block(bytes(stored), len(raw))
    except ValueError:
        return
    assert len(found) == len(raw)


@pytest.mark.parametrize(
    "stored", [b"", b"\xf0", b"\xff" * 30, b"\x10", b"\x1fa\x01\x00", b"\x1fa\x00\x00" + b"\x01" * 9]
)
def test_blocks_that_end_in_the_middle_or_lead_outside(stored: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decompress_block(stored, 100)
