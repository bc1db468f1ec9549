"""docs/wire-protocol.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from voltool.agent import handlers
from voltool.wire import framing, messages

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
