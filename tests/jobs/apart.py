"""Two hosts that share nothing but a cable: for moves where the network, or a whole host, fails. Used by test_move_apart.py,
test_move_cut.py, test_move_reboot.py and the soak.

Both have the volume at the same path, as real hosts do. Knows voltool as a command and by docs/footprint.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Host, Site
from tests.network import Network
from tests.writer import Writer, wait_until
from voltool.volumes.lock.hold import in_container

#: Where the hosts have a file system of their own.
DISK = "/srv"
VOLUME = f"{DISK}/vol"
#: Short, so that a test need not wait long; long enough for a busy machine.
SILENCE = 4


@dataclass
class Apart:
    """``hosta`` with the volume ``vol``, and ``hostb``; the volume is at ``VOLUME`` on whichever has it."""

    site: Site
    directory: Path

    def host(self, name: str) -> Host:
        return self.site.hosts[name]

    def tree(self, name: str) -> Path:
        """What stands at the volume's path on that host, as seen from here."""
        return self.host(name).machine.outside(VOLUME)

    def writer(self, name: str = "hosta", word: str = "line") -> Writer:
        """Somebody who writes to the volume, in that host's namespaces."""
        return Writer(Path(VOLUME), self.directory, self.host(name).machine.enter, word, pause=0.01)

    def hold(self) -> None:
        """From now on a move stops when all is prepared at the new home, under the lock, and nothing is committed."""
        (self.directory / "held").touch()

    def until_prepared(self) -> None:
        """Wait for that."""
        wait_until((self.directory / "prepared").exists, 60)

    def let_go(self) -> None:
        """It goes on. Idempotent."""
        for name in ("held", "prepared"):
            (self.directory / name).unlink(missing_ok=True)

    def until_committed(self, move: Running) -> None:
        """Let the old home commit, and the new one not be told, since the command is killed in between; after `hold`."""
        self.until_prepared()
        machine = self.host("hostb").machine
        machine.deafen()
        self.let_go()
        wait_until(lambda: self.record("hosta", "source")["phase"] == "moved")
        move.kill()
        move.end()
        machine.mend()

    def start(self, *words: str) -> Running:
        return Running(self.site, words)

    def record(self, name: str, side: str) -> dict[str, Any]:
        """What a host remembers of the move: ``side`` is source or target; empty where it remembers nothing."""
        for path in (self.host(name).state / "moves").glob(f"*.{side}.json"):
            with contextlib.suppress(OSError, ValueError):
                found: dict[str, Any] = json.loads(path.read_text())
                return found
        return {}

    def lock_mounts(self, name: str) -> list[str]:
        """Mounts of a lock on that host."""
        lines = self.host(name).machine.mounts()
        return [line for line in lines if line.split()[4].startswith(f"{DISK}/")]

    def is_writable(self, name: str) -> bool:
        """Whether somebody on that host can make a file in the volume's tree."""
        try:
            (self.tree(name) / "probe").touch()
        except OSError:
            return False
        return True

    def has_tree(self, name: str) -> bool:
        return (self.tree(name) / "d1").is_dir()

    def agents(self, name: str) -> list[int]:
        """Processes on that host that voltool started: agents, their workers, guardians."""
        found = []
        for pid in self.host(name).machine.processes():
            with contextlib.suppress(OSError):
                if b"/agent/voltool-" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def reboot(self, name: str) -> None:
        host = self.host(name)
        host.machine.reboot([host.sshd.pid])

    def status(self) -> str:
        return self.site.voltool("move", "--status", "vol").stdout

    def resume(self) -> None:
        """Until it is done: whoever still works on it without knowing that nobody listens ends by himself."""
        last = ""

        def done() -> bool:
            nonlocal last
            finished = self.site.voltool("move", "--resume", "vol", "--yes", check=False)
            last = finished.stdout + finished.stderr
            assert finished.returncode in (0, 4, 6), last
            return finished.returncode == 0

        self.let_go()
        wait_until(done, 60)

    def forget_commit(self, name: str) -> None:
        """As after a power failure before the record of the commit was on the disk: the tree was exchanged already."""
        moves = self.host(name).machine.outside(DISK) / ".voltool"
        for path in [*(self.host(name).state / "moves").glob("*.source.json"), *moves.glob("*/move.json")]:
            record = json.loads(path.read_text())
            assert record["phase"] == "moved", record
            path.write_text(json.dumps({**record, "phase": "retiring"}))

    def assert_settled(self, home: str, *writers: Writer) -> None:
        """The volume is in service on ``home`` alone, with every acknowledged write, and nothing else is left."""
        other = "hosta" if home == "hostb" else "hostb"
        assert [lost for writer in writers for lost in writer.lost(self.tree(home))] == []
        assert self.is_writable(home)
        assert not self.has_tree(other)
        assert not self.is_writable(other)
        assert self.site.voltool("where", "vol").stdout == f"{home}:{VOLUME}\n"
        for name in (home, other):
            wait_until(lambda name=name: not self.lock_mounts(name) and not self.agents(name))  # type: ignore[misc]


class Running:
    """A voltool that runs meanwhile."""

    def __init__(self, site: Site, words: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            site.command("--json", *words),
            env=site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.output = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_phase(self, phase: str) -> None:
        """Wait until it says that ``phase`` has begun."""
        assert self.reaches(phase), f"it ended without that: {self.output}"

    def reaches(self, phase: str) -> bool:
        """Wait until it says that ``phase`` (a step, or what is done in it) has begun, or ends without that."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if f'"event":"step","subject":"vol","step":"{phase}"' in line:
                return True
            if '"started"' in line and f'"phase":"{phase}"' in line:
                return True
        return False

    def kill(self) -> None:
        """kill -9."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)

    def end(self, timeout: float = 60.0) -> int:
        """Wait for its end; the exit status."""
        try:
            output, complaints = self._process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.communicate()
            raise
        self.output += output + complaints
        return self._process.returncode

    def error(self) -> dict[str, Any]:
        """What it said at the end."""
        lines = [line for line in self.output.splitlines() if line.startswith('{"event":"result"')]
        result: dict[str, Any] = json.loads(lines[-1])
        error: dict[str, Any] = result["error"]
        return error


@contextlib.contextmanager
def two_hosts(directory: Path, here: str = "ext4", there: str = "xfs", files: int = 60) -> Iterator[Apart]:
    """The hosts, with a volume of ``files`` files on ``hosta``."""
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with Network() as network, Site(directory / "site", network) as site:
        for name, kind in (("hosta", here), ("hostb", there)):
            host = site.add_host(name)
            host.machine.mount(kind, DISK)
        config = directory / "config.toml"
        limits = f"silence_timeout = {SILENCE}\nconnect_timeout = {SILENCE}\n"
        held, prepared = directory / "held", directory / "prepared"
        wait = f"test -e {held} || exit 0; touch {prepared}; while test -e {held}; do sleep 0.05; done"
        hook = f'before_online = ["sh", "-c", "{wait}"]'
        config.write_text(f"[hosts.hosta]\n{limits}[hosts.hostb]\n{limits}[volumes.vol]\n{hook}\n")
        site.environment["VOLTOOL_CONFIG"] = str(config)
        apart = Apart(site, directory)
        fill(apart.tree("hosta"), files)
        site.voltool("volume", "add", "vol", f"hosta:{VOLUME}")
        try:
            yield apart
        finally:
            apart.let_go()
            for name in ("hosta", "hostb"):
                subprocess.run(["chattr", "-i", str(apart.tree(name))], check=False, capture_output=True)


def fill(volume: Path, files: int) -> None:
    """About 10 KB a file, and a large one."""
    generator = random.Random(3)
    volume.mkdir()
    for number in range(files):
        directory = volume / f"d{number % 7}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(generator.randbytes(generator.randrange(20_000)))
    (volume / "large").write_bytes(generator.randbytes(3_000_000))
