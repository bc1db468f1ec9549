"""A replica that a job is about, and how its volume's replicas are brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voltool.model import KnownReplica, KnownVolume
from voltool.replica.sessions import ReplicaSettings

#: The settings for the replicas of a volume, by its name.
SettingsOf = Callable[[str], ReplicaSettings]


@dataclass(frozen=True)
class Target:
    """A replica and its volume, as the catalog has them."""

    volume: KnownVolume
    replica: KnownReplica

    @property
    def subject(self) -> str:
        """What it is called in messages."""
        return f"{self.volume.name} on {self.replica.host}"
