"""A volume and lazy replicas of it: real mounts, real processes that serve and fill, real direct paths; agents are forks of
the test.

What the command line does is done by its own jobs (`replica.job.add`, `replica.pair.bring`).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.core.harness import ForkHosts, Recorder, Rig
from voltool.agent import daemon as daemons
from voltool.agent.daemon import Daemon, list_daemons
from voltool.agent.lazy.mounted import is_mounted
from voltool.errors import UnreachableError
from voltool.events import Reporter
from voltool.model import KnownReplica
from voltool.remote.session import AgentSession
from voltool.remote.ship import build_agent
from voltool.replica.job import AddWish, Synced, add, remember
from voltool.replica.pair import How, Pair, bring
from voltool.replica.removal import Removed, remove
from voltool.replica.sessions import ReplicaSettings
from voltool.replica.target import Target
from voltool.replica.ways import Surroundings
from voltool.wire import messages
from voltool.wire.replicas import ListReplicas, ReplicasReply, ReplicaStatus

#: So slow (bytes/s) that next to nothing comes in the background.
HARDLY = 1


@dataclass
class Hosts:
    """`replica.ports.Hosts`: each name is a host with a state directory of its own on this machine; who is in ``dead`` does not
    answer."""

    directory: Path
    reporter: Recorder = field(default_factory=Recorder)
    dead: set[str] = field(default_factory=set)

    def state(self, host: str) -> Path:
        return self.directory / ("host" if host == "local" else f"state-{host}")

    @contextlib.contextmanager
    def connect(self, host: str) -> Iterator[AgentSession]:
        if host in self.dead:
            raise UnreachableError("the host cannot be reached", where=host)
        with ForkHosts(self.state(host), self.reporter).connect(host) as agent:
            yield agent

    def apart(self, reporter: Reporter) -> Hosts:
        del reporter
        return self


class LazySite:
    """The volume ``vol`` on the host ``local``, and replicas on others."""

    def __init__(self, ground: Path, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
        program = ground / "agent.pyz"
        program.write_bytes(build_agent().data)
        monkeypatch.setattr(daemons, "_own_program", lambda: os.fsencode(program))
        self.ground = ground
        self.volume = ground / "v" / "vol"
        self.volume.parent.mkdir()
        if driver == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(self.volume)], check=True)
        else:
            self.volume.mkdir()
        self.rig = Rig(ground / "rig", self.volume, driver)
        self.hosts = Hosts(self.rig.directory)
        self.world = Surroundings(self.hosts, self.rig.catalog, self.hosts.reporter, "a test")
        self.settings = ReplicaSettings(workers=1, lazy=True, fetch_timeout=20)

    def fill(self, files: int = 200) -> None:
        """Some 6 MB, more than the first batches of those who fill."""
        generator = random.Random(5)
        for number in range(files):
            path = self.volume / f"d{number % 9}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(generator.randbytes(generator.randrange(30_000)))
        (self.volume / "large").write_bytes(generator.randbytes(3_300_000))
        (self.volume / "link").symlink_to("large")

    def path(self, host: str) -> Path:
        return self.ground / f"on-{host}" / "replica"

    def add(self, host: str, **settings: object) -> Synced:
        self.path(host).parent.mkdir(exist_ok=True)
        wish = AddWish("vol", host, os.fsencode(self.path(host)))
        return add(self.world, wish, replace(self.settings, **settings))  # type: ignore[arg-type]

    def sync(self, host: str, **settings: object) -> Synced:
        target = Target(self.rig.catalog.volume("vol"), self.known(host))
        how = replace(self.settings, lazy=False, **settings)  # type: ignore[arg-type]
        with Pair() as pair:
            return remember(self.world, target, bring(self.world, target, How(how), pair))

    def remove(self, host: str) -> Removed:
        return remove(self.world, "vol", host, purge=True, forget_host=False)

    def known(self, host: str) -> KnownReplica:
        return next(each for each in self.rig.catalog.replicas() if each.host == host)

    def status(self, host: str) -> ReplicaStatus:
        with self.hosts.connect(host) as agent:
            agent.send(ListReplicas())
            reply = agent.receive()
            assert isinstance(reply, ReplicasReply)
            (status,) = reply.replicas
            return status

    def findings(self, host: str, *, fix: bool = False) -> list[str]:
        """What the doctor says of a host."""
        with self.hosts.connect(host) as agent:
            agent.send(messages.Examine(fix=fix))
            reply = agent.receive()
            assert isinstance(reply, messages.ExamineReply)
            return [finding.what for finding in reply.findings]

    def daemon(self, kind: str, host: str, replica: str) -> Daemon:
        """That on ``host`` which serves to, or fills, the replica on the host ``replica``."""
        return Daemon(os.fsencode(self.hosts.state(host)), kind, self.known(replica).replica_id)

    def kill(self, kind: str, host: str, replica: str) -> None:
        found = self.daemon(kind, host, replica)
        running = found.running()
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        await_true(lambda: found.running() is None)

    def is_mounted(self, host: str) -> bool:
        return is_mounted(os.fsencode(self.path(host)))

    def await_plain(self, host: str) -> None:
        await_true(lambda: not self.is_mounted(host) and self.path(host).exists())

    def await_full(self, host: str) -> None:
        self.await_plain(host)
        found = self.daemon("lazy", host, host)
        await_true(lambda: found.running() is None)
        last = found.last()
        assert last is None or not last.fault, last

    def left_over(self, host: str) -> list[str]:
        """What of processes and keys is on a host."""
        state = self.hosts.state(host)
        return sorted(path.name for part in ("daemons", "keys") for path in (state / part).glob("*"))

    def close(self) -> None:
        for state in filter(Path.is_dir, self.rig.directory.iterdir()):
            for found in list_daemons(os.fsencode(state)):
                with contextlib.suppress(Exception):
                    found.remove()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split()[4].startswith(f"{self.ground}/"):
                subprocess.run(["umount", "-l", line.split()[4]], check=False, capture_output=True)
        self.rig.catalog.close()


def await_true(condition: Callable[[], bool], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
