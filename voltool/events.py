"""Progress events and the Reporter protocol. Nothing below cli/ prints; it reports events to whoever called.

Part of what is shipped to servers: an agent sends its events over the wire and the CLI reports them on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Union


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
class Notice:
    """Something a person should know; ``severity`` is ``info``, ``warning`` or ``error``. Names in it are escaped."""

    severity: str
    message: str


Event = Union[PhaseStarted, Progressed, PhaseEnded, Notice]


class Reporter(Protocol):
    """Receives events. Must return quickly and not raise; called from the thread that does the work."""

    def report(self, event: Event) -> None:
        """Take one event."""


class Silent:
    """A Reporter that drops everything."""

    def report(self, event: Event) -> None:
        """Drop the event."""
