"""Which of the hosts that take themselves for a volume's home is it, and who has to hear of it. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from voltool.model import Epoch
from voltool.wire.replicas import AWAY, BETWEEN, HOME, LEAVING, NOTHING, Standing


@dataclass(frozen=True)
class Claim:
    """What ``host`` (as the user calls it) said of itself; ``machine_id`` and ``hostname`` are its own."""

    host: str
    machine_id: str
    hostname: str
    standing: Standing


@dataclass(frozen=True)
class Verdict:
    """``winner``: the home of the highest epoch, None where nobody is home or several are. ``losers``: homes with lower
    ones, and those that are not done with stepping down.
    ``split``: homes that have the highest number with different tokens."""

    winner: Claim | None
    losers: tuple[Claim, ...] = ()
    split: tuple[Claim, ...] = ()


def judge(claims: Iterable[Claim]) -> Verdict:
    """The higher number wins; the same number with other tokens is a split, and nobody wins."""
    claims = list(claims)
    homes = [claim for claim in claims if claim.standing.standing == HOME and claim.standing.epoch is not None]
    ranked = sorted(homes, key=lambda claim: _epoch(claim).number, reverse=True)
    if not ranked:
        return Verdict(None)
    highest = _epoch(ranked[0]).number
    first = {_epoch(claim).token: claim for claim in ranked if _epoch(claim).number == highest}
    losers = tuple(claim for claim in ranked if _epoch(claim).number < highest)
    losers += tuple(claim for claim in claims if claim.standing.standing == LEAVING)
    if len(first) > 1:
        return Verdict(None, losers, tuple(first.values()))
    return Verdict(ranked[0], losers)


def pointers(claims: Iterable[Claim]) -> list[str]:
    """Hosts that others name as a home which nobody has asked, and which is not a lower one than those that were: to be asked
    too."""
    claims = list(claims)
    asked = {claim.host for claim in claims}
    homes = [_epoch(claim) for claim in claims if claim.standing.standing == HOME]
    highest = max((epoch.number for epoch in homes), default=0)
    tokens = {epoch.token for epoch in homes if epoch.number == highest}
    found = []
    for claim in claims:
        standing = claim.standing
        if standing.split is not None:
            found.append(standing.split.home.host)
        if standing.heard is not None:
            found.append(standing.heard.home.host)
        away = (
            standing.standing in (AWAY, BETWEEN, LEAVING, NOTHING)
            and standing.home is not None
            and standing.epoch is not None
        )
        if not away or standing.home is None or standing.epoch is None:
            continue
        other = standing.epoch.number == highest and standing.epoch.token not in tokens
        if standing.epoch.number > highest or other:
            found.append(standing.home.host)
    return [host for host in dict.fromkeys(found) if host not in asked]


def highest_epoch(claims: Iterable[Claim]) -> int:
    """The highest number that anybody has said; 0: none."""
    numbers = [0]
    for claim in claims:
        standing = claim.standing
        numbers += [standing.epoch.number] if standing.epoch is not None else []
        numbers += [standing.split.other.number] if standing.split is not None else []
        numbers += [standing.heard.epoch.number] if standing.heard is not None else []
    return max(numbers)


def _epoch(claim: Claim) -> Epoch:
    assert claim.standing.epoch is not None
    return claim.standing.epoch
