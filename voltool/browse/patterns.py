"""What a PATTERN of `find` matches. Pure.

- Without ``* ? [`` it is a part of a name, wherever in it; with a ``/`` in it, a part of the path up to within the last name.
- With one of these it is a glob on the whole name; with a ``/`` on the path, from the root on where it begins with ``/``,
  else from any directory on. ``*`` and ``?`` do not reach over a ``/``; ``**`` as a name stands for any number of directories.
- ``/`` at the beginning without a wildcard: this very path. A ``\\`` takes the next character as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from voltool.errors import UsageError

_WILD = re.compile(r"(?<!\\)(?:[*?]|\[[^/]+\])")
_DIRECTORIES = "(?:/[^/]+)*"
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """A pattern taken apart. ``literal`` is in each name that `matches_name` accepts (as it is, or, with ``ignore_case``, in
    ASCII lower case), and quickly looked for; empty: nothing is known."""

    literal: bytes
    ignore_case: bool
    name: re.Pattern[str]
    path: re.Pattern[str] | None

    def matches_name(self, name: bytes) -> bool:
        """Whether a path that ends with ``name`` can match."""
        return self.name.fullmatch(name.decode("utf-8", "surrogateescape")) is not None

    def matches_path(self, path: bytes) -> bool:
        """Whether ``path`` (from the volume's root, without a slash before it) matches, where its last name does."""
        if self.path is None:
            return True
        return self.path.fullmatch("/" + path.decode("utf-8", "surrogateescape")) is not None


def parse_pattern(text: str, *, ignore_case: bool = False) -> Pattern:
    """UsageError for an empty pattern, or one that no path can match."""
    if not text.strip("/") or "\0" in text:
        raise UsageError(f"{text!a} is not a pattern", remedy="part of a name, or a glob such as '*.conf'")
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    text = re.sub("/+", "/", text.rstrip("/"))
    if _WILD.search(text) is None:
        name, path, literals = _plain(_ESCAPED.sub(r"\1", text))
    else:
        last = text.rpartition("/")[2]
        name, literals = (".*", []) if last == "**" else _translate(last)
        path = _path_expression(text) if "/" in text else None
    path_pattern = None if path is None else re.compile(path, flags)
    return Pattern(_literal(literals, ignore_case), ignore_case, re.compile(name, flags), path_pattern)


def _plain(text: str) -> tuple[str, str | None, list[str]]:
    """The expressions for name and path, and what is in each name, of a pattern without wildcards."""
    before, slash, last = text.rpartition("/")
    if not slash:
        return ".*" + re.escape(text) + ".*", None, [text]
    if text.startswith("/"):
        return re.escape(last), re.escape(text), [last]
    return re.escape(last) + ".*", ".*" + re.escape(before) + "/" + re.escape(last) + "[^/]*", [last]


def _path_expression(text: str) -> str:
    expression = "" if text.startswith("/") else _DIRECTORIES
    for part in text.strip("/").split("/"):
        if part != "**":
            expression += "/" + _translate(part)[0]
        elif not expression.endswith(_DIRECTORIES):
            expression += _DIRECTORIES
    return expression


def _translate(glob: str) -> tuple[str, list[str]]:
    """A regular expression for one name, and the runs of plain characters in it."""
    expression, literals, at = "", [""], 0
    while at < len(glob):
        character, at = glob[at], at + 1
        if character == "*":
            expression += "" if expression.endswith("[^/]*") else "[^/]*"
        elif character == "?":
            expression += "[^/]"
        elif character == "[" and (end := _class_end(glob, at)) > 0:
            expression += _class(glob[at:end])
            at = end + 1
        else:
            if character == "\\" and at < len(glob):
                character, at = glob[at], at + 1
            expression += re.escape(character)
            literals[-1] += character
            continue
        literals.append("")
    return expression, literals


def _class_end(glob: str, at: int) -> int:
    """Where the ``]`` of a character class is that begins at ``at``; -1: there is none, and the ``[`` means itself."""
    start = at + 1 if glob[at : at + 1] in ("!", "^") else at
    return glob.find("]", start + 1)


def _class(content: str) -> str:
    negated = content[0] in "!^"
    members = content[1:] if negated else content
    escaped = "".join("\\" + character if character in "\\[]^&~|" else character for character in members)
    try:
        re.compile(f"[{escaped}]")
    except re.error:
        raise UsageError(
            f"[{content}] is not a set of characters", remedy="such as [a-z], with the lower one first"
        ) from None
    return f"(?!/)[{'^' if negated else ''}{escaped}]"


def _literal(runs: list[str], ignore_case: bool) -> bytes:
    """The longest run that each match holds as bytes; SQLite ignores case in ASCII only."""
    if ignore_case:
        runs = [part for run in runs for part in re.split(r"[^\x00-\x7f]", run)]
    longest = max(runs, key=len, default="")
    return (longest.lower() if ignore_case else longest).encode("utf-8", "surrogateescape")
