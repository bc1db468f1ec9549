"""What the catalog remembers of a move, wherever it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catalog.samples import make_volume
from voltool.backup.ports import World
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import InterruptedByUser, Interruption, UnreachableError
from voltool.events import Event, Locked, Reporter, StepEnded, StepStarted, Unlocked
from voltool.machine import is_alive
from voltool.model import Peer
from voltool.move.record import MoveUndoneError, record_abort, recorded
from voltool.policy.moves import DONE, RUNNING, STOPPED, UNDONE, MoveRecord

VOLUME = make_volume("vol1", path=b"/srv/\xff")
TARGET = Peer("hostB", "", "", b"/srv/new")
COPY = (StepStarted("vol1", "copy"), StepEnded("vol1", "copy", 2.0, bytes=700, entries=5))
UP_TO_SWITCH = (*COPY, Locked("vol1", 30), StepStarted("vol1", "lock"), StepEnded("vol1", "lock", 0.1))
SWITCHED = (
    *UP_TO_SWITCH,
    StepStarted("vol1", "switch"),
    StepEnded("vol1", "switch", 0.1),
    StepStarted("vol1", "publish"),
)
ALL = (*SWITCHED, StepEnded("vol1", "publish", 0.2), Unlocked("vol1", 0.7, switched=True))


class Listener:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    catalog = SqliteCatalog(str(tmp_path / "catalog.sqlite"))
    yield World(None, None, catalog, Listener(), "test")  # type: ignore[arg-type]
    catalog.close()


def play(world: World, events: tuple[Event, ...], end: BaseException | None = None) -> MoveRecord | None:
    """A move that reports ``events`` and ends with ``end``; what is remembered of it."""
    try:
        with recorded(world, VOLUME, TARGET) as listening:
            tell(listening.reporter, events)
            if end is not None:
                raise end  # noqa: TRY301 - it is what the move ends with
    except BaseException as error:
        if error is not end:
            raise
    moves = world.catalog.last_moves()
    return moves[0] if moves else None


def tell(reporter: Reporter, events: tuple[Event, ...]) -> None:
    for event in events:
        reporter.report(event)


def test_a_move_that_was_done(world: World) -> None:
    record = play(world, ALL)
    assert record is not None
    assert (record.outcome, record.sent_bytes, record.rounds, record.locked_seconds) == (DONE, 700, 1, 0.7)
    assert [step.step for step in record.steps] == ["copy", "lock", "switch", "publish"]
    assert (record.from_path, record.to_host) == (b"/srv/\xff", "hostB")
    assert not record.may_be_nowhere
    assert world.reporter.events == list(ALL)  # type: ignore[attr-defined]


class Killed(BaseException):
    """As kill -9: nothing is written any more."""


@pytest.mark.parametrize(
    ("events", "nowhere"), [(COPY[:1], False), (COPY, False), (UP_TO_SWITCH, True), (SWITCHED, True)]
)
def test_a_voltool_that_was_killed(world: World, events: tuple[Event, ...], nowhere: bool) -> None:
    record = play(world, events, Killed())
    assert record is not None
    assert (record.outcome, record.may_be_nowhere) == (RUNNING, nowhere)
    assert is_alive(record.process)
    assert record.process.split(":")[1] == str(os.getpid())


@pytest.mark.parametrize(
    ("events", "end", "outcome", "nowhere"),
    [
        (COPY, UnreachableError("gone", remedy="again"), STOPPED, False),
        (SWITCHED, UnreachableError("gone"), STOPPED, True),
        (
            (*UP_TO_SWITCH, Unlocked("vol1", 0.5, switched=False)),
            UnreachableError("gone"),
            STOPPED,
            False,
        ),
        (COPY, Interruption(MoveUndoneError("interrupted")), UNDONE, False),
        (COPY, Interruption(InterruptedByUser("interrupted")), STOPPED, False),
    ],
)
def test_one_that_failed(
    world: World, events: tuple[Event, ...], end: BaseException, outcome: str, nowhere: bool
) -> None:
    record = play(world, events, end)
    assert record is not None
    assert (record.outcome, record.may_be_nowhere) == (outcome, nowhere)
    assert record.why


def test_a_call_that_came_to_nothing_hides_nothing(world: World) -> None:
    stopped = play(world, SWITCHED, UnreachableError("gone"))
    assert play(world, (), UnreachableError("still gone")) == stopped
    resumed = play(world, (StepStarted("vol1", "publish"), StepEnded("vol1", "publish", 1.0)))
    assert resumed is not None
    assert resumed.outcome == DONE


def test_an_abort_ends_it(world: World) -> None:
    play(world, UP_TO_SWITCH, Killed())
    record_abort(world, VOLUME, TARGET)
    (record,) = world.catalog.last_moves()
    assert record.outcome == UNDONE
    assert len(world.catalog.moves()) == 2


def test_publishing_again_that_fails(world: World) -> None:
    record = play(world, (StepStarted("vol1", "publish"),), Killed())
    assert record is not None
    assert record.may_be_nowhere
