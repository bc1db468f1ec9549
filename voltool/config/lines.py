"""Which line of a TOML text a key stands on, so that an error can name it. Knows nothing of what keys mean.

tomllib gives values without positions. This finder reads just enough of TOML's grammar (https://toml.io/en/v1.0.0):
table headers, dotted and quoted keys, and strings, arrays and inline tables to skip over.
"""

from __future__ import annotations

import re

KeyPath = tuple[str, ...]

_PART = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(\.)?""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}" + r'|"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'", re.DOTALL
)
_OPENING, _CLOSING = "[{", "]}"


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) where each key and table of a valid TOML text first stands, by its dotted path."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    position = 0
    while position < len(text):
        position = _skip_blank(text, position)
        if position >= len(text):
            break
        line = text.count("\n", 0, position) + 1
        if text[position] == "[":
            table, position = _parse_key(text, position + len(re.match(r"\[+", text[position:])[0]))  # type: ignore[index]
            _note(lines, table, line)
            position = _end_of_line(text, position)
            continue
        key, position = _parse_key(text, position)
        _note(lines, table + key, line)
        position = _note_value(text, _skip_blank(text, position + 1), table + key, lines)
    return lines


def find_line(text: str, path: KeyPath) -> int | None:
    """The line of ``path``, or of its nearest parent that has one."""
    lines = key_lines(text)
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def header_keys(line: str) -> KeyPath:
    """The path in a table's header, also of one that is cut off: ``[volumes.vol1``; empty for another line."""
    match = re.match(r"\s*\[+", line)
    return _parse_key(line, match.end())[0] if match else ()


def _note(lines: dict[KeyPath, int], path: KeyPath, line: int) -> None:
    for length in range(1, len(path) + 1):
        lines.setdefault(path[:length], line)


def _skip_blank(text: str, position: int) -> int:
    while position < len(text):
        if text[position] == "#":
            position = _end_of_line(text, position)
        elif text[position].isspace() or text[position] == ",":
            position += 1
        else:
            break
    return position


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _parse_key(text: str, position: int) -> tuple[KeyPath, int]:
    parts: list[str] = []
    while match := _PART.match(text, position):
        parts.append(next(part for part in match.groups()[:3] if part is not None))
        position = match.end()
        if match[4] is None:
            break
    return tuple(parts), position


def _note_value(text: str, position: int, path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The position behind the value that begins at ``position``; the keys of an inline table are noted too."""
    if position < len(text) and text[position] in _OPENING:
        return _note_nested(text, position, path, lines)
    if string := _STRING.match(text, position):
        return string.end()
    while position < len(text) and text[position] not in "\n,]}#":
        position += 1
    return position


def _note_nested(text: str, position: int, path: KeyPath, lines: dict[KeyPath, int]) -> int:
    in_table = text[position] == "{"
    position = _skip_blank(text, position + 1)
    while position < len(text) and text[position] not in _CLOSING:
        before = position
        if in_table:
            key, position = _parse_key(text, position)
            _note(lines, path + key, text.count("\n", 0, before) + 1)
            position = _skip_blank(text, position + 1)
            position = _note_value(text, position, path + key, lines)
        else:
            position = _note_value(text, position, path, lines)
        position = _skip_blank(text, max(position, before + 1))
    return position + 1
