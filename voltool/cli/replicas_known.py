"""The replicas of one volume by what is remembered here, for commands that mention them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltool.cli.invocation import Invocation
    from voltool.policy.replicas import ReplicaStanding


def replicas_of(invocation: Invocation, uuid: str) -> list[ReplicaStanding]:
    """The volume's replicas, by what was seen of them last."""
    import time

    from voltool.backup.replicas import replica_standings

    return replica_standings(invocation.world.catalog, invocation.settings, time.time_ns()).get(uuid, [])
