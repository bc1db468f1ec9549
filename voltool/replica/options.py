"""How replicas are brought up to date, as the jobs are told by the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voltool.model import NO_HOOKS, Hooks, KnownReplica, KnownVolume


def _any_port(_host: str) -> str:
    return ""


@dataclass(frozen=True)
class ReplicaOptions:
    """Of one volume: ``codec``, ``workers``, ``bandwidth`` (bytes/s, 0: no limit) and ``hooks`` as of a dump; ``base_age``:
    seconds that its home keeps a clone for a replica that is not synced (0: for ever). ``lazy``: a new replica is mounted at once, and
    its files come later, besides from the volume's home from the hosts ``sources`` (empty: all that have full replicas); ``ports`` at
    which a host may listen; ``fetch_timeout``: seconds that a read may wait for hosts that do not answer."""

    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    hooks: Hooks = NO_HOOKS
    base_age: int = 0
    lazy: bool = False
    sources: tuple[str, ...] = ()
    ports: Callable[[str], str] = _any_port
    fetch_timeout: int = 30


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
