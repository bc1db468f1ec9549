"""Names for people: how what Linux calls a file appears in messages and lists. Ships to servers. Knows nothing else."""

from __future__ import annotations


def shown(name: bytes) -> str:
    """A name or path as a person may see it on a terminal: UTF-8 as it is; other bytes, control characters and the backslash
    as ``\\xNN`` and ``\\\\``, so that no name can move the cursor, hide a line or pass for another one."""
    return "".join(_shown_character(character) for character in name.decode("utf-8", "surrogateescape"))


def _shown_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
