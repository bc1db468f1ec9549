"""Moves that did not end, asked of the hosts: once a host, and further only where one remembers such a move."""

from __future__ import annotations

from dataclasses import dataclass

from voltool.errors import VoltoolError
from voltool.model import MOVED, PREPARED, RECEIVING, RETIRED, RETIRING
from voltool.move.job import Standing, Which, standing
from voltool.move.ports import World
from voltool.wire import moving
from voltool.wire.conversation import expect


@dataclass(frozen=True)
class Unfinished:
    """What the hosts said: moves that did not end, and hosts that could not be asked, with why."""

    moves: tuple[Standing, ...]
    silent: tuple[tuple[str, str], ...]


def ask_hosts(world: World) -> Unfinished:
    """Ask the hosts of all volumes. One that cannot be reached is in the answer, and no error."""
    names: dict[str, str] = {}
    silent = []
    for host in dict.fromkeys(volume.host for volume in world.catalog.volumes()):
        try:
            names = dict.fromkeys(_moving(world, host), host) | names
        except VoltoolError as error:
            silent.append((host, error.why or error.what))
    found = []
    for name, host in names.items():
        try:
            now = standing(world, Which(name, host))
        except VoltoolError as error:
            silent.append((host, f"{name}: {error.why or error.what}"))
        else:
            if now.command:
                found.append(now)
    return Unfinished(tuple(found), tuple(silent))


def _moving(world: World, host: str) -> list[str]:
    """Names of volumes that the host remembers a move of which did not end there."""
    with world.hosts.connect(host) as agent:
        agent.send(moving.ListMoves())
        reply = expect(agent, moving.MovesReply)
    names = [source.name for source in reply.sources if source.phase != RETIRED]
    return names + [target.name for target in reply.targets if target.phase in (RECEIVING, PREPARED)]


def is_nowhere(now: Standing) -> bool:
    """Whether the volume is in service nowhere, as the hosts have it."""
    return now.source is not None and now.source.phase in (MOVED, RETIRING)
