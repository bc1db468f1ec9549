"""What a run needs beside the dump job, as narrow protocols: the CLI passes the real ones in.

`no_upkeep`, `no_learner` and `NoAnnouncer` do nothing, for who has none.
"""

from __future__ import annotations

from typing import Protocol

from voltool.model import KnownVolume, StoredDump
from voltool.policy.runs import RunReport, UpkeepOutcome


class Upkeep(Protocol):
    """What is done for a volume after its dump: synthetic full, suspicion, retention."""

    def __call__(self, volume: KnownVolume, now_ns: int, /) -> UpkeepOutcome:
        """Never raises for what is wrong with the volume: that is in ``faults``. Idempotent.

        Called in the main thread, one volume after the other, while other volumes are dumped in threads of their own.
        """


class Announcer(Protocol):
    """Who is told of a run: programs, health checks, metrics, syslog."""

    def started(self, run_id: str) -> None:
        """A run begins. Never raises."""

    def ended(self, report: RunReport) -> tuple[str, ...]:
        """A run has ended. Never raises; what could not be told, in words."""


class Learner(Protocol):
    """Who wants to know each new dump, such as the index of names."""

    def __call__(self, dump: StoredDump, /) -> None:
        """Raises VoltoolError; the dump is safe all the same. Called in the main thread."""


def no_upkeep(_volume: KnownVolume, _now_ns: int) -> UpkeepOutcome:
    """An `Upkeep` that does nothing."""
    return UpkeepOutcome()


def no_learner(_dump: StoredDump) -> None:
    """A `Learner` that learns nothing."""


class NoAnnouncer:
    """An `Announcer` that tells nobody."""

    def started(self, run_id: str) -> None:
        """Tell nobody."""

    def ended(self, report: RunReport) -> tuple[str, ...]:  # noqa: ARG002 - a protocol's argument
        """Tell nobody."""
        return ()
