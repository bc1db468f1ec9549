"""Paths for people: how names that are bytes appear in messages. Ships to servers. Knows nothing else."""

from __future__ import annotations

import os


def shown(path: bytes) -> str:
    """The path as text; control characters and bytes that are not UTF-8 are escaped (``\\x1b``)."""
    return "".join(character if character.isprintable() else _escape(character) for character in os.fsdecode(path))


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8, as os.fsdecode carries it
        return f"\\x{number - 0xDC00:02x}"
    return ascii(character)[1:-1]
