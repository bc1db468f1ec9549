"""Two hosts and a lazy move between them, for real; whatever runs on is ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.hosts import VOLTOOL
from tests.jobs.test_move import Ground, made
from voltool.agent.daemon import Daemon, list_daemons
from voltool.agent.host import find_host_state
from voltool.agent.lazymove.fill import status_of
from voltool.agent.lazymove.home import LazyHome
from voltool.volumes.moving.records import MoveBook


class LazyGround:
    """What tests do with a lazy move of ``vol`` from ``hosta`` to ``hostb``."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.site = ground.site
        self.volume, self.target = ground.volume, ground.target

    def move(self, *options: str) -> dict[str, Any]:
        return self.site.result("move", "--lazy", "vol", f"hostb:{self.target}", "--yes", *options)

    def move_paused(self, *options: str) -> None:
        """A lazy move that has got hardly any files when it returns: the old home serves nothing until `go_on`."""
        words = ["--json", "move", "--lazy", "vol", f"hostb:{self.target}", "--yes", "--bandwidth", "1000000", *options]
        with subprocess.Popen(
            [str(VOLTOOL), *words],
            env=self.site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if json.loads(line).get("step") == "switch":
                    self.pause()
        assert process.returncode == 0

    def pause(self) -> None:
        self._signal_server(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal_server(signal.SIGCONT)

    def _signal_server(self, number: int) -> None:
        for daemon in self.daemons_of("hosta"):
            running = daemon.running()
            if running is not None:
                os.kill(running.pid, number)

    def fill(self) -> dict[str, Any] | None:
        """What --status says of the fill."""
        found: dict[str, Any] | None = self.site.result("move", "--status", "vol")["moves"][0]["fill"]
        return found

    def missing(self) -> list[bytes]:
        """What has not come, as the new home knows it."""
        host = replace(find_host_state({}, 0), directory=os.fsencode(self.site.hosts["hostb"].state))
        (move,) = MoveBook(host.directory).targets()
        return list(status_of(LazyHome(host, move), -1).paths)

    def await_end(self, seconds: float = 60) -> None:
        """Until all has come, and the old home knows."""
        until = time.monotonic() + seconds
        while any(self.daemons()) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(self.daemons()), self.log()

    def daemons(self) -> list[Daemon]:
        return [daemon for host in ("hosta", "hostb") for daemon in self.daemons_of(host)]

    def daemons_of(self, host: str) -> list[Daemon]:
        return list_daemons(os.fsencode(self.site.hosts[host].state))

    def kill(self, host: str) -> None:
        """kill -9 of what runs on there."""
        for daemon in self.daemons_of(host):
            running = daemon.running()
            if running is not None:
                os.kill(running.pid, signal.SIGKILL)

    def reboot_new_home(self) -> None:
        """Whatever runs there is gone, and all mounts are, but that of the file system."""
        self.kill("hostb")
        for point in reversed(self.mounts()):
            subprocess.run(["umount", "-l", point], check=True)

    def log(self) -> str:
        return "\n".join(str(daemon.last()) for daemon in self.daemons())

    def mounts(self) -> list[str]:
        """Where something is mounted on the new home's file system, below its root."""
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        return [point for line in lines if (point := line.split()[4]).startswith(f"{self.ground.there}/")]

    def clear(self) -> None:
        self.go_on()
        for daemon in self.daemons():
            with contextlib.suppress(Exception):
                daemon.stop()
        for point in reversed(self.mounts()):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)


@contextlib.contextmanager
def lazy_ground(tmp_path: Path, here: str = "ext4", there: str = "ext4", files: int = 100) -> Iterator[LazyGround]:
    with made(tmp_path, here, there, files) as ground:
        lazy = LazyGround(ground)
        try:
            yield lazy
        finally:
            lazy.clear()


def until(happened: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
