"""Where a volume lives: what scripts and automounters ask. The host's own record decides, not the catalog."""

from __future__ import annotations

from dataclasses import dataclass

from voltool.errors import AgentError
from voltool.move.ports import World
from voltool.wire import messages


@dataclass(frozen=True)
class Place:
    """``path`` on ``host`` (as the user wrote it), and the number of the epoch in which the volume lives there."""

    host: str
    path: bytes
    epoch: int


def where(world: World, name: str) -> Place:
    """The volume's home, confirmed by its host. Raises NotFoundError where the host has no such volume, UnreachableError."""
    volume = world.catalog.volume(name)
    with world.hosts.connect(volume.host) as agent:
        agent.send(messages.ShowVolume(volume.uuid, volume.path))
        reply = agent.receive()
    if not isinstance(reply, messages.VolumeReply):
        raise AgentError("the agent gave an answer that does not belong to the question", why=type(reply).__name__)
    return Place(volume.host, reply.record.path, reply.record.epoch.number)
