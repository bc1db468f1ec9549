"""Names of dump files: formatted, parsed back, and never a way out of the store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.errors import UsageError
from voltool.stores.naming import DumpName, check_volume_name, format_name, parse_name

DUMP_ID = "0123456789abcdef0123456789abcdef"


def test_a_name_looks_as_promised() -> None:
    name = format_name("vol1", 1_791_208_801_999_999_999, 2, DUMP_ID)
    assert name == f"vol1/20261005T140001Z-L2-{DUMP_ID}.voltool"


@given(
    st.from_regex(r"\A[A-Za-z][A-Za-z0-9._-]{0,99}\Z"),
    st.integers(0, 4_000_000_000),
    st.integers(0, 9999),
    st.binary(min_size=16, max_size=16),
)
def test_parsing_undoes_formatting(volume: str, time: int, level: int, dump_id: bytes) -> None:
    name = format_name(volume, time * 1_000_000_000 + 7, level, dump_id.hex())
    assert parse_name(name) == DumpName(volume, time, level, dump_id.hex())


@pytest.mark.parametrize(
    "name",
    [
        "vol1/x.voltool",
        f"20261005T140001Z-L2-{DUMP_ID}.voltool",
        f"vol1/20261305T140001Z-L2-{DUMP_ID}.voltool",
        f"vol1/20261005T140001Z-L2-{DUMP_ID}.voltool.tmp",
        f"a/vol1/20261005T140001Z-L2-{DUMP_ID}.voltool",
        f"vol1/20261005T140001Z-L2-{DUMP_ID.upper()}.voltool",
    ],
)
def test_what_is_no_dumps_name(name: str) -> None:
    assert parse_name(name) is None


@pytest.mark.parametrize("name", ["", "1vol", "-x", ".x", "a/b", "a b", "a\n", "..", "ä", "a" * 101, "a\0"])
def test_volume_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        check_volume_name(name)
    with pytest.raises(UsageError):
        format_name(name, 0, 0, DUMP_ID)
