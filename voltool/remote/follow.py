"""Where a volume went: its old home's record says so, also to a catalog that did not see the move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from voltool.errors import MovedError
from voltool.events import Notice, Reporter
from voltool.model import RETIRED, KnownVolume
from voltool.showing import shown
from voltool.wire import moving
from voltool.wire.conversation import IntroducedConversation, expect

T = TypeVar("T")
#: So many moves are followed in a row.
_MOST = 16


class _Hosts(Protocol):
    def connect(self, host: str) -> AbstractContextManager[IntroducedConversation]:
        """See `remote.connect.RemoteHosts`."""


class _Catalog(Protocol):
    def put_volume(self, volume: KnownVolume) -> None:
        """See `catalog.sqlite.SqliteCatalog`."""


class _World(Protocol):
    @property
    def hosts(self) -> _Hosts: ...

    @property
    def catalog(self) -> _Catalog: ...

    @property
    def reporter(self) -> Reporter: ...


def at_home(world: _World, volume: KnownVolume, act: Callable[[KnownVolume], T]) -> T:
    """``act`` on the volume; where it has moved, at its new home, which the catalog then knows. Raises what ``act`` raises."""
    for _attempt in range(_MOST):
        try:
            return act(volume)
        except MovedError:
            new = _follow(world, volume)
            if new is None:
                raise
            place = f"{new.host}:{shown(new.path)}"
            world.reporter.report(Notice("info", f"{volume.name}: it has moved from {volume.host} to {place}"))
            world.catalog.put_volume(new)
            volume = new
    return act(volume)


def _follow(world: _World, volume: KnownVolume) -> KnownVolume | None:
    with world.hosts.connect(volume.host) as agent:
        agent.send(moving.ListMoves())
        moves = expect(agent, moving.MovesReply).sources
    left = (move for move in moves if move.uuid == volume.uuid and (move.promoted or move.phase == RETIRED))
    move = next(left, None)
    if move is None:
        return None
    return dataclasses.replace(volume, host=move.target.host, path=move.target.path, hostname="", machine_id="")
