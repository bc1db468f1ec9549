"""Progress events and the Reporter protocol. Nothing below cli/ prints; it reports events to whoever called.

Part of what is shipped to servers: an agent sends its events over the wire and the CLI reports them on.
"""

from __future__ import annotations

from typing import Optional, Protocol, Tuple, Union

from voltool.frozen import dataclass


@dataclass(frozen=True)
class PhaseStarted:
    """A phase (``scan``, ``dump``, ``restore``, ``verify``) of ``subject`` begins; totals are 0 where not known yet."""

    subject: str
    phase: str
    total_bytes: int = 0
    total_files: int = 0


@dataclass(frozen=True)
class Progressed:
    """How far the phase is, in absolute numbers (not increments)."""

    subject: str
    phase: str
    bytes: int = 0
    files: int = 0


@dataclass(frozen=True)
class PhaseEnded:
    """The phase is complete."""

    subject: str
    phase: str


@dataclass(frozen=True)
class StepStarted:
    """A step of a move of ``subject`` begins (its phases are reported within it); ``to_come`` are those that follow, as far
    as that is known."""

    subject: str
    step: str
    to_come: Tuple[str, ...] = ()


@dataclass(frozen=True)
class StepEnded:
    """The step is done, or (not ``ok``) given up. Of a round: bytes of file content that were sent and entries of the tree; of
    one before the lock also how long a lock would be now (seconds), and why no further round follows (empty: one does)."""

    subject: str
    step: str
    seconds: float
    ok: bool = True
    bytes: Optional[int] = None
    entries: Optional[int] = None
    predicted_downtime: Optional[float] = None
    why_stop: str = ""


@dataclass(frozen=True)
class Locked:
    """From here on the volume is being locked, with its hook; undone after ``limit`` seconds at the latest."""

    subject: str
    limit: int


@dataclass(frozen=True)
class Unlocked:
    """The lock is over after ``seconds``, hooks included: the volume is in service at its new home (``switched``), or the lock
    was undone."""

    subject: str
    seconds: float
    switched: bool


@dataclass(frozen=True)
class Notice:
    """Something a person should know; ``severity`` is ``info``, ``warning`` or ``error``. Names in it are escaped."""

    severity: str
    message: str


Phase = Union[PhaseStarted, Progressed, PhaseEnded]
Step = Union[StepStarted, StepEnded, Locked, Unlocked]
Event = Union[Phase, Step, Notice]


class Reporter(Protocol):
    """Receives events. Must return quickly and not raise; called from the thread that does the work."""

    def report(self, event: Event) -> None:
        """Take one event."""


class Silent:
    """A Reporter that drops everything."""

    def report(self, event: Event) -> None:
        """Drop the event."""
