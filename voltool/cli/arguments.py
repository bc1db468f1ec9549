"""Global options before or after the command: brings them to the front, where the parser expects them. Pure.

To know that in ``--exclude --json`` the second word is a value, the arity of the commands' options must be known; a test
holds `VALUE_OPTIONS` against the real commands.
"""

from __future__ import annotations

from collections.abc import Sequence

GLOBAL_FLAGS = frozenset({"--json", "--quiet", "-q", "--verbose", "-v", "--version", "--ask-become-pass"})
GLOBAL_VALUES = frozenset({"--config"})

#: Options of commands that take the next word as their value.
VALUE_OPTIONS = frozenset(
    {
        "--abort", "--accept", "--at", "--bandwidth", "--codec", "--days", "--downtime", "--driver", "--drop",
        "--exclude", "--fill-from", "--for", "--from", "--host", "--html", "--interval", "--level", "--limit",
        "--lock", "--lock-timeout", "--max-lock", "--max-rounds", "--name", "--nice", "--only", "--output",
        "--path", "--resume", "--since", "--store", "--until", "--workers", "-o",
    }
)  # fmt: skip


def globals_first(arguments: Sequence[str]) -> list[str]:
    """The same words, global options first. What follows ``--`` is left alone."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--":
            rest += arguments[position:]
            break
        takes_value = word in GLOBAL_VALUES or word in VALUE_OPTIONS
        words = list(arguments[position : position + (2 if takes_value else 1)])
        is_global = word in GLOBAL_FLAGS or word in GLOBAL_VALUES or word.split("=", 1)[0] in GLOBAL_VALUES
        (front if is_global else rest).extend(words)
        position += len(words)
    return front + rest
