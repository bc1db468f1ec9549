"""A run of voltool that can be killed at a chosen moment, and what must hold after it: used by test_kills.py.

Knows voltool as a command and by the paths that docs/footprint.md promises.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts import VOLTOOL, Site
from tests.remote.processes import processes_with, wait_until

VICTIMS = ("command", "agent", "session")


@dataclass
class Ground:
    """One volume ``vol`` on ``hosta`` of ``site``; targets of restores are made beside ``targets`` on ``hostb``."""

    site: Site
    volume: Path
    targets: Path
    #: 1 where a clone is kept for each base, 0 where the driver has none.
    clones_per_base: int = 1

    @property
    def store(self) -> Path:
        return self.site.state / "store"

    @property
    def area(self) -> Path:
        (area,) = (self.volume.parent / ".voltool").iterdir()
        return area

    def agents(self) -> list[int]:
        """Everything that runs for this site's hosts: agents and their workers."""
        return [pid for name in ("hosta", "hostb") for pid in processes_with(str(self.site.hosts[name].state))]

    def run(self, *arguments: str) -> float:
        """Run it to its end; seconds."""
        began = time.monotonic()
        self.site.voltool(*arguments)
        return time.monotonic() - began

    def run_and_kill(self, victim: str, after: float, *arguments: str) -> int:
        """Start voltool, kill -9 ``victim`` ``after`` so many seconds, wait until nothing runs any more; the status.

        What has ended before its time has come is not killed.
        """
        command = [str(VOLTOOL), "--json", *arguments]
        log = self.site.directory / "killed.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                command, env=self.site.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(after)
                if process.poll() is None:
                    self._kill(victim, process.pid)
                status = process.wait(60)
            finally:
                process.kill()
                process.wait()
        assert wait_until(lambda: not self.agents()), f"still running: {self.agents()}"
        if victim != "command":
            self._assert_told(status, log.read_text())
        return status

    def _kill(self, victim: str, pid: int) -> None:
        if victim == "command":
            os.kill(pid, signal.SIGKILL)
        elif victim == "session":
            for host in self.site.hosts.values():
                host.sshd.kill_sessions()
        else:
            running = self.agents()
            for agent in running:
                if _parent(agent) not in running:  # its workers have to notice for themselves
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(agent, signal.SIGKILL)

    def _assert_told(self, status: int, output: str) -> None:
        """A command whose other side died says so in its own words and ends, with success only where it was done."""
        assert "Traceback" not in output, output
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        assert result["exit"] == status, output
        assert status in (0, 1, 6), output
        assert (status == 0) == (result.get("error") is None and not result.get("failed")), output

    # ------------------------------------------------------------------------------------------------ what must hold

    def published(self) -> set[str]:
        """Names of dumps that the store shows."""
        found = {str(path.relative_to(self.store)) for path in self.store.rglob("*") if path.is_file()}
        return {name for name in found if not Path(name).name.startswith(".")}

    def assert_nothing_left(self, levels: int) -> None:
        """After a run that ended well: the store has dumps alone, the host the bases of ``levels`` levels alone."""
        hidden = list(self.store.rglob(".*"))
        assert hidden == []
        assert not (self.area / "tmp").exists()
        assert not list(self.area.rglob("*.new"))
        states = {path.name for path in (self.area / "states").iterdir()} - {"key", "blocks"}
        assert len(states) == levels, states
        clones = self.area / "clones"
        names = {path.name.removesuffix(".json") for path in clones.iterdir()} if clones.is_dir() else set()
        assert len(names) == levels * self.clones_per_base, names
        assert not (self.targets / ".voltool").exists()
        assert wait_until(lambda: not self.agents()), self.agents()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
