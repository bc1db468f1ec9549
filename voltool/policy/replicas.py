"""How far a replica is behind, and when that is too far. Pure: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass

_SECOND = 1_000_000_000
#: Roles of `KnownReplica`.
REPLICA, FORMER = "replica", "former"


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
