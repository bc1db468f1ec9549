"""What runs, on a terminal: a bar for each phase of a dump or restore; of a move the list of its steps, done and to come.

Turns events into rows of a `Screen`. Done steps are printed for good, above the rows.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import IO

from voltool.cli import display
from voltool.cli.screen import Row, Screen
from voltool.events import (
    Locked,
    Phase,
    PhaseEnded,
    PhaseStarted,
    Progressed,
    Step,
    StepEnded,
    StepStarted,
    Unlocked,
)

_WIDTH = 14
_RESTORE = "restore"


class Bars:
    """``write`` prints a line for good."""

    def __init__(self, stream: IO[str], write: Callable[[str], None]) -> None:
        self._screen = Screen(stream)
        self._phases: dict[tuple[str, str], Row] = {}
        self._steps: StepList | None = None
        self._write = write
        self._signs = _signs(stream)

    def take(self, event: Phase | Step) -> None:
        """Show an event."""
        if isinstance(event, StepStarted | StepEnded | Locked | Unlocked):
            if self._steps is None:
                self._steps = StepList(self._write, self._signs)
            self._steps.take(event)
            # Between two steps the list stays as it is, so that it does not flicker.
            self._screen.show(self._steps.rows(), at_once=isinstance(event, StepStarted))
        elif self._steps is not None:
            if self._steps.take_phase(event):
                self._screen.show(self._steps.rows())
        else:
            self._take_phase(event)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """While something else is written."""
        return self._screen.aside()

    def close(self) -> None:
        """Take all bars off the terminal; idempotent."""
        self._screen.close()

    def _take_phase(self, event: Phase) -> None:
        phase = (event.subject, event.phase)
        row = self._phases.get(phase)
        if isinstance(event, PhaseEnded):
            self._phases.pop(phase, None)
        elif isinstance(event, PhaseStarted) or row is None:
            self._phases[phase] = _meter(lambda: f"{phase[0]}: {phase[1]}", event)
        else:
            row.bytes, row.files = event.bytes, event.files
            return
        self._screen.show(list(self._phases.values()))


class StepList:
    """The steps of one move: the one that runs, those to come, and how long the lock has lasted."""

    def __init__(self, write: Callable[[str], None], signs: tuple[str, str, str]) -> None:
        self._write = write
        self._done, self._failed, self._runs = signs
        self._subject = ""
        self._running: StepStarted | None = None
        self._to_come: tuple[str, ...] = ()
        self._began = 0.0
        self._row: Row | None = None
        self._phase = ""
        self._lock: tuple[float, int] | None = None

    def take(self, event: Step) -> None:
        """A step begins or ends, or the lock does."""
        if isinstance(event, StepStarted):
            self._begin(event)
        elif isinstance(event, StepEnded):
            self._end(event)
        elif isinstance(event, Locked):
            self._lock = (time.monotonic(), event.limit)
        else:
            self._lock = None
            how = "the volume was locked for" if event.switched else "the lock was undone after"
            self._write(f"{'':<4}{how} {display.duration(event.seconds)}")

    def take_phase(self, event: Phase) -> bool:
        """What a host tells of the step that runs; whether the rows are others now."""
        if self._running is None or not self._concerns(event):
            return False
        if isinstance(event, PhaseEnded):
            self._row = None
            return True
        if self._row is not None and not isinstance(event, PhaseStarted) and self._phase == event.phase:
            self._row.bytes, self._row.files = event.bytes, event.files
            return False
        self._phase = event.phase
        name = self._name_of(self._running)
        self._row = self._scan(name, event) if event.phase == "scan" else _meter(lambda: name, event)
        return True

    def rows(self) -> list[Row]:
        """What is to be seen now."""
        rows = []
        if self._running is not None:
            name, began = self._name_of(self._running), self._began
            rows.append(self._row or Row(lambda: f"{name}  {_since(began)}"))
        if self._lock is not None:
            since, limit = self._lock[0], display.duration(self._lock[1])
            rows.append(Row(lambda: f"{'':<4}locked for {_since(since)}, at the most {limit}"))
        return rows + [Row(_always(f"{'':<4}{step}")) for step in self._to_come]

    def _concerns(self, event: Phase) -> bool:
        """While the old home reads, what the new home has taken of it is no news."""
        return event.phase != _RESTORE or self._row is None or self._phase == _RESTORE

    def _begin(self, event: StepStarted) -> None:
        if not self._subject:
            self._subject = event.subject
            self._write(f"{event.subject}: move")
        self._running, self._to_come = event, event.to_come
        self._began = time.monotonic()
        self._row, self._phase = None, ""

    def _end(self, event: StepEnded) -> None:
        self._running = self._row = None
        self._to_come = ()
        text = f"  {self._done if event.ok else self._failed} {event.step:<{_WIDTH}}  "
        if event.bytes is not None:
            text += f"{display.amount(event.bytes)} in "
        text += display.duration(event.seconds)
        if event.predicted_downtime is not None:
            text += f"; a lock would take {display.duration(event.predicted_downtime)} now"
        if not event.ok:
            text = f"{text}, given up"
        self._write(text)
        if event.why_stop:
            self._write(f"{'':<{_WIDTH + 6}}no further round: {event.why_stop}")

    def _scan(self, name: str, event: PhaseStarted | Progressed) -> Row:
        began = self._began
        row = Row(lambda: f"{name}  {row.files:,} entries looked at, {_since(began)}")
        if isinstance(event, Progressed):
            row.files = event.files
        return row

    def _name_of(self, running: StepStarted) -> str:
        return f"  {self._runs} {running.step:<{_WIDTH}}"


def _since(began: float) -> str:
    return display.duration(time.monotonic() - began)


def _always(text: str) -> Callable[[], str]:
    return lambda: text


def _meter(text: Callable[[], str], event: PhaseStarted | Progressed) -> Row:
    if isinstance(event, PhaseStarted):
        return Row(text, meter=True, total=event.total_bytes, total_files=event.total_files)
    return Row(text, meter=True, bytes=event.bytes, files=event.files)


def _signs(stream: IO[str]) -> tuple[str, str, str]:
    """Of what is done, what failed and what runs."""
    signs = ("\N{CHECK MARK}", "\N{BALLOT X}", "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}")
    try:
        "".join(signs).encode(getattr(stream, "encoding", None) or "ascii")
    except UnicodeError:
        return ("+", "x", ">")
    return signs
