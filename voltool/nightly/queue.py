"""Whose turn is next: volumes in order, at most so many at once and so many on one host. Knows nothing of dumps."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from voltool.nightly.plan import Turn


class TurnQueue:
    """Turns for several threads that take and give back. ``per_host``: how many at once on one host."""

    def __init__(self, turns: Iterable[Turn], per_host: int) -> None:
        self._waiting = list(turns)
        self._per_host = per_host
        self._busy: Counter[str] = Counter()
        self._changed = threading.Condition()

    def take(self) -> Turn | None:
        """The first turn whose host has room; waits until one has. None: there is none any more."""
        with self._changed:
            while self._waiting:
                turn = next((turn for turn in self._waiting if self._busy[turn.volume.host] < self._per_host), None)
                if turn is not None:
                    self._waiting.remove(turn)
                    self._busy[turn.volume.host] += 1
                    return turn
                self._changed.wait()
            return None

    def give_back(self, turn: Turn) -> None:
        """The turn is over."""
        with self._changed:
            self._busy[turn.volume.host] -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """No turn begins any more."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()
