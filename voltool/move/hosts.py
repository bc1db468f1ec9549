"""Which hosts there are: those that volumes and replicas are on, by the catalog, and those from which volumes came there, by the
hosts."""

from __future__ import annotations

from voltool.errors import UnreachableError
from voltool.move.ports import World
from voltool.wire import moving
from voltool.wire.conversation import expect


def all_hosts(world: World, uuid: str = "") -> list[str]:
    """The hosts that have, or had, volumes or replicas; with ``uuid``, those of this one. One that cannot be reached is in the
    list, but what it knows of others is not."""
    volumes = [volume for volume in world.catalog.volumes() if not uuid or volume.uuid == uuid]
    hosts = dict.fromkeys(volume.host for volume in volumes)
    hosts |= dict.fromkeys(replica.host for replica in world.catalog.replicas(uuid or None))
    for host in list(hosts):
        try:
            with world.hosts.connect(host) as agent:
                agent.send(moving.ListMoves())
                targets = expect(agent, moving.MovesReply).targets
        except UnreachableError:
            continue
        hosts.update(dict.fromkeys(move.source.host for move in targets if not uuid or move.uuid == uuid))
    return list(hosts)
