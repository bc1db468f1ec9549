"""What this package needs of the world, as narrow protocols; cli/ passes the real ones in, tests pass others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from voltool.events import Reporter
from voltool.model import Epoch, FileProblem, KnownReplica, KnownVolume, SourceMove, TargetMove, VolumeRecord
from voltool.policy.moves import MoveRecord
from voltool.wire.conversation import IntroducedConversation


class Hosts(Protocol):
    """Ways to agents. `remote.connect.RemoteHosts` is the real one."""

    def connect(self, host: str) -> AbstractContextManager[IntroducedConversation]:
        """A conversation with a fresh agent on ``host`` (``Hello`` already done); leaving the context ends the agent.

        Raises UnreachableError, HostError (python3 missing or too old, with the remedy).
        """


class Volumes(Protocol):
    """The catalog, as far as volumes go."""

    def volume(self, name: str) -> KnownVolume:
        """NotFoundError with the names that are known."""

    def volumes(self) -> list[KnownVolume]:
        """All, by name."""

    def put_volume(self, volume: KnownVolume) -> None:
        """Add or replace a volume (by uuid)."""

    def replicas(self, volume_uuid: str | None = None) -> list[KnownReplica]:
        """The replicas (of a volume), and former homes that have not heard of a promotion; by host."""

    def put_move(self, move: MoveRecord) -> None:
        """Remember a move, instead of what was remembered of this call."""


class World(Protocol):
    """The collaborators of a job."""

    @property
    def hosts(self) -> Hosts:
        """Where volumes live."""

    @property
    def catalog(self) -> Volumes:
        """What is known of them here."""

    @property
    def reporter(self) -> Reporter:
        """Who is told what goes on."""

    @property
    def caller(self) -> str:
        """Who asks, for locks and logs."""


@dataclass(frozen=True)
class Sent:
    """What a dump sent to the new home: the state it leads to, entries of the whole tree, bytes of file content, the
    volume's sequence then, seconds."""

    state_id: str
    entries: int
    bytes: int
    sequence: int
    problems: tuple[FileProblem, ...]
    seconds: float


class Sink(Protocol):
    """Where a dump goes."""

    @property
    def direct(self) -> bool:
        """Whether it gets there by itself, over the direct path between the hosts: then nothing is fed."""

    def attend(self, timeout: float) -> bool:
        """As of `IntroducedConversation`: listen, while a dump gets there by itself, to the host that it goes to."""

    def open(self) -> None:
        """A dump begins."""

    def feed(self, data: bytes) -> None:
        """Its next bytes."""

    def close(self) -> str:
        """It was complete; the state that is held there now."""


class SourceHome(Protocol):
    """The volume's old home, for one session; each method is one exchange of messages. Any VoltoolError ends the session."""

    @property
    def move(self) -> SourceMove | None:
        """The host's record as it is now."""

    @property
    def volume(self) -> VolumeRecord | None:
        """The volume as it is there; None when it is not (any more)."""

    def dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink) -> Sent:
        """Dump the volume against the state ``base`` (empty: everything). ``manifest`` gives that state's, if it is needed."""

    def prepare_lock(self) -> None:
        """Do what can be done beforehand, so that the dump under the lock is short."""

    def lock(self, *, seconds: int) -> None:
        """Nobody writes from here on, for ``seconds`` at the most. BusyError with who still writes."""

    def unlock(self) -> None:
        """Undo that."""

    def switch(self, epoch: Epoch, state_id: str) -> SourceMove:
        """The commit; the record that proves it."""

    def settle(self) -> None:
        """The new home is in service."""

    def abort(self) -> None:
        """The move is off; it can never be switched any more."""

    def forget(self) -> None:
        """The copy is thrown away: nothing is left of the move."""


class TargetHome(Sink, Protocol):
    """The volume's new home, for one session."""

    @property
    def move(self) -> TargetMove | None:
        """The host's record as it is now."""

    @property
    def held(self) -> str:
        """The state that has arrived completely; empty: none."""

    @property
    def hostname(self) -> str:
        """The host's own name."""

    @property
    def lost(self) -> tuple[str, ...]:
        """What of the volume the file system there cannot hold, for people."""

    def manifest(self) -> Iterator[bytes]:
        """The manifest of that state."""

    def get_ready(self, *, wait: bool) -> None:
        """Begin to do what can be done before the lock, so that `prepare` is short. Unless it is waited for, what goes wrong is
        raised by whatever is asked for next, which waits."""

    def prepare(self, epoch: Epoch, state_id: str, sequence: int) -> None:
        """Make it ready, durably."""

    def publish(self, proof: SourceMove) -> str:
        """Become the home. Why the hook ``after_online`` failed then; empty: it did not. Can be repeated."""

    def abort(self) -> None:
        """Throw the copy away."""
