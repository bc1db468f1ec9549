"""What this package needs of the world, as narrow protocols; cli/ passes the real ones in, tests pass others.

`driver` knows the two hosts of a replica by `ReplicaSourceHome` and `ReplicaHome` alone: the tests that crash everywhere
run that very code. `sessions` has the real ones, over a conversation with an agent; what a method means stands in
`wire.replicas`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from voltool.events import Reporter
from voltool.model import Epoch, FileProblem, KnownReplica, KnownVolume, ReplicaRecord, StoredDump, VolumeRecord
from voltool.move.ports import Sink
from voltool.policy.moves import MoveRecord
from voltool.wire.conversation import IntroducedConversation


class Hosts(Protocol):
    """Ways to agents. `remote.connect.RemoteHosts` is the real one."""

    def connect(self, host: str) -> AbstractContextManager[IntroducedConversation]:
        """As of `move.ports.Hosts`."""

    def apart(self, reporter: Reporter) -> Hosts:
        """The same ways for a job of its own in a thread of its own."""


class Catalog(Protocol):
    """The catalog, as far as volumes and replicas go."""

    def volume(self, name: str) -> KnownVolume:
        """NotFoundError with the names that are known."""

    def volumes(self) -> list[KnownVolume]:
        """All, by name."""

    def put_volume(self, volume: KnownVolume) -> None:
        """Add or replace a volume (by uuid)."""

    def dumps(self, volume_uuid: str | None = None) -> list[StoredDump]:
        """The dumps that are known (of a volume), oldest first."""

    def put_move(self, move: MoveRecord) -> None:
        """Remember a move."""

    def replicas(self, volume_uuid: str | None = None) -> list[KnownReplica]:
        """The replicas (of a volume), and former homes that have not heard of a promotion; by host."""

    def put_replica(self, replica: KnownReplica) -> None:
        """Add or replace (by id)."""

    def remove_replica(self, replica_id: str) -> None:
        """Forget it. Idempotent."""


class World(Protocol):
    """The collaborators of a job."""

    @property
    def hosts(self) -> Hosts:
        """Where volumes and replicas live."""

    @property
    def catalog(self) -> Catalog:
        """What is known of them here."""

    @property
    def reporter(self) -> Reporter:
        """Who is told what goes on."""

    @property
    def caller(self) -> str:
        """Who asks, for locks and logs."""


@dataclass(frozen=True)
class Brought:
    """What one dump brought to a replica: the state it leads to, the volume's epoch and sequence then, when it was cloned (the
    home's clock), entries of the whole tree, bytes of file content, seconds; what could not be read."""

    state_id: str
    epoch: Epoch
    sequence: int
    clone_time_ns: int
    entries: int
    bytes: int
    seconds: float
    problems: tuple[FileProblem, ...] = ()


class ReplicaSourceHome(Protocol):
    """The volume's home, in a session about one replica. Any VoltoolError ends the session."""

    @property
    def volume(self) -> VolumeRecord:
        """The volume as it is there."""

    @property
    def base(self) -> str:
        """The state that the home believes the replica to have; empty: none."""

    def dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink) -> Brought:
        """Clone the volume and send the difference to ``base`` (empty: everything) into ``sink``; its clone is kept."""

    def keep(self, state_id: str) -> None:
        """The replica serves that state. Idempotent."""

    def forget(self) -> None:
        """There is no such replica any more. Idempotent."""


class ReplicaHome(Sink, Protocol):
    """The host of a replica, in a session. Any VoltoolError ends the session."""

    @property
    def record(self) -> ReplicaRecord:
        """The host's record as it is now."""

    @property
    def held(self) -> str:
        """The state that lies there completely, which an increment is made against; empty: none."""

    def manifest(self) -> Iterator[bytes]:
        """The manifest of that state."""

    def swap(self, brought: Brought) -> None:
        """What is held is served from now on. Repeatable."""

    def remove(self, *, purge: bool) -> None:
        """No replica is here any more. Idempotent."""
