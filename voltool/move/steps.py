"""Tells of the steps of a move: what runs, what is to come, how long each took, how long the lock lasted. Moves nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from voltool.events import Locked, Reporter, StepEnded, StepStarted, Unlocked
from voltool.move.ports import Sent

COPY = "copy"
LOCK = "lock"
LAST_INCREMENT = "last increment"
PREPARE = "prepare"
SWITCH = "switch"
PUBLISH = "publish"
SETTLE = "settle"
#: What follows the rounds, in this order.
FROM_THE_LOCK_ON = (LOCK, LAST_INCREMENT, PREPARE, SWITCH, PUBLISH, SETTLE)


class Steps:
    """The steps of the move of ``subject``, told to ``reporter``."""

    def __init__(self, reporter: Reporter, subject: str) -> None:
        self._reporter = reporter
        self._subject = subject
        self._catch_ups = 0

    def next_round(self, *, first: bool, more: bool) -> tuple[str, tuple[str, ...]]:
        """The name of the next round, and what is to come after it. ``first``: nothing has arrived yet; ``more``: further
        rounds may follow."""
        follows = (("catch up",) if more else ()) + FROM_THE_LOCK_ON
        if first:
            return COPY, follows
        self._catch_ups += 1
        return f"catch up {self._catch_ups}", FROM_THE_LOCK_ON

    def after(self, step: str) -> tuple[str, ...]:
        """What follows one of `FROM_THE_LOCK_ON`."""
        return FROM_THE_LOCK_ON[FROM_THE_LOCK_ON.index(step) + 1 :]

    @contextlib.contextmanager
    def step(self, step: str) -> Iterator[None]:
        """One of `FROM_THE_LOCK_ON` that sends nothing."""
        with self._given_up_unless_done(step, self.after(step)) as began:
            yield
        self._reporter.report(StepEnded(self._subject, step, time.monotonic() - began))

    @contextlib.contextmanager
    def round(self, step: str, to_come: tuple[str, ...]) -> Iterator[None]:
        """A step that sends a dump; `sent` says what it came to."""
        with self._given_up_unless_done(step, to_come):
            yield

    def sent(self, step: str, sent: Sent, *, predicted: float | None = None, why_stop: str = "") -> None:
        """The round ``step`` is done."""
        self._reporter.report(
            StepEnded(
                self._subject,
                step,
                sent.seconds,
                bytes=sent.bytes,
                entries=sent.entries,
                predicted_downtime=predicted,
                why_stop=why_stop,
            )
        )

    @contextlib.contextmanager
    def locked(self, limit: int) -> Iterator[None]:
        """From the first hook of the lock to the volume's being in service, here again or at its new home."""
        began = time.monotonic()
        self._reporter.report(Locked(self._subject, limit))
        switched = False
        try:
            yield
            switched = True
        finally:
            self._reporter.report(Unlocked(self._subject, time.monotonic() - began, switched))

    @contextlib.contextmanager
    def _given_up_unless_done(self, step: str, to_come: tuple[str, ...]) -> Iterator[float]:
        began = time.monotonic()
        self._reporter.report(StepStarted(self._subject, step, to_come))
        try:
            yield began
        except BaseException:
            self._reporter.report(StepEnded(self._subject, step, time.monotonic() - began, ok=False))
            raise
