"""man/voltool.1 and a page for each command, in man(7)'s macros. Source: man-pages(7)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tools.generate.commands import EXIT_CODES, Command, Option
from voltool import __version__

_FILES = (
    ("~/.config/voltool/config.toml", "The configuration of a user."),
    ("/etc/voltool/config.toml", "The configuration, where the user has none."),
    ("/var/lib/voltool", "State of root: the catalog, and the store where none is configured."),
    ("~/.local/state/voltool", "The same of other users."),
)
_ENVIRONMENT = (
    ("VOLTOOL_CONFIG", "The configuration file; it must exist then."),
    ("VOLTOOL_STATE_DIR", "The state directory."),
)


def pages(commands: Sequence[Command]) -> dict[str, str]:
    """All pages by their path."""
    root, *others = commands
    names = [page_name(command) for command in others]
    found = {"man/voltool.1": _root_page(root, others)}
    for command in others:
        found[f"man/{page_name(command)}.1"] = _page(command, names)
    return found


def page_name(command: Command) -> str:
    """``voltool-volume-add``."""
    return "-".join(["voltool", *command.name.split()])


def _root_page(root: Command, others: Sequence[Command]) -> str:
    lines = [*_head("voltool", root.summary), ".SH SYNOPSIS", f".B {_escaped(root.usage)}"]
    lines += [".SH DESCRIPTION", *_paragraphs(root.text)]
    lines += [".SH COMMANDS"]
    for command in others:
        lines += [".TP", f".BR {_escaped(page_name(command))} (1)", _escaped(command.summary + ".")]
    lines += [".SH OPTIONS", *_options(root.options)]
    lines += _exit_status(())
    lines += [".SH FILES", *_list(_FILES), ".SH ENVIRONMENT", *_list(_ENVIRONMENT)]
    return "\n".join(lines) + "\n"


def _page(command: Command, names: Sequence[str]) -> str:
    name = page_name(command)
    lines = [*_head(name, command.summary), ".SH SYNOPSIS", f".B {_escaped(command.usage)}"]
    lines += [".SH DESCRIPTION", *_paragraphs(command.text)]
    if command.arguments or command.options:
        lines += [".SH OPTIONS", *_options(command.arguments), *_options(command.options)]
        lines += [".PP", "The options of", ".BR voltool (1)", "may stand before or after the command."]
    if command.examples:
        lines += [".SH EXAMPLES"]
        for example in command.examples:
            lines += [
                ".PP",
                _escaped(_sentence(example.text)),
                ".PP",
                ".in +4n",
                ".nf",
                _escaped(example.line),
                ".fi",
                ".in",
            ]
    lines += _exit_status(command.exit_codes)
    family = command.name.split()[0]
    near = [other for other in names if other != name and other.split("-")[1] == family]
    see = [".BR voltool (1)," if near else ".BR voltool (1)"]
    see += [f".BR {_escaped(other)} (1){',' if other != near[-1] else ''}" for other in near]
    lines += [".SH SEE ALSO", *see]
    return "\n".join(lines) + "\n"


def _head(name: str, summary: str) -> list[str]:
    first = summary[:1].lower() + summary[1:]
    return [
        '.\\" Made by "make generate" out of the command\'s own texts: change those.',
        f'.TH {name.upper()} 1 "" "voltool {__version__}" "voltool"',
        ".SH NAME",
        f"{_escaped(name)} \\- {_escaped(first)}",
    ]


def _exit_status(own: Sequence[tuple[int, str]]) -> list[str]:
    codes = dict(EXIT_CODES) | dict(own)
    return [".SH EXIT STATUS", *_list((str(code), text) for code, text in sorted(codes.items()))]


def _options(options: Sequence[Option]) -> list[str]:
    lines: list[str] = []
    for option in options:
        lines += [".TP", f".B {_escaped(option.spelling)}", _escaped(option.text or "")]
    return lines


def _list(pairs: Iterable[tuple[str, str]]) -> list[str]:
    lines: list[str] = []
    for name, text in pairs:
        lines += [".TP", f".B {_escaped(name)}", _escaped(text)]
    return lines


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines += [".PP", _escaped(" ".join(paragraph.split()))]
    return lines[1:]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ":")


def _escaped(text: str) -> str:
    """Text as groff takes it literally. Source: groff_man_style(7), on portable characters."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("'", "\\(aq")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    return "\\&" + text if text.startswith(".") else text
