"""Promotions and moves of one volume, one after the other: each goes on from what the one before left on every host."""

from __future__ import annotations

import os
from pathlib import Path

from tests.replica.hosts import Ground
from tests.replica.test_two_homes import ground
from voltool.model import Epoch
from voltool.move.driver import Moved, MoveOptions
from voltool.move.job import MoveWish, move_volume
from voltool.move.sessions import SessionSettings
from voltool.wire import messages

__all__ = ["ground"]  # the fixture


def move(ground: Ground, host: str) -> Moved:
    settings = SessionSettings(owner="a test", workers=1, path="relay")
    wish = MoveWish("vol", host, os.fsencode(ground.paths[host]), settings, MoveOptions(downtime=1000.0))
    moved, _ends = move_volume(ground.boss.world, wish)
    return moved


def lose(ground: Ground, home: str, replica: str) -> None:
    """The home dies, a replica takes its place, and the home comes back with something written meanwhile."""
    ground.dead.add(home)
    ground.boss.promote(replica)
    ground.dead.clear()
    (ground.paths[home] / "meanwhile").write_text(f"at {home}")
    (told,) = ground.boss.tell()
    assert (told.host, told.outcome, told.aside) == (home, "retired", (b"meanwhile",))
    assert (Path(os.fsdecode(told.aside_place)) / "meanwhile").read_text() == f"at {home}"


def assert_home(ground: Ground, host: str, number: int, contents: dict[str, bytes]) -> None:
    """It, and no other one, takes itself for the home."""
    homes: dict[str, Epoch] = {}
    for each in "abc":
        with ground.boss.world.hosts.connect(each) as agent:
            agent.send(messages.ListVolumes())
            reply = agent.receive()
            assert isinstance(reply, messages.VolumesReply)
            homes.update((each, record.epoch) for record in reply.records)
    assert {each: epoch.number for each, epoch in homes.items()} == {host: number}
    assert ground.boss.home() == host
    assert ground.contents(host) == contents
    (ground.paths[host] / "writable").touch()
    (ground.paths[host] / "writable").unlink()


def test_each_goes_on_from_the_other(ground: Ground) -> None:
    boss, contents = ground.boss, ground.contents("a")
    boss.dump()
    boss.add("b")
    lose(ground, "a", "b")
    assert_home(ground, "b", 2, contents)

    moved = move(ground, "a")  # where a retired copy is, with what was written there meanwhile
    assert_home(ground, "a", 3, contents)
    assert moved.epoch == 3
    (kept,) = (ground.paths["a"].parent / ".voltool").glob("*/retired-*/meanwhile")
    assert kept.read_text() == "at a"
    boss.add("b")  # which it left by a move
    assert ground.contents("b") == contents

    move(ground, "c")
    assert_home(ground, "c", 4, contents)
    (ground.paths["c"] / "later").write_bytes(b"later")
    boss.sync("b")
    contents["later"] = b"later"
    assert ground.contents("b") == contents
    boss.dump(1)
    lose(ground, "c", "b")
    assert_home(ground, "b", 5, contents)
    dump = boss.dump(1)
    assert (dump.header.level, dump.header.epoch.number, dump.totals.data_bytes) == (1, 5, len(b"later"))
    boss.add("c")  # which it left by a promotion
    boss.add("a")
    assert ground.contents("c") == ground.contents("a") == contents
