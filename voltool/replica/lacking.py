"""What a lazy replica lacks, by name, and filling it on its own host when nobody has the files any more: from a restored dump."""

from __future__ import annotations

from collections.abc import Iterator

from voltool.errors import NotFoundError
from voltool.policy.replicas import REPLICA
from voltool.replica.ports import World
from voltool.wire.conversation import Conversation, expect
from voltool.wire.replicas import AskMissing, MissingReply

#: So many names are asked for at once: a message has a largest size.
_PAGE = 2_000


def missing_names(agent: Conversation, uuid: str, most: int) -> Iterator[bytes]:
    """At ``most`` so many files that the lazy replica on the agent's host lacks, by name, sorted; below 0: all."""
    first = 0
    while most < 0 or first < most:
        wanted = _PAGE if most < 0 else min(_PAGE, most - first)
        agent.send(AskMissing(uuid, first, wanted))
        paths = expect(agent, MissingReply).paths
        yield from paths
        first += len(paths)
        if len(paths) < wanted:
            return


def fill_from(world: World, name: str, host: str, directory: bytes) -> MissingReply:
    """Let the lazy replica of ``name`` on ``host`` look in a directory there for what it lacks, from now on, whether anybody
    serves it or not. The volume's home is not asked. NotFoundError where there is no such replica, or it lacks nothing."""
    volume = world.catalog.volume(name)
    known = [each for each in world.catalog.replicas(volume.uuid) if (each.host, each.role) == (host, REPLICA)]
    if not known:
        raise NotFoundError(f"{name} has no replica on {host}", remedy=f"voltool replica list {name}")
    with world.hosts.connect(host) as agent:
        agent.send(AskMissing(volume.uuid, given=directory))
        status = expect(agent, MissingReply)
    if not status.is_lazy:
        raise NotFoundError(
            "nothing of the replica is missing that could be filled in",
            where=host,
            why=f"it is {status.phase}",
            remedy=f"voltool replica list {name}",
        )
    return status
