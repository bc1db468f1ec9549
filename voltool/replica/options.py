"""How replicas are brought up to date, as the jobs are told by the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voltool.model import NO_HOOKS, Hooks, KnownReplica, KnownVolume


@dataclass(frozen=True)
class ReplicaOptions:
    """Of one volume: ``codec``, ``workers``, ``bandwidth`` (bytes/s, 0: no limit) and ``hooks`` as of a dump; ``base_age``:
    seconds that its home keeps a clone for a replica that is not synced (0: for ever)."""

    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    hooks: Hooks = NO_HOOKS
    base_age: int = 0


#: The options for a volume, by its name.
OptionsOf = Callable[[str], ReplicaOptions]


@dataclass(frozen=True)
class Target:
    """A replica and its volume, as the catalog has them."""

    volume: KnownVolume
    replica: KnownReplica

    @property
    def subject(self) -> str:
        """What it is called in messages."""
        return f"{self.volume.name} on {self.replica.host}"
