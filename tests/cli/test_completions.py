"""The TAB key in bash, zsh and fish, with the scripts of completions/ and the real program."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tests.catalog.samples import make_dump, make_volume
from tests.hosts import Site
from tests.terminal import OnTerminal
from voltool.catalog.sqlite import SqliteCatalog
from voltool.cli.app import app
from voltool.config.paths import catalog_path

SCRIPTS = Path(__file__).parent.parent.parent / "completions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    with Site(directory) as site:
        (site.directory / "bin/voltool").symlink_to(Path(site.command()[0]))
        (site.home / ".ssh").mkdir()
        (site.home / ".ssh/config").write_text("Host backup1 *.example.org\n  Port 22\n", encoding="ascii")
        catalog = SqliteCatalog(catalog_path(str(site.state)))
        catalog.put_volume(make_volume("mail"))
        catalog.put_volume(make_volume("maps"))
        catalog.put_volume(make_volume("web"))
        catalog.add_dump(make_dump(1, dump_id="beef" * 8))
        catalog.close()
        yield site


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    return path


def in_bash(site: Site, *words: str) -> list[str]:
    program = (
        f'source {SCRIPTS}/voltool.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _voltool voltool;'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = [shell("bash"), "--norc", "-c", program, "bash", *words]
    done = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def in_fish(site: Site, line: str) -> list[str]:
    program = f"source {SCRIPTS}/voltool.fish; complete -C '{line}'"
    command = [shell("fish"), "--no-config", "-c", program]
    done = subprocess.run(command, env=site.environment, capture_output=True, text=True, check=True, timeout=60)
    return [row.split("\t")[0] for row in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["vo"], {"volume"}),
        (["volume", "sh"], {"show"}),
        (["dump", "ma"], {"mail", "maps"}),
        (["restore", "bee"], {"beef" * 3}),
        (["move", "--resume", "w"], {"web"}),
        (["host", "check", "back"], {"backup1"}),
        (["dump", "--lev"], {"--level"}),
        (["dump", "nothing"], set()),
    ],
)
def test_bash(site: Site, words: list[str], offered: set[str]) -> None:
    assert set(in_bash(site, "voltool", *words)) == offered


def test_every_volume_dump_and_host_is_completed() -> None:
    def all_commands(group: Any) -> Iterator[Any]:
        for command in group.commands.values():
            yield from all_commands(command) if hasattr(command, "commands") else [command]

    new = {("undelete", "word"), ("copy", "new_name"), ("set", "new_name")}  # in the bin, or not there yet
    lacking = [
        (command.name, parameter.name)
        for command in all_commands(typer.main.get_command(app))
        for parameter in command.params
        if re.search("NAME|DUMP|HOST", parameter.metavar or "") and not parameter._custom_shell_complete
    ]
    assert set(lacking) <= new


def test_fish(site: Site) -> None:
    assert set(in_fish(site, "voltool dump ma")) == {"mail", "maps"}
    assert set(in_fish(site, "voltool retired p")) == {"purge"}


def test_zsh(site: Site) -> None:
    environment = {**site.environment, "PS1": "% ", "TERM": "dumb"}
    with OnTerminal([shell("zsh"), "-f", "-i"], environment) as terminal:
        terminal.type(f"fpath=({SCRIPTS} $fpath); autoload -Uz compinit; compinit -u -D; print ready-$((1 + 1))\n")
        terminal.read_until(lambda text: "ready-2" in text)
        terminal.type("voltool dump we\t")
        terminal.read_until(lambda text: text.rstrip().endswith("voltool dump web"))


def test_without_a_catalog_nothing_is_offered_and_nothing_made(site: Site, tmp_path: Path) -> None:
    environment = {**site.environment, "VOLTOOL_STATE_DIR": str(tmp_path / "none")}
    asked = {"COMP_WORDS": "voltool dump m", "COMP_CWORD": "2", "_VOLTOOL_COMPLETE": "complete_bash"}
    done = subprocess.run(["voltool"], env=environment | asked, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert not (tmp_path / "none").exists()
