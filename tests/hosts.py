"""Throw-away hosts and a machine to command them from: real sshds on loopback, each with a state directory of its own.

A `Site` is what one administrator sees: a HOME, an ssh configuration with all hosts in it, a state directory, and voltool.
Used by tests, by the demo and by the benchmarks; knows voltool only as a command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.network import Machine, Network
from tests.sshd import Place, Sshd

VOLTOOL = Path(sys.executable).parent / "voltool"
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Host:
    """A host of a `Site`: ``name`` is what voltool calls it, ``state`` its state directory; ``of_its_own`` the machine, where
    the site has a network."""

    name: str
    sshd: Sshd
    state: Path
    of_its_own: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The machine of one that has a network."""
        assert self.of_its_own is not None, "this host is a part of the machine that the test runs on"
        return self.of_its_own


class Site:
    """A command line's surroundings in ``directory``; use as a context manager or call ``stop()``.

    With a ``network`` each host is a machine of its own in it, and the command line runs there too.
    """

    def __init__(self, directory: Path, network: Network | None = None) -> None:
        self.network = network
        self.directory = directory
        self.home = directory / "home"
        self.state = directory / "state"
        self.hosts: dict[str, Host] = {}
        binaries = directory / "bin"
        for made in (self.home, binaries):
            made.mkdir(parents=True, exist_ok=True)
        self.ssh_config = directory / "ssh_config"
        self.ssh_config.touch()
        self.environment = self._environment(binaries)
        self._wrap_ssh(binaries / "ssh")

    def add_host(self, name: str, *, options: Sequence[str] = (), user: str | None = None) -> Host:
        """Start one more sshd and let the site's ssh configuration know it as ``name``."""
        state = self.directory / f"state-{name}"
        machine = self.network.add(name, self.directory.parent) if self.network is not None else None
        sshd = Sshd(
            self.directory / f"sshd-{name}",
            name=name,
            options=options,
            user=user,
            environment={"VOLTOOL_STATE_DIR": str(state)},
            place=self._place(machine),
        )
        with self.ssh_config.open("a", encoding="utf-8") as file:
            file.write(sshd.client_section())
        host = Host(name, sshd, state, machine)
        self.hosts[name] = host
        return host

    def _place(self, machine: Machine | None) -> Place | None:
        if machine is None or self.network is None:
            return None
        return Place(machine.address, machine.enter, self.network.enter)

    def command(self, *arguments: str) -> list[str]:
        """What starts voltool where this site's command line is, with ``environment``."""
        return [*(self.network.enter if self.network is not None else ()), str(VOLTOOL), *arguments]

    def voltool(
        self, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run voltool as cron would, without a terminal; AssertionError with its output when it fails and ``check``."""
        done = subprocess.run(
            self.command(*arguments),
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_TIMEOUT,
            check=False,
        )
        if check and done.returncode != 0:
            command = " ".join(["voltool", *arguments])
            raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def result(self, *arguments: str, check: bool = True) -> dict[str, Any]:
        """The last line of ``voltool --json``: the result object."""
        done = self.voltool("--json", *arguments, check=check)
        result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return result

    def stop(self) -> None:
        """End all sshds; idempotent."""
        for host in self.hosts.values():
            host.sshd.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _environment(self, binaries: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VOLTOOL_", "XDG_", "SSH_"))}
        return {
            **kept,
            "HOME": str(self.home),
            "PATH": os.pathsep.join([str(binaries), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
            "VOLTOOL_STATE_DIR": str(self.state),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "120",
        }

    def _wrap_ssh(self, path: Path) -> None:
        """OpenSSH takes ~ from the password database, not from $HOME: our ``ssh`` names the configuration instead."""
        real = shutil.which("ssh")
        if real is not None:
            path.write_text(f'#!/bin/sh\nexec {real} -F {self.ssh_config} "$@"\n', encoding="utf-8")
            path.chmod(0o755)
