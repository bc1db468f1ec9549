"""Takes a page of the documentation apart into what can be run, and compares what was printed with what the page says.

Pure: runs nothing. The conventions of a page:

- ```` ```toml ````: a part of the configuration.
- ```` ```sh ````: a file; the first comment that is a path says which.
- ```` ```console ````: `# command` on the administrator's machine, `hostA# command` on that host, and what they print. A line
  `...` stands for any lines, within a line for anything. Numbers, amounts and identities are compared as such, not by value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FENCE = re.compile(r"^```(\w*)$")
_PROMPT = re.compile(r"^(\w*)# (.+)$")
_FILE = re.compile(r"^# (/[^\s:]+)", re.MULTILINE)
_REST = "..."
_ANY_LINES = r"(?:.*\n)*?"
#: What is another one each time: identities, then numbers with what belongs to them.
_VARIABLE = [
    (re.compile(r"\b[0-9a-f]{12,}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?"), "TIME"),
    (re.compile(r"\b\d{8}T\d{6}Z"), "TIME"),
    (re.compile(r"\b\d[\d,.]*( (B|KiB|MiB|GiB)\b)"), "AMOUNT"),
    (re.compile(r"\b\d[\d,.]*\b"), "N"),
    (re.compile(r"N min N s\b|N h N min\b|N (s|days)\b"), "DURATION"),
    (re.compile(r"N (entry|entries)\b"), "N entries"),
    (re.compile(r"N rounds?\b"), "N rounds"),
    (re.compile(r"[ \t]+"), " "),
]


@dataclass(frozen=True)
class Command:
    """``text`` is typed on ``host`` (empty: the administrator's machine); the page says that it prints ``output``."""

    host: str
    text: str
    output: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Configuration:
    """A part of voltool's configuration."""

    text: str
    line: int


@dataclass(frozen=True)
class Program:
    """A file that the page has the reader make."""

    path: str
    text: str
    line: int


Step = Command | Configuration | Program


def sections(text: str) -> dict[str, list[Step]]:
    """The steps below each heading of the second level, in the page's order."""
    found: dict[str, list[Step]] = {}
    heading = ""
    for line, block in _blocks(text):
        if isinstance(block, str):
            heading = block
            found[heading] = []
        elif heading:
            language, lines = block
            found[heading] += list(_steps(language, lines, line))
    return found


def difference(expected: Sequence[str], printed: Sequence[str]) -> str:
    """What in ``printed`` is not as the page has it, for people; empty where it is."""
    pattern = "".join(_ANY_LINES if line.strip() == _REST else _pattern(line) + "\n" for line in expected)
    if re.fullmatch(pattern, "".join(masked(line) + "\n" for line in printed)):
        return ""
    return "\n".join(["the page says:", *expected, "what was printed:", *printed])


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in masked(line).split(_REST))


def masked(line: str) -> str:
    """The line without what differs from one run to the next."""
    for pattern, instead in _VARIABLE:
        line = pattern.sub(instead, line)
    return line.strip()


def _blocks(text: str) -> Iterator[tuple[int, str | tuple[str, list[str]]]]:
    """Headings, and the lines between fences with their language; with the number of their first line."""
    language: str | None = None
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if language is not None:
            if line == "```":
                yield number - len(lines), (language, lines)
                language = None
            else:
                lines.append(line)
        elif match := _FENCE.match(line):
            language, lines = match[1], []
        elif line.startswith("## "):
            yield number, line.removeprefix("## ")
    assert language is None, "the last block does not end"


def _steps(language: str, lines: list[str], line: int) -> Iterator[Step]:
    text = "\n".join(lines) + "\n"
    if language == "toml":
        yield Configuration(text, line)
    elif language == "sh":
        path = _FILE.search(text)
        assert path is not None, f"line {line}: a comment has to say which file this is"
        yield Program(path[1], text, line)
    elif language == "console":
        yield from _commands(lines, line)
    else:
        raise AssertionError(f"line {line}: nothing is known of blocks of {language or 'no language'}")


def _commands(lines: list[str], line: int) -> Iterator[Command]:
    starts = [number for number, each in enumerate(lines) if _PROMPT.match(each)]
    assert starts[:1] == [0], f"line {line}: a block of console begins with a prompt"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        match = _PROMPT.match(lines[start])
        assert match is not None
        yield Command(match[1], match[2], tuple(lines[start + 1 : end]), line + start)
