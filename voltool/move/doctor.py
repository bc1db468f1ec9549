"""What is not as the hosts' records say: each host examines itself; here they are held against each other and the catalog."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from voltool.errors import UnreachableError, VoltoolError
from voltool.model import KnownVolume, VolumeRecord
from voltool.move.hosts import all_hosts
from voltool.move.ports import World
from voltool.move.where import where
from voltool.showing import shown
from voltool.wire import messages
from voltool.wire.conversation import expect


@dataclass(frozen=True)
class HostFinding:
    """A finding and the host it was made on, as the user calls it; empty: it is about several, or the catalog."""

    host: str
    finding: messages.Finding


@dataclass(frozen=True)
class _Claim:
    host: str
    machine_id: str
    record: VolumeRecord


def examine(world: World, *, fix: bool) -> list[HostFinding]:
    """Everything that is wrong on all known hosts and between them; with ``fix``, what can be is put right."""
    found: list[HostFinding] = []
    claims: list[_Claim] = []
    for host in all_hosts(world):
        try:
            with world.hosts.connect(host) as agent:
                agent.send(messages.Examine(fix))
                findings = expect(agent, messages.ExamineReply).findings
                agent.send(messages.ListVolumes())
                volumes = expect(agent, messages.VolumesReply).records
                claims += [_Claim(host, agent.agent.machine_id, record) for record in volumes]
        except UnreachableError as error:
            finding = messages.Finding("host", "", host, f"not reached: {error.why or error.what}", error.remedy)
            found.append(HostFinding(host, finding))
        else:
            found += [HostFinding(host, _with_host(finding, host)) for finding in findings]
    found += _several_claims(claims)
    unreached = {finding.host for finding in found if finding.finding.kind == "host"}
    for volume in world.catalog.volumes():
        if volume.host not in unreached:
            found += _against_the_catalog(world, volume, claims, fix=fix)
    found += _unknown_here(world, claims, fix=fix)
    return found


def _with_host(finding: messages.Finding, host: str) -> messages.Finding:
    """A host does not know what it is called here."""
    return dataclasses.replace(finding, remedy=finding.remedy.replace(" HOST", f" {host}"))


def _several_claims(claims: list[_Claim]) -> list[HostFinding]:
    """A volume that lives on two machines: the higher epoch wins, and at equal numbers the user has to choose. One epoch, token
    and all, on both is no promotion's doing: then a host was copied."""
    found = []
    for uuid in dict.fromkeys(claim.record.uuid for claim in claims):
        mine = {
            (claim.machine_id or claim.host, claim.record.path): claim for claim in claims if claim.record.uuid == uuid
        }
        if len(mine) < 2:
            continue
        ranked = sorted(mine.values(), key=lambda claim: claim.record.epoch.number, reverse=True)
        places = [f"{claim.host}:{shown(claim.record.path)} (epoch {claim.record.epoch.number})" for claim in ranked]
        first, second = (claim.record.epoch for claim in ranked[:2])
        name = ranked[0].record.name
        if first.number != second.number:
            remedy = f"{places[0]} is the later home; voltool doctor --fix lets the other one retire its copy"
        elif first.token != second.token:
            remedy = (
                f"compare them, and choose: voltool replica promote {name} HOST --force; the other keeps its copy aside"
            )
        else:
            remedy = "compare them, and voltool volume remove on the host whose copy is wrong"
        finding = messages.Finding("claims", name, ", ".join(places), "two hosts claim to be the volume's home", remedy)
        found.append(HostFinding("", finding))
    return found


def _against_the_catalog(world: World, volume: KnownVolume, claims: list[_Claim], *, fix: bool) -> list[HostFinding]:
    if any(claim.record.uuid == volume.uuid and claim.host == volume.host for claim in claims):
        return []
    elsewhere = next((claim for claim in claims if claim.record.uuid == volume.uuid), None)
    place = f"{volume.host}:{shown(volume.path)}"
    what = "the catalog has it there, and the host does not"
    remedy = f"voltool volume set {volume.name} --host HOST --path /path, or voltool volume remove {volume.name}"
    if elsewhere is not None:
        remedy = f"voltool where {volume.name} finds it at {elsewhere.host}:{shown(elsewhere.record.path)}"
    fixed = False
    if fix and elsewhere is not None:
        try:
            where(world, volume.name)
            fixed = True
        except VoltoolError as error:
            what += f"; it cannot be followed: {error}"
    finding = messages.Finding("catalog", volume.name, place, what, remedy, fixable=elsewhere is not None, fixed=fixed)
    return [HostFinding("", finding)]


def _unknown_here(world: World, claims: list[_Claim], *, fix: bool) -> list[HostFinding]:
    known = {volume.uuid for volume in world.catalog.volumes()}
    names = {volume.name for volume in world.catalog.volumes()}
    found = []
    for claim in claims:
        record = claim.record
        if record.uuid in known or claim.host == "local":
            continue
        known.add(record.uuid)
        free = record.name not in names
        if fix and free:
            world.catalog.put_volume(
                KnownVolume(record.uuid, record.name, claim.host, record.path, record.driver, record.excludes)
            )
        place = f"{claim.host}:{shown(record.path)}"
        finding = messages.Finding(
            "catalog",
            record.name,
            place,
            "the host has a volume that the catalog does not know",
            f"voltool volume add {record.name} {place}",
            fixable=free,
            fixed=fix and free,
        )
        found.append(HostFinding(claim.host, finding))
    return found
