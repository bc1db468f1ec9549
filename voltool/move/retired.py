"""The retired copies that moves have left behind: where they are, and purging one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from voltool.errors import NotFoundError, UnreachableError
from voltool.events import Notice
from voltool.move.hosts import all_hosts
from voltool.move.ports import World
from voltool.wire import moving
from voltool.wire.conversation import expect


@dataclass(frozen=True)
class Retired:
    """A copy on ``host``: of which volume, where, ``bytes`` on disk, ``age`` seconds since the move began. ``aside``: how
    many paths it has that were written after a replica was promoted in its place, and are nowhere else; -1: nobody knows."""

    name: str
    uuid: str
    host: str
    path: bytes
    moved_to: str
    bytes: int
    age: int
    aside: int = 0


def list_retired(world: World, hosts: Sequence[str]) -> list[Retired]:
    """The retired copies on ``hosts``; none given: on all that are known, and one that cannot be reached is
    named in a notice. Raises UnreachableError."""
    found = []
    for host in hosts or all_hosts(world):
        try:
            with world.hosts.connect(host) as agent:
                agent.send(moving.ListRetired())
                copies = expect(agent, moving.RetiredReply).copies
        except UnreachableError as error:
            if hosts:
                raise
            text = f"{host}: not reached, what is there is missing here: {error.why or error.what}"
            world.reporter.report(Notice("warning", text))
            continue
        found += [_retired(host, copy) for copy in copies]
    return found


def find_retired(world: World, name: str, host: str) -> Retired:
    """The retired copy of volume ``name`` on ``host``; NotFoundError."""
    copy = next((copy for copy in list_retired(world, [host]) if copy.name == name), None)
    if copy is None:
        raise NotFoundError(f"there is no retired copy of {name}", where=host, remedy=f"voltool retired list {host}")
    return copy


def purge_retired(world: World, copy: Retired) -> None:
    """Delete it for good. RefusedError where the move that left it is not complete."""
    with world.hosts.connect(copy.host) as agent:
        agent.send(moving.PurgeRetired(copy.uuid))
        expect(agent, moving.RetiredReply)


def _retired(host: str, copy: moving.RetiredCopy) -> Retired:
    move = copy.move
    age = max(0, int(time.time()) - move.since)
    return Retired(move.name, move.uuid, host, move.retired_path, move.target.host, copy.bytes, age, move.aside_count)
