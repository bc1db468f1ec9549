"""Locking a volume for a while, and unlocking it: asks the agent of the volume's host, whose guardian keeps the lock."""

from __future__ import annotations

from dataclasses import dataclass

from voltool.model import NO_HOOKS, Hooks
from voltool.move.ports import World
from voltool.wire import messages
from voltool.wire.conversation import expect


@dataclass(frozen=True)
class LockOptions:
    """``seconds``: how long the lock stands; ``timeout``: how long to wait for who still writes, in seconds.

    ``owner`` says who locks.
    """

    owner: str
    seconds: int = 600
    timeout: int = 30
    hooks: Hooks = NO_HOOKS


def lock_volume(world: World, name: str, options: LockOptions) -> messages.LockReply:
    """Lock it; the host's guardian undoes that when the time is over. Raises BusyError with who still writes,
    RefusedError where no lock can be made (no root, a container)."""
    volume = world.catalog.volume(name)
    request = messages.LockVolume(
        uuid=volume.uuid,
        path=volume.path,
        owner=options.owner,
        seconds=options.seconds,
        timeout=options.timeout,
        hooks=options.hooks,
    )
    with world.hosts.connect(volume.host) as agent:
        agent.send(request)
        return expect(agent, messages.LockReply)


def unlock_volume(world: World, name: str) -> bool:
    """End the volume's lock, whoever made it; whether there was one. Idempotent."""
    volume = world.catalog.volume(name)
    with world.hosts.connect(volume.host) as agent:
        agent.send(messages.UnlockVolume(volume.uuid, volume.path))
        reply = expect(agent, messages.UnlockReply)
    return bool(reply.owner)
