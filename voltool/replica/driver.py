"""Brings a replica up to date: one dump against what it holds, then the swap. Pure over the protocols of `ports`."""

from __future__ import annotations

from voltool.events import Reporter
from voltool.replica.ports import Brought, ReplicaHome, ReplicaSourceHome


def run(source: ReplicaSourceHome, replica: ReplicaHome, reporter: Reporter, subject: str) -> Brought:
    """One round. Whatever fails leaves the replica with its last good state."""
    del reporter, subject
    brought = source.dump(replica.held, replica.manifest, replica)
    replica.swap(brought)
    source.keep(brought.state_id)
    return brought
