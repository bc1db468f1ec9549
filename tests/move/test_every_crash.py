"""Every crash of a move: each party at each point, then pairs of crashes, then the way on and the way back; enumerated.

What is promised, and looked at after every single operation and in the end: never two writable copies, never none that can
be recovered, no acknowledged write lost, no lock left behind, and both commands end in a clean state. Equal states after
the first crash are gone on from once.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.move import simulation
from tests.move.simulation import InvariantError, Party, SourceDisk, World, run_abort, run_abort_alone, run_move
from voltool.model import ABORTING, MOVED, PUBLISHED, RETIRED
from voltool.move import driver
from voltool.volumes.moving.source import MovingSource
from voltool.volumes.moving.target import MovingTarget

Command = Callable[..., str]


def crashed(world: World, command: Command, **options: object) -> Iterator[World]:
    """The world after ``command`` was cut off at each of its points by each party's death; and after it was not."""
    at = 0
    while True:
        finished = False
        for party in Party:
            after = copy.deepcopy(world)
            command(after, at, party, **options)
            finished = after.points <= at
            yield after
        if finished:
            return
        at += 1


def distinct(worlds: Iterator[World]) -> list[World]:
    """One of each state."""
    found: dict[tuple[object, ...], World] = {}
    for world in worlds:
        found.setdefault(world.state(), world)
    return list(found.values())


def check_quiet(world: World) -> None:
    """Nothing runs: whatever was cut off, the data is there and no lock stands."""
    source, target = world.source, world.target
    if source.lock or source.lease:
        raise InvariantError("a lock is left behind")
    committed = source.record is not None and source.record.phase in (MOVED, RETIRED)
    copies = [target.published] if target.published >= 0 else [source.writes] if not committed else [target.content]
    if copies[0] < world.acknowledged:
        raise InvariantError("an acknowledged write is lost")


def check_moved(world: World) -> None:
    """The way on has ended well."""
    source, target = world.source, world.target
    assert source.record is not None
    assert (source.record.phase, source.away, source.registered) == (RETIRED, True, False)
    assert target.record is not None
    assert (target.record.phase, target.staging) == (PUBLISHED, False)
    assert target.published >= world.acknowledged


def check_aborted(world: World) -> None:
    """The way back has ended well."""
    source, target = world.source, world.target
    assert (source.record, source.away, source.registered, source.writable) == (None, False, True, True)
    assert (target.record, target.staging, target.published) == (None, False, -1)
    assert source.writes >= world.acknowledged


def end(world: World) -> None:
    """From here both commands, without any crash, must come to a clean end."""
    check_quiet(world)
    aborting = world.source.record is not None and world.source.record.phase == ABORTING
    onward = copy.deepcopy(world)
    ended = run_move(onward, move_id="second")
    if aborting:
        assert ended == "refused"
    else:
        assert ended == "done", ended
        check_moved(onward)
    end_alone(world)
    back = copy.deepcopy(world)
    ended = run_abort(back)
    if back.source.record is not None and back.source.record.phase in (MOVED, RETIRED):
        assert ended == "refused"
        assert run_move(back) == "done"
        check_moved(back)
    elif ended == "no move":
        assert world.given_up or world.target.record is None or world.target.published >= 0
    else:
        assert ended == "done", ended
        check_aborted(back)


def end_alone(world: World) -> None:
    """The new home is given up: the volume is in service at the old one, and can move again, to that very host."""
    alone = copy.deepcopy(world)
    if run_abort_alone(alone) == "done":
        source = alone.source
        assert (source.record, source.away, source.registered, source.writable) == (None, False, True, True)
        assert source.writes >= alone.acknowledged
        assert run_move(alone, move_id="once more") == "done"
        check_moved(alone)


def explore(parts: int = 1) -> tuple[int, int]:
    """All of it, of a tree that leaves in so many parts; how many crashes were tried, each gone on from and back, and how
    many different states they left."""
    tried = 0
    states: dict[tuple[object, ...], World] = {}
    for world in crashed(World(source=SourceDisk(parts=parts)), run_move):
        end(world)
        tried += 1
        states.setdefault(world.state(), world)
    for world in list(states.values()):
        for command in (run_move, run_abort, run_abort_alone):
            for twice in crashed(world, command):
                end(twice)
                tried += 1
                states.setdefault(twice.state(), twice)
    return tried, len(states)


@pytest.mark.parametrize("parts", [1, 3], ids=["a directory", "a mount point"])
def test_every_crash_and_every_pair_of_crashes(capsys: pytest.CaptureFixture[str], parts: int) -> None:
    tried, states = explore(parts)
    with capsys.disabled():
        sys.stdout.write(f" [{tried} crashes of a move tried, each gone on from and back; {states} different states] ")
    assert tried > 3000
    assert states > 20


def test_a_guardian_that_notices_late() -> None:
    """The agent was killed under the lock; its guardian acts at each point of the command that goes on."""
    looked = 0
    for world in distinct(crashed(World(), run_move, late_guardian=True)):
        if not world.source.lease:
            continue
        for command in (run_move, run_abort):
            at = 0
            while True:
                after = copy.deepcopy(world)
                after.guardian_at = at
                command(after)
                finished = after.points <= at
                end(after)
                looked += 1
                at += 1
                if finished:
                    break
    assert looked > 20


def test_without_a_crash() -> None:
    world = World()
    assert run_move(world) == "done"
    check_moved(world)
    assert "after_unlock" not in world.source.hooks


# ------------------------------------------------------------------ the exploration finds it when a cure is taken out


def test_it_notices_a_commit_without_a_look_at_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation.SourceGround, "assert_locked", lambda _self: None)
    monkeypatch.setattr(simulation.SourceGround, "assert_unchanged", lambda _self, _state: None)
    monkeypatch.setattr(simulation.SourceSession, "lock", lambda _self, *, seconds: None)  # noqa: ARG005
    with pytest.raises((InvariantError, AssertionError)):
        explore()


def test_it_notices_a_publish_without_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_early(self: MovingSource, epoch: object, state_id: str) -> object:  # publishes what was never switched
        del epoch, state_id
        return self.status()

    def trusting(self: MovingTarget, proof: object) -> object:
        del proof
        move = self._here()
        self._ground.publish(move)
        return move

    monkeypatch.setattr(MovingSource, "switch", too_early)
    monkeypatch.setattr(MovingTarget, "publish", trusting)
    with pytest.raises((InvariantError, AssertionError)):
        explore()


def test_it_notices_a_switch_that_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MovingSource, "recover", lambda self: self.status())
    with pytest.raises((InvariantError, AssertionError)):
        explore()


def test_it_notices_an_abort_that_begins_at_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_way_round(source: simulation.SourceSession, target: simulation.TargetSession) -> None:
        target.abort()
        source.abort()
        source.forget()

    monkeypatch.setattr(driver, "abort", wrong_way_round)
    with pytest.raises((InvariantError, AssertionError)):
        explore()
