"""What is made out of the code: up to date, complete, and understood by those who read it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tools.generate.__main__ import ROOT, generated
from tools.generate.commands import Command, all_commands
from voltool.cli.app import app
from voltool.cli.arguments import globals_first

COMMANDS = all_commands()
PAGES = sorted(path for path in generated() if path.parent.name == "man")


def test_everything_is_as_the_code_would_make_it() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in generated().items() if path.read_text() != text]
    assert stale == [], "make generate"
    assert {path for name in ("man", "completions") for path in (ROOT / name).iterdir()} <= set(generated())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name or "voltool")
def test_every_word_of_a_command_is_explained(command: Command) -> None:
    assert len(command.text) > 20
    assert [option.spelling for option in (*command.arguments, *command.options) if len(option.text) < 8] == []
    assert command.examples or not command.name, "no EXAMPLES"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name or "voltool")
def test_every_example_is_a_command_line_that_voltool_takes(command: Command) -> None:
    for example in command.examples:
        first, *words = shlex.split(example.line.split("|")[0].split(">")[0])
        assert first == "voltool"
        words = globals_first(words)
        _parse(words[words.index(command.name.split()[0]) :])


def _parse(words: list[str]) -> None:
    """Down to the command itself; the parser raises for what it does not take."""
    group: Any = typer.main.get_command(app)
    context = None
    while hasattr(group, "commands"):
        group = group.commands[words[0]]
        context = group.make_context(words[0], words[1:], parent=context)
        words = words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_understands_every_page(page: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff here")
    command = [groff, "-man", "-Tutf8", "-ww", "-rLL=100n", "-P-bcou", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS"):
        assert section in done.stdout
