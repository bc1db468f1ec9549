"""docs/wire-protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from voltool.agent import handlers
from voltool.wire import fetching, framing, messages

TEXT = (Path(__file__).parents[2] / "docs" / "wire-protocol.md").read_text()


def test_every_request_and_its_reply_is_in_the_document() -> None:
    rows = dict(re.findall(r"^\| `([A-Z]\w+)` \| `([A-Z]\w+)`", TEXT, re.MULTILINE))
    assert set(rows) == {"Hello", *(request.__name__ for request in handlers._TABLE)}
    assert set(rows.values()) <= set(messages.KNOWN)


def test_every_message_that_the_document_names_exists() -> None:
    between = re.findall(r"[←→,] `([A-Z]\w+)`", TEXT)
    assert between
    assert set(between) <= set(messages.KNOWN)


def test_the_frame_is_as_the_document_has_it() -> None:
    assert "| 0 | 4 | length of the payload, big-endian; at most 16 MiB |" in TEXT
    assert "| 4 | 1 | kind: 1 message, 2 data, 3 beat |" in TEXT
    assert framing.MAX_PAYLOAD == 16 << 20
    assert framing.encode_frame_head(framing.MESSAGE, 0x01020304) == b"\x01\x02\x03\x04\x01"
    assert framing.encode_frame_head(framing.DATA, 5) == b"\0\0\0\5\2"
    assert framing.BEAT_FRAME == b"\0\0\0\0\3"
    assert f'"{repr(framing.SYNC)[2:-1].replace("x00", "0")}' in TEXT


def test_the_frames_of_fetching_are_as_the_document_has_them() -> None:
    head = fetching.encode_head(fetching.ANSWERS, 0x01020304, 1, 0x05060708, 0x090A0B0C)
    assert head == bytes([1, 2, 1, 0, *range(1, 13)])
    for line in (
        "| 0 | 1 | version: 1 |",
        "| 1 | 1 | kind: 1 wants, 2 answers |",
        "| 4 | 4 | wants or answers in the payload; at most 4096 |",
        "| 8 | 4 | length of the payload as it follows; at most 8 MiB |",
        "| 12 | 4 | its length before compression; at most 8 MiB |",
        "length of the path (4, at most 1 MiB), offset in the file (8), how many bytes (4, at most 4 MiB;",
        "together at most 16 MiB",
    ):
        assert line in " ".join(TEXT.split()) or line in TEXT
    assert (fetching.WANTS, fetching.ANSWERS, fetching.FOUND, fetching.ABSENT, fetching.UNREADABLE) == (1, 2, 0, 1, 2)
    limits = fetching.MAX_PAYLOAD, fetching.MAX_PATH, fetching.MAX_RANGE, fetching.MAX_ASKED, fetching.MAX_WANTS
    assert limits == (8 << 20, 1 << 20, 4 << 20, 16 << 20, 4096)
    assert fetching.encode_wants([fetching.Want(b"a/b", 2, 1)]) == b"\0\0\0\3" + b"\0" * 7 + b"\2\0\0\0\1a/b"
    assert b"".join(fetching.encode_answer(fetching.FOUND, b"xy")) == b"\0\0\0\0\2xy"
