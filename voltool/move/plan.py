"""The plan of a move: what would happen, what stands in its way, and how long its last lock will be. Touches nothing."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace

from voltool.model import RECEIVING, KnownVolume, Peer, TargetMove
from voltool.move.ports import World
from voltool.move.predict import planned_downtime
from voltool.wire import moving
from voltool.wire.conversation import expect


@dataclass(frozen=True)
class Obstacle:
    """A reason to refuse, on ``host``."""

    host: str
    what: str
    where: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Plan:
    """What a move of ``volume`` to ``host`` and ``path`` comes to. ``predicted``: seconds of the last lock. ``unknown_owners``:
    users and groups that the new home does not know by name: their numbers are kept."""

    volume: KnownVolume
    host: str
    path: bytes
    source: moving.SourcePlan
    target: moving.TargetPlan
    predicted: float
    obstacles: tuple[Obstacle, ...]

    @property
    def unknown_owners(self) -> tuple[str, ...]:
        """See the class."""
        return self.target.unknown_owners


def plan_move(
    world: World, name: str, host: str, path: bytes | None, *, only_hooks: bool = False, lazy: bool = False
) -> Plan:
    """Ask both hosts. Raises NotFoundError, MovedError, UnreachableError."""
    volume = world.catalog.volume(name)
    path = path or volume.path
    obstacles = []
    if host == volume.host:
        obstacles.append(Obstacle(host, "the volume is on that host already", host, "", "another host"))
    with world.hosts.connect(volume.host) as here:
        here.send(moving.PlanOut(volume.uuid, volume.path, only_hooks))
        source = expect(here, moving.SourcePlan)
        back = Peer(volume.host, here.agent.machine_id, here.agent.hostname, volume.path)
    move = TargetMove(uuid.uuid4().hex, volume.uuid, volume.name, path, back, RECEIVING, int(time.time()))
    move = replace(move, lazy=lazy)
    with world.hosts.connect(host) as there:
        there.send(moving.PlanIn(move, source.bytes, source.entries, source.owners, source.xattrs, source.extremes))
        target = expect(there, moving.TargetPlan)
    for where, found in ((volume.host, source.obstacles), (host, target.obstacles)):
        obstacles += [Obstacle(where, each.what, each.where, each.why, each.remedy) for each in found]
    predicted = planned_downtime(
        entries=source.entries,
        rescan=source.rescan_seconds,
        leases=source.lease_seconds,
        changing=source.recent_bytes,
    )
    return Plan(volume, host, path, source, target, predicted, tuple(obstacles))
