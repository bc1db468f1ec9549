"""The commands as data, out of the typer app: what every generated page is made of."""

from __future__ import annotations

import enum
import inspect
import sys
from dataclasses import dataclass
from typing import Any

import typer.main

from voltool.cli.app import app, short_help


@dataclass(frozen=True)
class Option:
    """An option or argument: ``spelling`` as it is typed, ``text`` what it means."""

    spelling: str
    text: str


@dataclass(frozen=True)
class Example:
    """A command line and what it is for."""

    line: str
    text: str


@dataclass(frozen=True)
class Command:
    """``name`` in words (``volume add``, empty for voltool itself), ``text`` its paragraphs."""

    name: str
    usage: str
    text: str
    arguments: tuple[Option, ...]
    options: tuple[Option, ...]
    examples: tuple[Example, ...]
    exit_codes: tuple[tuple[int, str], ...]

    @property
    def summary(self) -> str:
        """The first sentence, without its full stop."""
        return short_help(self.text).rstrip(".")


#: What every command may end with; docs and man pages say the same.
EXIT_CODES = (
    (0, "All was done."),
    (1, "Something failed; the message says what, where, why and what to try."),
    (2, "The command line or the configuration is wrong; nothing was done."),
    (3, "Done, but not of everything: files that could not be read or never settled, a volume that is overdue."),
    (4, "Busy: somebody else works on the volume, or still writes to it."),
    (5, "A dump is damaged, or does not fit its base; nothing was published."),
    (6, "A host cannot be reached, or its identity cannot be proven."),
    (130, "Interrupted (Ctrl-C, SIGTERM); what was begun was undone, or can be gone on with."),
)


def all_commands() -> list[Command]:
    """Voltool itself, then all commands by name."""
    root = typer.main.get_command(app)
    return [_command("", root), *sorted(_below("", root), key=lambda command: command.name)]


def _below(prefix: str, group: Any) -> list[Command]:
    found = []
    for name, command in group.commands.items():
        full = f"{prefix} {name}".strip()
        found += _below(full, command) if hasattr(command, "commands") else [_command(full, command)]
    return found


def _command(name: str, command: Any) -> Command:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    module = sys.modules[inspect.unwrap(command.callback).__module__]
    # A module with several commands may have a list for each: EXAMPLES_SHOW, EXAMPLES_INSTALL.
    lists = [value for key, value in vars(module).items() if key.startswith("EXAMPLES")]
    examples = [Example(*pair) for pairs in lists for pair in pairs]
    words = [_metavar(argument) for argument in arguments]
    usage = " ".join(["voltool", *name.split(), *(["[OPTION]..."] if options else []), *words])
    return Command(
        name=name,
        usage=usage if name else "voltool [OPTION]... COMMAND [ARGUMENT]...",
        text=inspect.cleandoc(command.help or ""),
        arguments=tuple(Option(_metavar(argument), argument.help or "") for argument in arguments),
        options=tuple(_option(option) for option in options),
        examples=tuple(example for example in examples if f" {name}" in example.line) if name else (),
        exit_codes=tuple(getattr(module, "EXIT_CODES", ())),
    )


def _metavar(argument: Any) -> str:
    text = argument.metavar or argument.name.upper()
    return text if argument.required or text.startswith("[") else f"[{text}]"


def _option(option: Any) -> Option:
    names = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        names += ", " + ", ".join(option.secondary_opts)
    if not option.is_flag:
        default = option.default
        words = [choice.value for choice in type(default)] if isinstance(default, enum.Enum) else []
        names += " " + (option.metavar or "|".join(words) or option.name.upper())
    text = option.help or ""
    default = option.default
    if not option.is_flag and default is not None and not callable(default):
        text += f" Default: {getattr(default, 'value', default)}."
    return Option(names, text)
