"""Runs a section of a page on two throw-away machines and holds the page to what really happens."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.guide.page import Command, Configuration, Program, Step, difference
from tests.hosts import VOLTOOL, Site
from tests.machines import Machine


@dataclass
class Stage:
    """The administrator's ``site``, its configuration, and the machines by the names that the page gives them."""

    site: Site
    machines: dict[str, Machine]
    #: The page that is run, for what is said when it is wrong.
    page: str = "docs/moving-guide.md"

    @property
    def config(self) -> Path:
        """The administrator's configuration."""
        return self.site.directory / "config.toml"

    def read(self, command: Command, status: int) -> tuple[str, int]:
        """Run a command where the page says; its output, and its status. ``status`` is what `$?` is before it."""
        script = f"(exit {status}); {command.text}"
        if command.host:
            return self.machines[command.host].run(script, self.site.environment)
        done = subprocess.run(
            ["bash", "-c", script],
            env=self.site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout, done.returncode


@dataclass
class Play:
    """The steps of one section, one after the other; `through` stops where something has to happen beside."""

    stage: Stage
    steps: list[Step]
    #: What the commands printed, by what was typed.
    printed: dict[str, str] = field(default_factory=dict)
    _status: int = 0

    def through(self, text: str) -> str:
        """Run everything up to the command ``text``; what it printed."""
        while True:
            assert self.steps, f"the page has no command {text!r} (any more)"
            step = self.steps.pop(0)
            self._run(step)
            if isinstance(step, Command) and step.text == text:
                return self.printed[text]

    def rest(self) -> None:
        """Run what is left."""
        while self.steps:
            self._run(self.steps.pop(0))

    def _run(self, step: Step) -> None:
        if isinstance(step, Configuration):
            with self.stage.config.open("a", encoding="utf-8") as file:
                file.write(step.text)
        elif isinstance(step, Program):
            for machine in self.stage.machines.values():
                machine.write(step.path, step.text, 0o755)
        else:
            output, self._status = self.stage.read(step, self._status)
            self.printed[step.text] = output
            wrong = difference(step.output, output.splitlines())
            assert not wrong, f"{self.stage.page}, line {step.line}: # {step.text}\n{wrong}"


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Two machines, hostA (XFS) and hostB (ext4), and an administrator who reaches both; voltool is there on all three."""
    with Machine("hostA", directory, "xfs") as here, Machine("hostB", directory, "ext4") as there:
        site = Site(directory / "site")
        with site:
            machines = {machine.name: machine for machine in (here, there)}
            for machine in machines.values():
                enter = f'ForceCommand exec {shlex.join(machine.entrance)} sh -c "$SSH_ORIGINAL_COMMAND"'
                site.add_host(machine.name, options=[enter])
                machine.write("/usr/local/bin/voltool", f'#!/bin/sh\nexec {shlex.quote(str(VOLTOOL))} "$@"\n', 0o755)
            made = Stage(site, machines)
            made.config.touch()
            site.environment["VOLTOOL_CONFIG"] = str(made.config)
            site.environment["PATH"] = f"{VOLTOOL.parent}:{site.environment['PATH']}"
            yield made
