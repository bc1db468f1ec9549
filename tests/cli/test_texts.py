"""Names, amounts, times and places between people and the program."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.cli import display, json_lines
from voltool.cli.location import Location, parse_location
from voltool.cli.table import table
from voltool.cli.when import parse_when
from voltool.errors import UsageError
from voltool.showing import shown

NOW = datetime(2026, 10, 5, 16, 30, 0, 500_000, tzinfo=UTC)
SECOND = 1_000_000_000


def ns(text: str, extra: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND + extra


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-10-05", ns("2026-10-06") - 1),
        ("2026-10-04", ns("2026-10-05") - 1),
        ("2026-10-05 14:00", ns("2026-10-05T14:00:00")),
        ("2026-10-05T14:00:01", ns("2026-10-05T14:00:02") - 1),
        ("2026-10-05T14:00:01Z", ns("2026-10-05T14:00:02") - 1),
        ("2026-10-05 16:00:01 +0200", ns("2026-10-05T14:00:02") - 1),
        ("2026-10-05T16:00:01.25+02:00", ns("2026-10-05T14:00:01", SECOND // 4)),
        ("2026-10-05T14:00:01.123456789Z", ns("2026-10-05T14:00:01", 123_456_789)),
        ("yesterday", ns("2026-10-05") - 1),
        ("today", ns("2026-10-06") - 1),
        ("3 days ago", ns("2026-10-03") - 1),
        ("2 hours ago", ns("2026-10-05T14:30:00", 500_000_999)),
        ("yesterday 14:00", ns("2026-10-04T14:00:00", 999)),
        (" 5 oct ", ns("2026-10-06") - 1),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_when(text, NOW) == expected


@pytest.mark.parametrize("text", ["2026-10-06", "2026-10-05 16:31", "tomorrow", "in 2 hours", "2099-01-01T00:00:00Z"])
def test_the_future_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="future"):
        parse_when(text, NOW)


@pytest.mark.parametrize("text", ["", "banana", "2026-13-01", "2026-10-05 25:00", "03/04/2026", "4.3.2026", "12:99"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        parse_when(text, NOW)


@given(st.integers(0, ns("2026-10-05T16:30:00")))
def test_the_times_we_show_are_taken_back(time_ns: int) -> None:
    """A time copied from a listing means that dump: not earlier, and no later than its second."""
    assert parse_when(json_lines.time_value(time_ns), NOW) == time_ns
    shown = parse_when(display.local_time(time_ns), NOW)
    assert time_ns <= shown < time_ns + SECOND


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("hostA:/srv/vol1", "hostA", b"/srv/vol1"),
        ("local:/", "local", b"/"),
        ("root@10.0.0.1:2222:/srv//a/./b/", "root@10.0.0.1:2222", b"/srv/a/b"),
        ("[fe80::1%eth0]:22:/x", "[fe80::1%eth0]:22", b"/x"),
        ("me@[::1]:/x:/y", "me@[::1]", b"/x:/y"),
        ("h:/a\udcff", "h", b"/a\xff"),
    ],
)
def test_places(text: str, host: str, path: bytes) -> None:
    assert parse_location(text) == Location(host, path)


@pytest.mark.parametrize(
    "text",
    [
        "/srv/x",
        "hostA",
        "hostA:x",
        ":/x",
        "-oProxyCommand=x:/y",
        "a b:/x",
        "h:/a/../b",
        "fe80::1:/x",
        "a@b@c:/x",
        "h:/\0",
    ],
)
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_location(text)
    assert caught.value.remedy or ".." in text or "\0" in text


def unescape(shown: str) -> bytes:
    parts = re.findall(r"\\\\|\\x[0-9a-f]{2}|[^\\]", shown)
    assert "".join(parts) == shown
    return b"".join(
        b"\\" if part == "\\\\" else bytes.fromhex(part[2:]) if part[0] == "\\" else part.encode() for part in parts
    )


@given(st.binary(max_size=40) | st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode))
def test_shown_names_are_harmless_and_can_be_read_back(name: bytes) -> None:
    text = shown(name)
    assert text.isprintable()
    assert unescape(text) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"a\xffb", "a\\xffb"), ("é✓".encode(), "é✓"), (b"\x1b[0m", "\\x1b[0m"), (b"a\nb", "a\\x0ab"), (b"\\x", "\\\\x"),
     ("\u202e".encode(), "\\xe2\\x80\\xae")],
)  # fmt: skip
def test_shown_names(name: bytes, text: str) -> None:
    assert shown(name) == text


def test_amounts_and_durations() -> None:
    assert [display.amount(count) for count in (0, 1023, 1024, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "5.0 GiB"]
    assert [display.duration(value) for value in (0.44, 59.4, 61, 3700, 90_000, 200_000)] == [
        "0.4 s", "59 s", "1 min 1 s", "1 h 1 min", "25 h 0 min", "2 days",
    ]  # fmt: skip
    assert display.count(1, "entry", "entries") == "1 entry"
    assert display.count(2000, "file") == "2,000 files"


def test_tables_are_aligned_and_never_cut() -> None:
    assert table(("A", "BB"), [("x" * 200, "1"), ("y", "22")], right=(1,)) == [
        "A" + " " * 199 + "  BB",
        "x" * 200 + "   1",
        "y" + " " * 199 + "  22",
    ]
