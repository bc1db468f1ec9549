"""Gets the catalog back from what it only remembered: the dumps and lists in stores, the records of hosts.

Adds and corrects. Of two that claim a volume the one with the higher epoch wins, and what loses is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from voltool.backup import volume_list
from voltool.backup.discover import known_dumps
from voltool.backup.marks import read_marks
from voltool.backup.ports import World
from voltool.backup.rebuild_replicas import learn_replicas, named_hosts
from voltool.errors import VoltoolError
from voltool.events import Notice
from voltool.machine import Machine
from voltool.model import KnownReplica, KnownVolume, StoredDump, VolumeRecord
from voltool.showing import shown
from voltool.stores.contract import Store
from voltool.stores.naming import SUFFIX, check_volume_name, parse_name
from voltool.wire import messages
from voltool.wire.conversation import expect
from voltool.wire.replicas import ListReplicas, ReplicasReply

LOCAL = "local"
#: Who said it, the more trusted the higher: a host of its own volumes, the catalog, a store's list.
_HOST, _CATALOG, _LIST = 2, 1, 0


@dataclass(frozen=True)
class Claim:
    """Somebody says where a volume is. ``token`` belongs to the epoch; empty: not known. ``source`` is for people."""

    volume: KnownVolume
    epoch: int
    token: str
    trust: int
    source: str
    newest_ns: int = 0


@dataclass
class RebuildOutcome:
    """What the catalog has now. ``nowhere``: names of volumes that have dumps, and that nobody says where they live;
    ``failed``: stores and hosts that could not be asked, with the reason."""

    volumes: list[KnownVolume] = field(default_factory=list)
    dumps: list[StoredDump] = field(default_factory=list)
    accepted: int = 0
    replicas: list[KnownReplica] = field(default_factory=list)
    nowhere: list[str] = field(default_factory=list)
    failed: list[tuple[str, VoltoolError]] = field(default_factory=list)


def rebuild(world: World, urls: Sequence[str], hosts: Sequence[str]) -> RebuildOutcome:
    """Learn all that the stores ``urls`` and the ``hosts`` know. Without ``hosts`` those that the lists name are asked, and one
    that cannot be reached is a warning alone."""
    outcome = RebuildOutcome()
    readable = [url for url in urls if _can_be_listed(world, url, outcome)]
    outcome.dumps = known_dumps(world, readable)
    claims = [_known(volume, outcome.dumps) for volume in world.catalog.volumes()]
    ids = {dump.header.dump_id for dump in outcome.dumps}
    for url in readable:
        store = world.stores.open(url)
        claims += _claims_of_list(world, store)
        for dump_id in ids.intersection(read_marks(store).accepted):
            world.catalog.accept_dump(dump_id)
            outcome.accepted += 1
    replies: dict[str, ReplicasReply] = {}
    for host in hosts or sorted({claim.volume.host for claim in claims if _is_asked(world, claim.volume)}):
        claims += _claims_of_host(world, host, outcome, replies, strict=bool(hosts))
    for host in named_hosts(world, replies) if not hosts else ():
        claims += _claims_of_host(world, host, outcome, replies, strict=False)
    _settle(world, claims, outcome)
    outcome.replicas = learn_replicas(world, replies)
    return outcome


def _can_be_listed(world: World, url: str, outcome: RebuildOutcome) -> bool:
    try:
        files = list(world.stores.open(url).list())
        odd = list(world.stores.open(url).oddities())
    except VoltoolError as error:
        outcome.failed.append((url, error))
        return False
    if not files:
        world.reporter.report(Notice("warning", f"nothing lies in {url} (is it mounted?)"))
    strange = [(name, "it is not a file") for name in odd]
    strange += [
        (file.name, "no dump is called so")
        for file in files
        if file.name.endswith(SUFFIX) and not parse_name(file.name)
    ]
    for name, why in strange:
        message = f"{url}/{shown(os.fsencode(name))} is passed over: {why}"
        world.reporter.report(Notice("warning", message))
    return True


# ----------------------------------------------------------------------------------------------------------- claims


def _known(volume: KnownVolume, dumps: Sequence[StoredDump]) -> Claim:
    epochs = [dump.header.epoch.number for dump in dumps if dump.header.volume_uuid == volume.uuid]
    return Claim(volume, max(epochs, default=0), "", _CATALOG, "the catalog")


def _claims_of_list(world: World, store: Store) -> Iterator[Claim]:
    where = f"{store.url}/{volume_list.NAME}"

    def passed_over(why: str) -> None:
        world.reporter.report(Notice("warning", f"{where} is passed over: {why}"))

    try:
        data = store.get_aside(volume_list.NAME)
    except VoltoolError as error:
        passed_over(error.why or error.what)
        return
    if data is None:
        return
    listed = volume_list.decode(data, passed_over)
    if listed.newer:
        passed_over("it was made by a newer voltool")
    for entry in listed.volumes:
        if not entry.removed:
            yield Claim(entry.volume, entry.epoch, "", _LIST, where)


def _is_asked(world: World, volume: KnownVolume) -> bool:
    return volume.host != LOCAL or not world.catalog.is_elsewhere(volume)


def _claims_of_host(
    world: World, host: str, outcome: RebuildOutcome, replies: dict[str, ReplicasReply], *, strict: bool
) -> list[Claim]:
    try:
        with world.hosts.connect(host) as agent:
            agent.send(messages.ListVolumes())
            reply = expect(agent, messages.VolumesReply)
            agent.send(ListReplicas())
            replies[host] = expect(agent, ReplicasReply)
    except VoltoolError as error:
        if strict:
            outcome.failed.append((host, error))
        else:
            message = f"{host} was not asked for its volumes: {error.what}{': ' + error.why if error.why else ''}"
            world.reporter.report(Notice("warning", message))
        return []
    return [_recorded(world, host, record) for record in reply.records]


def _recorded(world: World, host: str, record: VolumeRecord) -> Claim:
    machine = world.machine if host == LOCAL else Machine()
    volume = KnownVolume(
        record.uuid, record.name, host, record.path, record.driver, record.excludes, machine.hostname, machine.machine_id
    )  # fmt: skip
    return Claim(volume, record.epoch.number, record.epoch.token, _HOST, f"the host {host}")


# ---------------------------------------------------------------------------------------------------------- settling


def _settle(world: World, claims: Sequence[Claim], outcome: RebuildOutcome) -> None:
    """One claim for each volume, and one volume for each name; what loses is named."""
    newest: dict[str, int] = {}
    names: dict[str, str] = {}
    for dump in outcome.dumps:
        header = dump.header
        if header.clone_time_ns >= newest.get(header.volume_uuid, 0):
            newest[header.volume_uuid], names[header.volume_uuid] = header.clone_time_ns, header.volume_name
    winners: dict[str, Claim] = {}
    for claim in sorted(claims, key=lambda claim: (claim.epoch, claim.trust), reverse=True):
        winner = winners.setdefault(claim.volume.uuid, replace(claim, newest_ns=newest.get(claim.volume.uuid, 0)))
        _tell_of_loser(world, winner, claim)
    for winner in sorted(winners.values(), key=lambda claim: (claim.trust, claim.newest_ns), reverse=True):
        _put(world, winner)
    outcome.volumes = world.catalog.volumes()
    known = {volume.uuid for volume in outcome.volumes}
    outcome.nowhere = sorted({name for uuid, name in names.items() if uuid not in known})


def _put(world: World, claim: Claim) -> None:
    volume = claim.volume
    try:
        check_volume_name(volume.name)
        world.catalog.put_volume(volume)
    except VoltoolError as error:
        message = (
            f"the volume {ascii(volume.name)[1:-1]} ({_place(volume)}, {volume.uuid}) is passed over: {error.what};"
            f" said by {claim.source}"
        )
        world.reporter.report(Notice("warning", message))


def _tell_of_loser(world: World, winner: Claim, claim: Claim) -> None:
    same_place = (winner.volume.host, winner.volume.path) == (claim.volume.host, claim.volume.path)
    if same_place:
        return
    if winner.epoch == claim.epoch and winner.token and claim.token and winner.token != claim.token:
        why = "both say that they are the one (a split): look at both, and voltool volume set chooses"
        world.reporter.report(Notice("error", f"{_both(winner, claim)}; {why}"))
    elif (winner.epoch, winner.trust) != (claim.epoch, claim.trust):
        why = "its epoch is higher" if winner.epoch > claim.epoch else "the host itself says so"
        world.reporter.report(Notice("warning", f"{_both(winner, claim)}; the first counts: {why}"))
    else:
        world.reporter.report(Notice("warning", f"{_both(winner, claim)}; the first counts"))


def _both(winner: Claim, claim: Claim) -> str:
    return (
        f"{winner.volume.name} is at {_place(winner.volume)} (epoch {winner.epoch}, {winner.source})"
        f" and at {_place(claim.volume)} (epoch {claim.epoch}, {claim.source})"
    )


def _place(volume: KnownVolume) -> str:
    return f"{shown(os.fsencode(volume.host))}:{shown(volume.path)}"
