"""When a connection counts as dead: each side says something now and then, and looks whether the other one does. No I/O.

A network that is cut tells nobody: without this an agent would hold its locks until TCP gives up, which takes hours. Part of
what is shipped to servers.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds between two beats, at the most.
_MOST = 15.0
#: More than this waits to be read (bytes): the other side may be held back, so its silence says nothing.
HELD_BACK = 4096


@dataclass
class Pulse:
    """One side's ear. ``silence``: so many seconds without a byte mean that the other side is gone."""

    silence: float
    _heard: float = -1.0
    _looked: float = 0.0
    _arrived: int = -1

    @property
    def interval(self) -> float:
        """Seconds from one beat to the next; `is_over` is asked as often."""
        return min(_MOST, self.silence / 4)

    def is_over(self, now: float, arrived: int, unread: int) -> bool:
        """Whether the silence has lasted too long. ``arrived``: the bytes that came so far, of which ``unread`` were not read
        yet; ``now``: seconds of a clock that is never set."""
        # Somebody who was asleep himself (a stopped process, a paused machine) has not listened.
        asleep = now - self._looked > self.interval + self.silence / 2
        if arrived != self._arrived or unread > HELD_BACK or asleep or self._heard < 0:
            self._heard = now
        self._looked, self._arrived = now, arrived
        return now - self._heard >= self.silence
