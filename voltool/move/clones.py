"""Clones that a user asked for: made, listed, dropped by the agent of the volume's host.

The host holds them; the catalog knows nothing of them. A dump never gives them up, other than those it makes for itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from voltool.errors import NotFoundError, UsageError
from voltool.model import CloneInfo, Hooks
from voltool.move.ports import World
from voltool.wire import messages
from voltool.wire.conversation import expect

_RequestOf = Callable[[str, bytes], messages.Message]

#: Hexadecimal digits of a clone's id: enough that two machines never choose the same.
_ID_BYTES = 6


def make_clone(world: World, name: str, hooks: Hooks) -> CloneInfo:
    """Clone the volume as it is now. Raises RefusedError where its driver has no clones, BusyError, SpaceError."""
    return _ask(world, name, lambda uuid, path: messages.MakeClone(uuid, path, secrets.token_hex(_ID_BYTES), hooks))[-1]


def list_clones(world: World, name: str) -> tuple[CloneInfo, ...]:
    """The volume's clones, oldest first: the user's, and those that dumps keep as the base of the next level."""
    return _ask(world, name, messages.ListClones)


def drop_clone(world: World, name: str, prefix: str) -> CloneInfo:
    """Delete the one clone of the user's whose id begins with ``prefix``.

    Raises NotFoundError for none, UsageError for several and for one that a dump keeps.
    """
    clone = _chosen(list_clones(world, name), name, prefix)
    _ask(world, name, lambda uuid, path: messages.DropClone(uuid, path, clone.id))
    return clone


def _chosen(clones: tuple[CloneInfo, ...], name: str, prefix: str) -> CloneInfo:
    found = [clone for clone in clones if prefix and clone.id.startswith(prefix)]
    if not found:
        raise NotFoundError(
            f"{name} has no clone {prefix!a}",
            why="its clones: " + (", ".join(clone.id for clone in clones) or "none"),
            remedy=f"voltool clones {name}",
        )
    if len(found) > 1:
        raise UsageError(
            f"several clones of {name} begin with {prefix!a}",
            why=", ".join(clone.id for clone in found),
            remedy="more digits of the one that is meant",
        )
    if found[0].purpose != "user":
        raise UsageError(
            f"clone {found[0].id} of {name} is kept for dumps",
            why="it is the base of the next incremental dump, and given up by itself when space is short",
            remedy="drop clones that voltool clone has made",
        )
    return found[0]


def _ask(world: World, name: str, request_of: _RequestOf) -> tuple[CloneInfo, ...]:
    volume = world.catalog.volume(name)
    with world.hosts.connect(volume.host) as agent:
        agent.send(request_of(volume.uuid, volume.path))
        reply = expect(agent, messages.ClonesReply)
    return reply.clones
