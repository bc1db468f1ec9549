"""A volume and replicas of it, each on a host with a state directory of its own; agents are forks (`tests.core.harness`)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.core.harness import ForkHosts, Inject, Recorder, Rig
from voltool.model import FILLING, Epoch, Peer, ReplicaRecord
from voltool.remote.session import AgentSession
from voltool.replica import driver
from voltool.replica.driver import Synced
from voltool.replica.ports import Brought
from voltool.replica.sessions import ReplicaSession, ReplicaSettings, SourceSession
from voltool.volumes import records
from voltool.wire import messages
from voltool.wire.messages import DumpReply
from voltool.wire.replicas import (
    ListReplicas,
    Promoted,
    PromoteReplica,
    ReplicaIn,
    ReplicasReply,
    ReplicaStatus,
    ShowStanding,
)

SETTINGS = ReplicaSettings(workers=1)


@dataclass
class Replica:
    """One replica of the rig's volume, at ``path`` on a host of its own. ``inject`` is called in each agent of its host,
    ``inject_home`` in each of the volume's."""

    rig: Rig
    path: Path
    replica_id: str
    settings: ReplicaSettings = SETTINGS
    inject: Inject | None = None
    inject_home: Inject | None = None
    reporter: Recorder = field(default_factory=Recorder)

    @property
    def state(self) -> Path:
        """The state directory of its host."""
        return self.path.parent / f"state-{self.path.name}"

    @property
    def place(self) -> Path:
        """Where what belongs to it lies."""
        return self.path.parent / ".voltool" / f"replica-{self.rig.volume.uuid}"

    def wish(self) -> ReplicaRecord:
        """As the command line asks for it."""
        home = Peer("source", "m", "source", os.fsencode(self.rig.path))
        return ReplicaRecord(self.replica_id, self.rig.volume.uuid, "vol", os.fsencode(self.path), home, FILLING, 0)

    @contextlib.contextmanager
    def source(self) -> Iterator[SourceSession]:
        """A session with the volume's home."""
        hosts = ForkHosts(self.rig.directory / "host", self.reporter, self.inject_home)
        home = records.open_home(os.fsencode(hosts.state), self.rig.volume.uuid, os.fsencode(self.rig.path))
        peer = Peer("replica", "m", "replica", os.fsencode(self.path))
        with hosts.connect("source") as agent:
            yield SourceSession(agent, home.record, self.replica_id, peer, self.settings)

    @contextlib.contextmanager
    def agent(self) -> Iterator[AgentSession]:
        """A conversation with the replica's host."""
        with ForkHosts(self.state, self.reporter, self.inject).connect("replica") as agent:
            yield agent

    @contextlib.contextmanager
    def session(self, *, begin: bool = True) -> Iterator[ReplicaSession]:
        """A session with the replica's host."""
        with self.agent() as agent:
            yield ReplicaSession(agent, self.wish(), self.settings, begin=begin)

    def sync(self, *, until_level: bool = False) -> Synced:
        """Add it, or bring it up to date."""
        with self.source() as source, self.session() as replica:
            return driver.sync(source, replica, self.reporter, until_level=until_level)

    def promote(self) -> None:
        """It becomes the volume."""
        with self.agent() as agent:
            agent.send(ReplicaIn(self.wish(), begin=False))
            assert isinstance(agent.receive(), ReplicaStatus)
            agent.send(PromoteReplica(Epoch(2, "t" * 32, "replica"), 1000))
            assert isinstance(agent.receive(), Promoted)

    def dump_promoted(self) -> DumpReply:
        """A dump of the volume that it has become, against the state that was promoted."""
        with self.agent() as agent:
            agent.send(ShowStanding(self.rig.volume.uuid))
            base = agent.receive().began_with
            path = os.fsencode(self.path)
            agent.send(messages.StartDump(self.rig.volume.uuid, path, "d" * 32, 1, base, None, workers=1))
            while not isinstance(received := agent.receive(), DumpReply):
                if isinstance(received, messages.ScanTotals):
                    agent.send(messages.Proceed())
            return received

    def receive(self) -> Brought:
        """A sync that is cut off before the swap."""
        with self.source() as source, self.session() as replica:
            return source.dump(replica.held, replica.manifest, replica)

    def remove(self, *, purge: bool) -> None:
        """Remove it."""
        with self.source() as source, self.session(begin=False) as replica:
            driver.remove(source, replica, purge=purge)

    def listed(self) -> list[ReplicaStatus]:
        """What its host says of it."""
        with self.agent() as agent:
            agent.send(ListReplicas())
            reply = agent.receive()
            assert isinstance(reply, ReplicasReply)
            return list(reply.replicas)

    def findings(self, *, fix: bool = False) -> tuple[messages.Finding, ...]:
        """What the doctor says of its host."""
        with self.agent() as agent:
            agent.send(messages.Examine(fix=fix))
            reply = agent.receive()
            assert isinstance(reply, messages.ExamineReply)
            return reply.findings

    def free(self) -> None:
        """Take mounts off, so that the file system can be unmounted; it is removed at the end of a test."""
        for path in (self.path, self.place / "next", self.place / "previous"):
            while subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True).returncode == 0:
                pass


def is_writable(path: Path) -> bool:
    """Whether somebody can make a file in the directory."""
    try:
        (path / "written by a user").touch()
    except OSError:
        return False
    return True
