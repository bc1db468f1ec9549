"""Names for people who paste them into a shell. Pure."""

from __future__ import annotations

import shlex


def quoted(name: bytes) -> str:
    """A name as one word of a shell: as it is, in single quotes, or, where bytes in it cannot be shown, as ``$'...'`` (bash, zsh,
    ksh). Like `voltool.showing.shown` it lets no name move the cursor."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and not any("\udc80" <= character <= "\udcff" for character in text):
        return shlex.quote(text)
    return "$'" + "".join(_escaped(character) for character in text) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    if character.isprintable():
        return character
    # Three octal digits: a digit that follows in the name is not taken for one of them, as it would be of \xNN.
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
