"""A replica is brought up to date: dump what it does not have, swap, let the home keep the base; in rounds, until it is level.

Knows the two hosts by `ports.ReplicaSourceHome` and `ports.ReplicaHome` alone: the test that crashes everywhere runs this very
code. Going on needs nothing but what the two hosts have: the replica holds a state, the home sends the difference to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from voltool.errors import MovedError
from voltool.events import Notice, Reporter
from voltool.model import FileProblem
from voltool.replica.ports import Brought, ReplicaHome, ReplicaSourceHome
from voltool.showing import shown

#: A round shorter than this (seconds) leaves nothing that a further one would make shorter.
_LEVEL_SECONDS = 2.0
_MOST_ROUNDS = 10


@dataclass
class Synced:
    """What a sync came to: rounds, bytes of file content that were sent, the last round's `Brought`, what could not be read in
    it. ``first``: it was the replica's first copy."""

    first: bool
    rounds: int = 0
    bytes: int = 0
    brought: Brought | None = None
    problems: tuple[FileProblem, ...] = field(default=())


def sync(
    source: ReplicaSourceHome,
    replica: ReplicaHome,
    reporter: Reporter,
    *,
    until_level: bool = False,
    before_swap: Callable[[Brought], None] = lambda _brought: None,
) -> Synced:
    """Bring the replica up to what the volume is now, from wherever an earlier run was cut off; also its first copy.

    ``until_level``: in rounds, as long as each is shorter than the one before. ``before_swap`` may raise to stop: what came stays
    and is gone on from. Raises VoltoolError: then the replica serves what it served.
    """
    _refuse_older_home(source, replica)
    done = Synced(first=not replica.record.state_id)
    if not done.first and replica.held and replica.held == replica.record.state_id:
        source.keep(replica.held)  # a run that was cut off had not said so
    last = float("inf")
    while True:
        brought = source.dump(replica.held, replica.manifest, replica)
        before_swap(brought)
        replica.swap(brought)
        source.keep(brought.state_id)
        done.rounds += 1
        done.bytes += brought.bytes
        done.brought, done.problems = brought, brought.problems
        level = brought.seconds < _LEVEL_SECONDS or brought.seconds > 0.8 * last or done.rounds >= _MOST_ROUNDS
        if level or not until_level:
            return done
        last = brought.seconds
        reporter.report(
            Notice("info", f"{source.volume.name}: the replica is {brought.seconds:.0f} s behind; once more")
        )


def fill(source: ReplicaSourceHome, replica: ReplicaHome, reporter: Reporter) -> Synced:
    """A first copy, or what is left of it, then rounds until the replica is level. Raises VoltoolError."""
    return sync(source, replica, reporter, until_level=True)


def remove(source: ReplicaSourceHome | None, replica: ReplicaHome | None, *, purge: bool) -> None:
    """There is no such replica any more: first at its host, then at the home. One that cannot be reached is None. Can be
    repeated."""
    if replica is not None:
        replica.remove(purge=purge)
    if source is not None:
        source.forget()


def _refuse_older_home(source: ReplicaSourceHome, replica: ReplicaHome) -> None:
    """MovedError: a home that was replaced may have been written to since; nothing of that may get into a replica."""
    known, epoch = replica.record.epoch, source.volume.epoch
    if known is None or (known.number, known.token) == (epoch.number, epoch.token):
        return
    if known.number >= epoch.number:
        raise MovedError(
            "the replica has seen another home of the volume",
            where=shown(replica.record.path),
            why=f"it has a state of epoch {known.number}, and what is asked has epoch {epoch.number}",
            remedy=f"voltool where {source.volume.name}; voltool doctor",
        )
