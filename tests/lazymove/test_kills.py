"""kill -9 of the old home's agent, of the new home's, and of the command line, in the midst of a lazy move, before each thing
that they say, write down or mount: then --resume, or --abort, brings it to a right end. While that happens there is at most one
home, nobody reads a wrong byte, and what was acknowledged is there in the end.

The process at the new home, the fold and the end are killed in test_ending.py, test_folding.py and test_move_lazy.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browse.mounting import needs_fuse
from tests.jobs.test_move_faults import dying_before
from tests.judge import compare
from tests.lazymove.dying import SOURCE, VICTIMS, Dying, dying_ground
from tests.writer import wait_until
from voltool.agent.moving.source_ground import HostSource
from voltool.model import PUBLISHED, RETIRED
from voltool.volumes.lock.hold import in_container

pytestmark = [needs_fuse, pytest.mark.skipif(in_container(), reason="nothing is locked in a container")]
#: Before which call of its agents, or of the command line, each is killed, and whether the move is resumed then (else it is
#: undone, where it can be): in the first manifest, with the process at the new home up and no record of that, under the lock,
#: between two records of publishing. With VOLTOOL_KILL_EVERY=N before every N-th (1: all take some minutes).
POINTS = {
    "a": {20: False, 45: True, 55: True},
    "b": {28: True, 34: True},
    "command": {12: False, 24: True},
}
EVERY = int(os.environ.get("VOLTOOL_KILL_EVERY", "0"))


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[Dying]:
    with dying_ground(tmp_path) as made:
        yield made


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_anywhere(dying: Dying, victim: str) -> None:
    points = {at: at // EVERY % 2 == 0 for at in range(0, 1000, EVERY)} if EVERY else POINTS[victim]
    done = 0
    with dying.reader():
        for number, resumed in points.items():
            if not killed(dying, victim, number):
                break
            if resumed or dying.is_committed():
                assert_resumed(dying)
                dying.fresh()
            else:
                assert_aborted(dying)
            done += 1
    assert done >= len(POINTS[victim])


def killed(dying: Dying, victim: str, number: int) -> bool:
    """Whether there was such a call in a move; then its caller is dead."""
    dying.write()
    dying.countdowns[victim].set(number)
    done = dying.move()
    was_there = dying.countdowns[victim].made > number
    dying.countdowns[victim].set(-1)
    assert done or was_there, dying.said
    if was_there:
        dying.await_quiet()
        dying.assert_at_most_one_home()
    return was_there


def assert_resumed(dying: Dying) -> None:
    again = dying.resume if dying.source_move() is not None else dying.move
    assert dying.is_moved or again(), dying.said
    dying.assert_at_most_one_home()
    source, target = dying.source_move(), dying.target_move()
    assert (source is not None and source.phase, target is not None and target.phase) == (RETIRED, PUBLISHED)
    assert not dying.is_writable(dying.volume)
    wait_until(lambda: dying.is_writable(dying.target))  # where all has come by now, the end locks for a moment
    dying.assert_right(dying.target)


def assert_aborted(dying: Dying) -> None:
    if dying.source_move() is not None:
        assert dying.abort(), dying.said
    assert dying.is_writable(dying.volume)
    dying.assert_right(dying.volume)
    assert (dying.source_move(), dying.target_move()) == (None, None)
    assert not dying.target.exists()
    wait_until(lambda: not dying.daemons())
    assert dying.mounts() == []


def test_what_has_come_before_a_switch_that_failed_is_not_mixed_with_what_is_there_when_it_succeeds(
    dying: Dying,
) -> None:
    dying.background = 0

    def inject() -> None:
        dying.be_agent(SOURCE)
        dying_before(HostSource, "take_away")()

    dying.hosts.inject[SOURCE] = inject
    assert not dying.move()
    dying.await_quiet()
    wait_until(dying.has_all)
    (dying.volume / "sub/f0").unlink()
    (dying.volume / "sub/f1").write_bytes(b"other")
    (dying.volume / "sub/f2").rename(dying.volume / "f2")
    (dying.volume / "sub/f3").unlink()
    (dying.volume / "sub/f3").mkdir()
    shutil.copytree(dying.volume, dying.here / "copy", copy_function=os.link)
    dying.hosts.inject[SOURCE] = lambda: dying.be_agent(SOURCE)
    assert dying.resume(), dying.said
    assert (dying.target / "sub/f1").read_bytes() == b"other"
    wait_until(lambda: not dying.daemons())
    assert compare(dying.here / "copy", dying.target, ignore=("mtime", "rsync", "links")) == []
