"""How far a replica is behind, when that is too far, and how it stands in a word. Pure: no I/O, no clock."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from voltool.model import FILLING, LAZY_HOME, SERVING, KnownReplica

_SECOND = 1_000_000_000
#: Roles of `KnownReplica`. A home that a lazy move is still filling is none, and is shown with them; no catalog remembers it.
REPLICA, FORMER, HOME = "replica", "former", "home"
#: States in a word that are no phase of `model`.
OK, STALE, FAILING, FAULTY, UNREACHABLE = "ok", "stale", "failing", "faulty", "unreachable"


@dataclass(frozen=True)
class Lag:
    """How far a replica is behind: ``seconds`` since its state was cloned, 0 where nothing newer is known of; ``clones``: how
    much higher the volume's sequence is."""

    seconds: float
    clones: int


def lag_of(now_ns: int, clone_time_ns: int, sequence: int, home_sequence: int) -> Lag:
    """The lag of a replica whose state was cloned at ``clone_time_ns`` with ``sequence``, while its volume is at
    ``home_sequence``. Nobody knows of what is written before the next clone, so time counts also where sequences are equal."""
    return Lag(max(0.0, (now_ns - clone_time_ns) / _SECOND), max(0, home_sequence - sequence))


def is_stale(lag: Lag, max_lag: int | None) -> bool:
    """Whether the replica is older than its limit (seconds; None: it has none)."""
    return max_lag is not None and lag.seconds > max_lag


@dataclass(frozen=True)
class ReplicaStanding:
    """A replica of ``volume`` (its name). ``lag``: None where it serves nothing yet, or is none (a former home); ``max_lag``: its
    limit in seconds. ``faults``: what its host says is not as it should be; ``silent``: why its host could not be asked, where
    that was tried. ``way``: of one whose files are still to come, see `wire.replicas.way_of`."""

    volume: str
    known: KnownReplica
    lag: Lag | None
    max_lag: int | None = None
    faults: tuple[str, ...] = ()
    silent: str = ""
    way: str = ""

    @property
    def is_stale(self) -> bool:
        """Whether it is older than its limit. One that serves nothing yet is so as soon as filling it has failed."""
        if self.known.role != REPLICA:
            return False
        if self.lag is None:
            return self.max_lag is not None and bool(self.known.fault)
        return is_stale(self.lag, self.max_lag)

    @property
    def state(self) -> str:
        """The worst that is known of it, in a word."""
        if self.known.role == FORMER:
            return FORMER
        if self.silent:
            return UNREACHABLE
        if self.faults:
            return FAULTY
        if self.is_stale:
            return STALE
        if self.known.fault:
            return FAILING
        return OK if self.known.phase == SERVING else self.known.phase


def standing_of(volume: str, known: KnownReplica, now_ns: int, max_lag: int | None) -> ReplicaStanding:
    """How the replica stands by what was seen last."""
    serves = known.role == REPLICA and bool(known.clone_time_ns) and known.phase != FILLING
    lag = lag_of(now_ns, known.clone_time_ns, known.sequence, known.home_sequence) if serves else None
    return ReplicaStanding(volume, known, lag, max_lag)


def filling_home(volume: str, known: KnownReplica, faults: tuple[str, ...], way: str) -> ReplicaStanding:
    """How the home of a volume stands that a lazy move is still filling."""
    return ReplicaStanding(volume, dataclasses.replace(known, role=HOME, phase=LAZY_HOME), None, faults=faults, way=way)
