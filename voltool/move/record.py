"""Remembers a move in the catalog: its steps, its locks, how it ended. Listens to the move's own events and changes nothing.

Written when its first step begins, before its lock (so that a voltool that is killed from there on leaves word that the volume
may be in service nowhere) and when it ends; never under the lock, whose length is the volume's downtime. A call that came to
no step leaves no record, so that it hides none. A catalog that cannot be written to never ends a move.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from voltool.errors import InterruptedByUser, Interruption, VoltoolError
from voltool.events import Event, Locked, Notice, Reporter, StepEnded, StepStarted, Unlocked
from voltool.machine import process_mark
from voltool.model import KnownVolume, Peer
from voltool.move.ports import Hosts, Volumes, World
from voltool.policy.moves import DONE, RUNNING, STOPPED, UNDONE, LockWindow, MoveRecord, MoveStep

#: Of a step or a lock that has not ended.
_OPEN = -1.0


class MoveUndoneError(InterruptedByUser):
    """The user interrupted a move, and it is as if it had never been."""


@dataclass
class Recorder:
    """A Reporter in front of another; what it hears becomes part of ``record``."""

    reporter: Reporter
    record: MoveRecord
    write: Callable[[MoveRecord], None]
    _steps: list[MoveStep] = field(default_factory=list)
    _locks: list[LockWindow] = field(default_factory=list)

    def report(self, event: Event) -> None:
        """Note the event and pass it on."""
        now = time.time_ns()
        if isinstance(event, StepStarted):
            self._steps.append(MoveStep(event.step, now, _OPEN))
            if len(self._steps) == 1:
                self.write(self.so_far(RUNNING))
        elif isinstance(event, StepEnded) and self._steps and self._steps[-1].step == event.step:
            begun = self._steps[-1].started_ns
            self._steps[-1] = MoveStep(event.step, begun, event.seconds, event.ok, event.bytes, event.entries)
        elif isinstance(event, Locked):
            self._locks.append(LockWindow(now, _OPEN, event.limit))
            self.write(self.so_far(RUNNING))
        elif isinstance(event, Unlocked) and self._locks:
            self._locks[-1] = replace(self._locks[-1], seconds=event.seconds, switched=event.switched)
        self.reporter.report(event)

    def failed(self, outcome: str, error: VoltoolError) -> None:
        """The move has ended so."""
        if self._steps:
            why = f"{error.what}: {error.why}" if error.why else error.what
            self.write(replace(self.so_far(outcome), why=why, remedy=error.remedy))

    def so_far(self, outcome: str) -> MoveRecord:
        """The record as it is now."""
        return replace(
            self.record,
            ended_ns=time.time_ns(),
            outcome=outcome,
            steps=tuple(self._steps),
            locks=tuple(self._locks),
        )


@dataclass(frozen=True)
class _Listening:
    """A world with another reporter."""

    hosts: Hosts
    catalog: Volumes
    reporter: Reporter
    caller: str


@contextmanager
def recorded(world: World, volume: KnownVolume, target: Peer) -> Iterator[World]:
    """The world to move in, so that the move is remembered."""
    record = _record(volume, target, RUNNING)

    def write(record: MoveRecord) -> None:
        _write(world, record)

    recorder = Recorder(world.reporter, record, write)
    try:
        yield _Listening(world.hosts, world.catalog, recorder, world.caller)
    except Interruption as interruption:
        outcome = UNDONE if isinstance(interruption.error, MoveUndoneError) else STOPPED
        recorder.failed(outcome, interruption.error)
        raise
    except VoltoolError as error:
        recorder.failed(STOPPED, error)
        raise
    write(replace(recorder.so_far(DONE), process=""))


def record_abort(world: World, volume: KnownVolume, target: Peer) -> None:
    """Remember that the volume's move was undone."""
    _write(world, _record(volume, target, UNDONE))


def _record(volume: KnownVolume, target: Peer, outcome: str) -> MoveRecord:
    now = time.time_ns()
    return MoveRecord(
        record_id=uuid.uuid4().hex,
        volume_uuid=volume.uuid,
        volume=volume.name,
        from_host=volume.host,
        from_path=volume.path,
        to_host=target.host,
        to_path=target.path,
        started_ns=now,
        ended_ns=now,
        outcome=outcome,
        process=process_mark(os.getpid()),
    )


def _write(world: World, record: MoveRecord) -> None:
    try:
        world.catalog.put_move(record)
    except VoltoolError as error:
        world.reporter.report(Notice("warning", f"the catalog does not remember this move: {error.what}"))
