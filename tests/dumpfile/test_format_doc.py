"""docs/dump-format.md and dumpfile/format.py say the same."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from voltool.dumpfile import format as fmt

PAGE = Path(__file__).parents[2] / "docs" / "dump-format.md"
#: Which struct each byte table is of: the first name in backquotes before it that is one.
STRUCTS = ["PREAMBLE", "FRAME", "OWNER", "OBJECT", "_XATTR", "EXTENT", "CHUNK_RUN", "INDEX_ENTRY", "TRAILER"]


def byte_tables() -> dict[str, list[tuple[int, int, str]]]:
    """Struct name to rows of (offset, bytes, field)."""
    tables: dict[str, list[tuple[int, int, str]]] = {}
    current = ""
    for line in PAGE.read_text().splitlines():
        named = [name for name in re.findall(r"`(\w+)`", line) if name in STRUCTS and not line.startswith("|")]
        current = named[-1] if named else current
        row = re.match(r"\| (\d+) \| (\d+) \| ([^|]+) \|", line)
        if row:
            tables.setdefault(current, []).append((int(row[1]), int(row[2]), row[3].strip()))
    return tables


def fields_of(packed: struct.Struct) -> list[tuple[int, int]]:
    """(offset, bytes) of each item of a big-endian struct, padding too."""
    places = []
    offset = 0
    for item in re.findall(r"\d*[a-zA-Z]", packed.format.lstrip(">")):
        count, letter = int(item[:-1] or 1), item[-1]
        for width in [struct.calcsize(">" + item)] if letter in "sx" else [struct.calcsize(">" + letter)] * count:
            places.append((offset, width))
            offset += width
    assert offset == packed.size
    return places


@pytest.mark.parametrize("name", STRUCTS)
def test_each_byte_table_is_the_struct(name: str) -> None:
    packed = getattr(fmt, name)
    assert [(offset, width) for offset, width, _field in byte_tables()[name]] == fields_of(packed)


def test_the_object_table_has_the_fields_of_the_record() -> None:
    names = [re.sub(r"\W", "_", field) for _offset, _width, field in byte_tables()["OBJECT"]]
    assert names[:5] + names[7:11] == [*fmt.ObjectRecord._fields[:5], *fmt.ObjectRecord._fields[7:11]]
    assert dict(zip(names, [row[0] for row in byte_tables()["OBJECT"]], strict=True))["state"] == fmt.STATE_OFFSET


def constants() -> dict[str, int]:
    return {
        name: int(value)
        for name, value in re.findall(r"^\| `([A-Z_0-9]+)` \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    }


def test_each_constant_has_its_value() -> None:
    stated = constants()
    assert len(stated) > 20
    assert {name: getattr(fmt, name) for name in stated} == stated


def test_no_frame_type_codec_or_state_is_missing() -> None:
    stated = constants()
    kinds = {name for name in vars(fmt) if re.match(r"(STATE_(?!OFFSET)|CODEC_|EXTENT_(?!SIZE)|MAX_)", name)}
    assert kinds | set(fmt.FRAME_NAMES.values()) <= set(stated)


def test_magics_stand_there() -> None:
    text = PAGE.read_text()
    assert " ".join(f"{byte:02x}" for byte in fmt.MAGIC) in text
    assert fmt.TRAILER_MAGIC == b"voltoolEND\0\0"
    assert fmt.ROOT_PREFIX == b"voltool content\0"
