"""How long the last lock will be, from what the last round took; and whether another round would make it shorter. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: A round that is not shorter than this part of the one before it has stopped shrinking.
SHRINKING = 0.75
#: What the switch costs beside the data, whatever its size: commands to and fro, syncs, renames (seconds).
FIXED = 0.3
#: Looking at every entry once more under the lock, and putting directories together at the new home (seconds an entry).
PER_ENTRY = 12e-6
#: The lease test of a file (seconds).
LEASE_TEST = 4e-6
#: What is read, hashed, sent and written again in a second, at the least (bytes).
READING = 50e6


@dataclass(frozen=True)
class RoundResult:
    """A round: seconds it took, bytes of files it sent, entries of the tree. ``unchanged``: it brought nothing at all, since the
    tree was as the round before had left it."""

    seconds: float
    bytes: int
    entries: int
    unchanged: bool = False


def predicted_downtime(last: RoundResult) -> float:
    """Seconds of the lock if it came now: the last increment takes what the last round took at the most, and the switch."""
    return last.seconds + FIXED + last.entries * (PER_ENTRY + LEASE_TEST)


def planned_downtime(*, entries: int, rescan: float, leases: float, changing: int) -> float:
    """Seconds of the lock before anything was sent: the last scan and the comparison after the exchange (``rescan`` seconds
    each), the lease test of all files (``leases`` seconds), and ``changing`` bytes to be read and sent again."""
    return FIXED + 2 * rescan + leases + entries * PER_ENTRY + changing / READING


def why_stop(rounds: list[RoundResult], *, downtime: float, most: int) -> str:
    """Why no further round comes before the lock; empty: one does. The first round is the copy of everything."""
    if len(rounds) < 2 and not rounds[-1].unchanged:  # the first round took as long as everything does
        return "" if most > 1 else "--max-rounds is reached"
    if predicted_downtime(rounds[-1]) <= downtime:
        return "the predicted downtime is short enough"
    if rounds[-1].unchanged:
        return "nothing has changed meanwhile"
    if len(rounds) >= most:
        return "--max-rounds is reached"
    if rounds[-1].seconds > rounds[-2].seconds * SHRINKING:
        return "the rounds do not get shorter any more"
    return ""


def lock_limit(predicted: float, wish: int | None) -> int:
    """``--max-lock`` in seconds: as wished, else 60 s or three times the prediction, the larger."""
    return wish if wish is not None else max(60, round(3 * predicted))
