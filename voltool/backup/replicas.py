"""How replicas stand by what the catalog remembers, and that in words: no host is asked. What the hosts say now:
`replica.survey`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from voltool.backup.ports import Catalog
from voltool.config.quantity import duration
from voltool.policy.replicas import FORMER, ReplicaStanding, standing_of
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.config.settings import Settings


def max_lag_of(settings: Settings, name: str) -> int | None:
    """Seconds that the state of a replica of the volume ``name`` may be old; None: there is no limit."""
    own = settings.volume(name).max_lag
    return settings.max_lag if own is None else own


def replica_standings(catalog: Catalog, settings: Settings, now_ns: int) -> dict[str, list[ReplicaStanding]]:
    """By the volume's uuid its replicas and former homes, by host."""
    names = {volume.uuid: volume.name for volume in catalog.volumes()}
    found: dict[str, list[ReplicaStanding]] = {}
    for known in catalog.replicas():
        if (name := names.get(known.volume_uuid)) is not None:
            standing = standing_of(name, known, now_ns, max_lag_of(settings, name))
            found.setdefault(known.volume_uuid, []).append(standing)
    return found


def place_of(each: ReplicaStanding) -> str:
    """``host:/path``, harmless on a terminal."""
    return f"{each.known.host}:{shown(each.known.path)}"


def lag_text(each: ReplicaStanding) -> str:
    """How far behind in time; ``-`` for one that serves nothing."""
    return "-" if each.lag is None else duration(each.lag.seconds)


def wrongs(each: ReplicaStanding) -> Iterator[str]:
    """What is to be said of it, each in words."""
    known = each.known
    if known.role == FORMER:
        yield known.fault or (
            "it was the volume's home before a promotion, and has not been told yet: it may still take writes"
        )
    if each.is_stale:
        limit = duration(each.max_lag or 0)
        if each.lag is None:
            yield f"stale: it serves nothing yet, and max_lag is {limit}"
        else:
            yield f"stale: its state is {lag_text(each)} old, and max_lag is {limit}"
    if each.silent:
        yield f"its host could not be asked: {each.silent}"
    yield from each.faults
    if known.fault and known.role != FORMER:
        yield f"it could not be brought up to date: {known.fault}"
