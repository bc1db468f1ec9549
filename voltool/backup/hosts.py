"""What voltool can do on a host, and taking everything of voltool away from one. Talks to the host's agent."""

from __future__ import annotations

from collections.abc import Sequence

from voltool.backup.ports import World
from voltool.errors import AgentError
from voltool.wire import messages


def check_host(world: World, host: str, paths: Sequence[bytes] = ()) -> tuple[messages.HostFact, ...]:
    """What voltool can do on ``host``, with a remedy for each thing it cannot. Changes nothing but the agent's cache.

    The volumes that the catalog knows there are looked at too. Raises UnreachableError, HostError.
    """
    known = [
        volume.path
        for volume in world.catalog.volumes()
        if volume.host == host and not world.catalog.is_elsewhere(volume)
    ]
    with world.hosts.connect(host) as agent:
        agent.send(messages.CheckHost(tuple(dict.fromkeys([*paths, *known]))))
        reply = agent.receive()
    if not isinstance(reply, messages.HostReport):
        raise AgentError("the agent gave an answer that does not belong to the question", why=type(reply).__name__)
    return reply.facts


def clean_host(world: World, host: str, *, dry_run: bool) -> tuple[bytes, ...]:
    """Remove agent, records, clones and staging from ``host``: what was removed, or with ``dry_run`` would be.

    RefusedError while a volume lives there (the host decides, not the catalog).
    """
    with world.hosts.connect(host) as agent:
        agent.send(messages.CleanHost(dry_run))
        reply = agent.receive()
    if not isinstance(reply, messages.CleanReply):
        raise AgentError("the agent gave an answer that does not belong to the question", why=type(reply).__name__)
    return reply.paths
