"""What a run needs beside the dump job, as narrow protocols: the CLI passes the real ones in."""

from __future__ import annotations

from typing import Protocol

from voltool.model import KnownVolume, StoredDump
from voltool.policy.runs import RunReport, UpkeepOutcome


class Upkeep(Protocol):
    """What is done for a volume after its dump: synthetic full, suspicion, retention."""

    def __call__(self, volume: KnownVolume, now_ns: int) -> UpkeepOutcome:
        """Never raises for what is wrong with the volume: that is in ``faults``. Idempotent."""


class Announcer(Protocol):
    """Who is told of a run: programs, health checks, metrics, syslog."""

    def started(self, run_id: str) -> None:
        """A run begins. Never raises."""

    def ended(self, report: RunReport) -> tuple[str, ...]:
        """A run has ended. Never raises; what could not be told, in words."""


class Learner(Protocol):
    """Who wants to know each new dump, such as the index of names."""

    def __call__(self, dump: StoredDump) -> None:
        """Raises VoltoolError; the dump is safe all the same."""
