"""What a move did, as plain data: collected while it runs, remembered by the catalog, shown by status and report."""

from __future__ import annotations

from dataclasses import dataclass

#: Under way, or its voltool was killed.
RUNNING = "running"
#: The volume is in service at its new home.
DONE = "done"
#: It failed; what the hosts remember of it goes on or is undone by the user's word.
STOPPED = "stopped"
#: It is as if it had never been.
UNDONE = "undone"


@dataclass(frozen=True)
class MoveStep:
    """A step; ``seconds`` is negative while it runs. Of a round: bytes of content sent and entries of the tree."""

    step: str
    started_ns: int
    seconds: float
    ok: bool = True
    bytes: int | None = None
    entries: int | None = None


@dataclass(frozen=True)
class LockWindow:
    """How long the volume was locked; ``seconds`` is negative while it is. ``switched``: it was published before the end."""

    started_ns: int
    seconds: float
    limit: int
    switched: bool = False


@dataclass(frozen=True)
class MoveRecord:
    """One call of `voltool move` that did something. ``ended_ns`` is that of the last news while it is `RUNNING`; ``process``
    says whose it is (`machine.process_mark`). ``why`` and ``remedy`` of one that failed."""

    record_id: str
    volume_uuid: str
    volume: str
    from_host: str
    from_path: bytes
    to_host: str
    to_path: bytes
    started_ns: int
    ended_ns: int
    outcome: str
    steps: tuple[MoveStep, ...] = ()
    locks: tuple[LockWindow, ...] = ()
    epoch: int = 0
    process: str = ""
    why: str = ""
    remedy: str = ""

    @property
    def seconds(self) -> float:
        """How long it took, as far as it is known."""
        return (self.ended_ns - self.started_ns) / 1e9

    @property
    def sent_bytes(self) -> int:
        """Content that was sent."""
        return sum(step.bytes or 0 for step in self.steps)

    @property
    def rounds(self) -> int:
        """How often content was sent."""
        return sum(step.bytes is not None for step in self.steps)

    @property
    def locked_seconds(self) -> float:
        """How long the volume was locked."""
        return sum(max(0.0, lock.seconds) for lock in self.locks)

    @property
    def may_be_nowhere(self) -> bool:
        """Whether the volume may be in service nowhere: its lock began, or its publishing, and neither was undone nor done."""
        if self.outcome not in (RUNNING, STOPPED):
            return False
        if self.locks and self.locks[-1].seconds < 0:
            return True
        begun = {step.step: step for step in self.steps}
        published = begun.get("publish")
        if published is not None:
            return published.seconds < 0 or not published.ok
        return "switch" in begun
