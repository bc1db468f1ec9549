"""docs/commands.md: every command, its options and examples."""

from __future__ import annotations

from collections.abc import Sequence

from tools.generate.commands import EXIT_CODES, Command, Option

_HEAD = """\
# Commands

Made by `make generate`; the man pages say the same. Global options may stand before or after the command.
"""


def page(commands: Sequence[Command]) -> str:
    """The whole page."""
    root, *others = commands
    lines = [_HEAD, *_table(root.options), "", "| exit code | meaning |", "|---|---|"]
    lines += [f"| {code} | {_cell(text)} |" for code, text in EXIT_CODES]
    for command in others:
        lines += ["", f"## voltool {command.name}", "", f"    {command.usage}", "", _text(command.text)]
        if command.arguments or command.options:
            lines += ["", *_table((*command.arguments, *command.options))]
        if command.exit_codes:
            lines += ["", *[f"Exit code {code}: {text}" for code, text in command.exit_codes]]
        if command.examples:
            width = max(len(example.line) for example in command.examples)
            lines += ["", *[f"    {example.line:<{width}}   # {example.text}" for example in command.examples]]
    return "\n".join(lines) + "\n"


def _table(options: Sequence[Option]) -> list[str]:
    rows = [f"| `{_cell(option.spelling)}` | {_cell(option.text)} |" for option in options]
    return ["| option | meaning |", "|---|---|", *rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
