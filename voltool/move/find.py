"""Finds a move from what the hosts themselves remember: from any machine, with a catalog that never heard of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from voltool.errors import NotFoundError, UnreachableError
from voltool.model import PUBLISHED, KnownVolume, SourceMove, TargetMove
from voltool.move.ports import World
from voltool.wire import moving
from voltool.wire.conversation import expect

M = TypeVar("M", SourceMove, TargetMove)


def find_move(
    world: World, name: str, host: str = "", others: Sequence[str] = ()
) -> tuple[KnownVolume, SourceMove | None]:
    """The volume where its move leads from, and the old home's record of the move (None: nothing moves).

    ``host``: either end of the move, where the catalog does not know the volume; without it all of ``others`` are asked.
    Raises NotFoundError where nobody knows the volume.
    """
    known = next((volume for volume in world.catalog.volumes() if volume.name == name), None)
    hosts = [host] if host else [known.host] if known else list(others)
    uuid = known.uuid if known else ""
    for each in hosts:
        try:
            sources, targets = _moves(world, each)
        except UnreachableError:
            if len(hosts) == 1:
                raise
            continue
        source = _newest(move for move in sources if _is_meant(move, name, uuid))
        target = _newest(move for move in targets if _is_meant(move, name, uuid))
        if target is not None and (source is None or target.since > source.since):
            there = target.source.host
            source = _source_of(world, target)
            if source is not None:
                return _volume(known, source, there), source
        elif source is not None:
            return _volume(known, source, each), source
    if known is None:
        raise _nowhere(name, hosts)
    return known, None


def _source_of(world: World, target: TargetMove) -> SourceMove | None:
    """The old home's record; None where it has none, or is not reached and not needed: the volume is in service."""
    try:
        return _newest(move for move in _moves(world, target.source.host)[0] if move.move_id == target.move_id)
    except UnreachableError:
        if target.phase != PUBLISHED:
            raise
        return None


def _moves(world: World, host: str) -> tuple[tuple[SourceMove, ...], tuple[TargetMove, ...]]:
    with world.hosts.connect(host) as agent:
        agent.send(moving.ListMoves())
        reply = expect(agent, moving.MovesReply)
    return reply.sources, reply.targets


def _is_meant(move: SourceMove | TargetMove, name: str, uuid: str) -> bool:
    return move.uuid == uuid if uuid else move.name == name


def _newest(moves: Iterable[M]) -> M | None:
    return max(moves, key=lambda move: move.since, default=None)


def _volume(known: KnownVolume | None, move: SourceMove, host: str) -> KnownVolume:
    """The volume at its old home; what the catalog says of it beside that stays."""
    if known is not None and known.host == host:
        return known
    return KnownVolume(move.uuid, move.name, host, move.path, known.driver if known else "")


def _nowhere(name: str, hosts: Sequence[str]) -> NotFoundError:
    asked = f"the catalog does not know it; asked: {', '.join(hosts)}" if hosts else "the catalog does not know it"
    return NotFoundError(
        f"no move of a volume {name!a} is known",
        why=asked,
        remedy=f"name one of the two hosts: voltool move --resume {name} HOST (or --abort, --status)",
    )
