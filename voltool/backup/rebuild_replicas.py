"""Which replicas there are, by what hosts said: those on them, and those that a volume's home keeps a clone for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from voltool.backup.ports import World
from voltool.model import SERVING, KnownReplica, Peer, ReplicaBase
from voltool.policy.replicas import REPLICA
from voltool.wire.replicas import ReplicasReply, ReplicaStatus

LOCAL = "local"


def named_hosts(world: World, replies: Mapping[str, ReplicasReply]) -> list[str]:
    """The hosts that the answers name, and that have not been asked: of replicas elsewhere, and homes of replicas."""
    found: dict[str, None] = {}
    for reply in replies.values():
        peers = [status.replica.home for status in reply.replicas] + [base.replica for base in reply.bases]
        found |= dict.fromkeys(peer.host for peer in peers if _is_usable(world, peer))
    return [host for host in found if host not in replies]


def learn_replicas(world: World, replies: Mapping[str, ReplicasReply]) -> list[KnownReplica]:
    """The catalog learns the replicas of volumes that it knows; what a replica's own host says counts for more than what a home
    remembers. All that it knows then."""
    volumes = {volume.uuid for volume in world.catalog.volumes()}
    known = {each.replica_id for each in world.catalog.replicas()}
    for found in (*_on_hosts(replies), *_kept_for(world, replies, known)):
        if found.volume_uuid in volumes and not _has_another(world, found):
            world.catalog.put_replica(found)
    return [each for each in world.catalog.replicas() if each.role == REPLICA and each.volume_uuid in volumes]


def _on_hosts(replies: Mapping[str, ReplicasReply]) -> Iterator[KnownReplica]:
    for host, reply in replies.items():
        for status in reply.replicas:
            yield _of_status(host, status)


def _kept_for(world: World, replies: Mapping[str, ReplicasReply], known: set[str]) -> Iterator[KnownReplica]:
    """Those whose own host has not spoken."""
    heard = known | {status.replica.replica_id for reply in replies.values() for status in reply.replicas}
    for reply in replies.values():
        for base in reply.bases:
            answered = base.replica.host in replies  # and does not have it
            if base.replica_id not in heard and not answered and _is_usable(world, base.replica):
                yield _of_base(base)


def _of_status(host: str, status: ReplicaStatus) -> KnownReplica:
    record = status.replica
    return KnownReplica(
        record.replica_id,
        record.uuid,
        host,
        record.path,
        phase=record.phase,
        sequence=record.sequence,
        clone_time_ns=record.clone_time_ns,
        home_sequence=record.sequence,
        checked_ns=time.time_ns(),
        missing_bytes=status.missing_bytes,
    )


def _of_base(base: ReplicaBase) -> KnownReplica:
    return KnownReplica(
        base.replica_id,
        base.uuid,
        base.replica.host,
        base.replica.path,
        phase=SERVING,
        sequence=base.sequence,
        clone_time_ns=base.clone_time_ns,
        home_sequence=base.sequence,
    )


def _has_another(world: World, found: KnownReplica) -> bool:
    """One replica a host: what the catalog has under another id there (by another of its names, perhaps) stays."""
    others = world.catalog.replicas(found.volume_uuid)
    return any(each.host == found.host and each.replica_id != found.replica_id for each in others)


def _is_usable(world: World, peer: Peer) -> bool:
    """Whether its name means something here: `local` is another machine for each machine."""
    if peer.host == LOCAL:
        return bool(peer.machine_id) and peer.machine_id == world.machine.machine_id
    return bool(peer.host)
