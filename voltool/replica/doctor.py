"""Replicas by their hosts, by the volumes' homes and by the catalog, held against each other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from voltool.model import KnownReplica, KnownVolume, ReplicaBase
from voltool.move.doctor import HostFinding
from voltool.move.hosts import all_hosts
from voltool.policy.replicas import FORMER, REPLICA
from voltool.replica.contact import UNREACHED, settle_homes
from voltool.replica.ports import World
from voltool.replica.survey import Answer, ask, seen_now
from voltool.showing import shown
from voltool.wire.messages import Finding
from voltool.wire.replicas import SPLIT, ReplicaStatus

_KIND = "replica"
#: As long (seconds) as a host may take to answer that is busy: nobody is in a hurry here.
_PATIENCE = 90.0


def examine_replicas(world: World, *, fix: bool) -> list[HostFinding]:
    """What the hosts and the catalog do not agree about; with ``fix`` the catalog learns of replicas that it does not know.
    What a host finds wrong with its own replicas, and who does not answer, is in `move.doctor`."""
    volumes = {volume.uuid: volume for volume in world.catalog.volumes()}
    known = [each for each in world.catalog.replicas() if each.volume_uuid in volumes]
    hosts = [volume.host for volume in volumes.values()] + [each.host for each in known]
    answers = {host: answer for host, answer in ask(world.hosts, hosts, _PATIENCE).items() if answer.error is None}
    found: list[HostFinding] = []
    for each in known:
        found += _of_known(volumes[each.volume_uuid], each, answers)
    for host, answer in answers.items():
        for status in answer.reply.replicas:
            if not any(each.replica_id == status.replica.replica_id for each in known):
                found += _unknown(world, host, status, volumes, fix=fix)
        for base in answer.reply.bases:
            if not _is_accounted_for(base, known, answers):
                found += _kept_for_nobody(host, base, volumes)
    return found


def settle_claims(world: World, found: Iterable[HostFinding]) -> list[HostFinding]:
    """Where two hosts claim a volume, the one with the lower epoch is told of the other, and retires; of equal ones the user has
    to choose. The findings, with those put right marked."""
    settled = []
    for each in found:
        if each.finding.kind == "claims":
            volume = next((known for known in world.catalog.volumes() if known.name == each.finding.volume), None)
            told = [] if volume is None else settle_homes(world, volume, all_hosts(world))
            right = bool(told) and all(one.outcome not in (UNREACHED, SPLIT) for one in told)
            each = replace(each, finding=replace(each.finding, fixed=right, fixable=right))  # noqa: PLW2901
        settled.append(each)
    return settled


def _of_known(volume: KnownVolume, known: KnownReplica, answers: Mapping[str, Answer]) -> Iterator[HostFinding]:
    place = shown(known.path)
    if known.role == FORMER:
        what = (
            known.fault
            or "it was the volume's home before a promotion, and has not been told yet: it may still take writes"
        )
        yield HostFinding(known.host, Finding(_KIND, volume.name, place, what, f"voltool replica sync {volume.name}"))
    answer = answers.get(known.host)
    if known.role != REPLICA or answer is None:
        return
    status = next((each for each in answer.reply.replicas if each.replica.replica_id == known.replica_id), None)
    if status is None:
        what = "the catalog has a replica there, and the host does not"
        remedy = f"voltool replica remove {volume.name} {known.host}, and add it anew where it is wanted"
        yield HostFinding(known.host, Finding(_KIND, volume.name, place, what, remedy))


def _unknown(
    world: World, host: str, status: ReplicaStatus, volumes: Mapping[str, KnownVolume], *, fix: bool
) -> Iterator[HostFinding]:
    record = status.replica
    volume = volumes.get(record.uuid)
    free = volume is not None and not any(
        each.host == host and each.role == REPLICA for each in world.catalog.replicas(record.uuid)
    )
    if fix and free:
        new = KnownReplica(record.replica_id, record.uuid, host, record.path)
        world.catalog.put_replica(seen_now(new, status, time.time_ns()))
    what = "the host has a replica that the catalog does not know"
    remedy = f"voltool catalog rebuild --host {host}; or voltool replica remove {record.name} {host}"
    finding = Finding(_KIND, record.name, shown(record.path), what, remedy, fixable=free, fixed=fix and free)
    yield HostFinding(host, finding)


def _is_accounted_for(base: ReplicaBase, known: list[KnownReplica], answers: Mapping[str, Answer]) -> bool:
    """Whether the catalog or a host knows the replica that a home keeps something for."""
    if any(each.replica_id == base.replica_id for each in known):
        return True
    statuses = (status for answer in answers.values() for status in answer.reply.replicas)
    return any(status.replica.replica_id == base.replica_id for status in statuses)


def _kept_for_nobody(host: str, base: ReplicaBase, volumes: Mapping[str, KnownVolume]) -> Iterator[HostFinding]:
    name = volumes[base.uuid].name if base.uuid in volumes else base.uuid
    there = base.replica.host or base.replica.hostname
    what = f"the volume's home keeps a clone for a replica on {there} that the catalog does not know"
    remedy = f"voltool catalog rebuild --host {there}; where that is lost: voltool replica remove {name} {there} --forget-host"
    yield HostFinding(host, Finding(_KIND, name, shown(base.replica.path), what, remedy))
