"""Where a volume lives: what scripts and automounters ask. The host's own record decides, not the catalog."""

from __future__ import annotations

from dataclasses import dataclass

from voltool.model import KnownVolume
from voltool.move.ports import World
from voltool.remote.follow import at_home
from voltool.showing import shown
from voltool.wire import messages
from voltool.wire.conversation import expect


@dataclass(frozen=True)
class Place:
    """``path`` on ``host`` (as the user wrote it), and the number of the epoch in which the volume lives there.
    ``split``: where else it lives with that number; empty: nowhere."""

    host: str
    path: bytes
    epoch: int
    split: str = ""


def where(world: World, name: str) -> Place:
    """The volume's home, confirmed by its host; a volume that has moved is followed.

    Raises NotFoundError where the host has no such volume, UnreachableError.
    """
    return at_home(world, world.catalog.volume(name), lambda volume: _ask(world, volume))


def _ask(world: World, volume: KnownVolume) -> Place:
    with world.hosts.connect(volume.host) as agent:
        agent.send(messages.ShowVolume(volume.uuid, volume.path))
        reply = expect(agent, messages.VolumeReply)
    split = "" if reply.split is None else f"{reply.split.home.host}:{shown(reply.split.home.path)}"
    return Place(volume.host, reply.record.path, reply.record.epoch.number, split)
