"""How volumes stand: what is overdue, suspicious, unscheduled, on its way, how old replicas are. From the catalog and the
configuration alone: no host and no store is asked, so that it is known at once, and also where they are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from voltool.backup.ports import Catalog
from voltool.backup.replicas import replica_standings
from voltool.backup.schedule import schedule_text, schedules_of, zone_of
from voltool.errors import UsageError, VoltoolError
from voltool.model import KnownVolume
from voltool.policy.cycle import last_wanted_ns
from voltool.policy.latest import LatestDump
from voltool.policy.moves import RUNNING, STOPPED, MoveRecord
from voltool.policy.overdue import Overdue, asked_about_ns, newest_of, overdue
from voltool.policy.replicas import ReplicaStanding
from voltool.policy.runs import VolumeRun

if TYPE_CHECKING:
    from voltool.config.settings import Settings
    from voltool.policy.cycle import Timetable

#: Turns of so long ago (ns) are of no use for how things stand.
_FOREVER = 1 << 62


@dataclass(frozen=True)
class Standing:
    """One volume. ``latest``: its newest dump of each level, lowest level first; ``schedule``: as it is configured, empty:
    none; ``fault``: what is wrong with its configuration; ``suspicious``: ids of dumps and why, without the accepted ones;
    ``last``: its last turn in a run; ``unfinished``: its last move, where that did not end; ``replicas``: those it has, by what
    was seen of them last."""

    volume: KnownVolume
    latest: tuple[LatestDump, ...] = ()
    newest_ns: int | None = None
    schedule: str = ""
    fault: str = ""
    overdue: Overdue | None = None
    suspicious: Mapping[str, str] | None = None
    last: VolumeRun | None = None
    unfinished: MoveRecord | None = None
    replicas: tuple[ReplicaStanding, ...] = ()

    @property
    def has_stale_replica(self) -> bool:
        """Whether a replica of it is older than its limit."""
        return any(replica.is_stale for replica in self.replicas)

    @property
    def state(self) -> str:
        """The worst that is known of it, in a word; ``nowhere``: it may be in service nowhere."""
        if self.unfinished is not None and self.unfinished.may_be_nowhere:
            return "nowhere"
        if self.overdue is not None:
            return "overdue"
        if self.has_stale_replica:
            return "stale"
        if self.suspicious:
            return "suspicious"
        if self.fault:
            return "misconfigured"
        if self.unfinished is not None:
            return "moving" if self.unfinished.outcome == RUNNING else "unfinished"
        return "ok" if self.schedule else "unscheduled"

    @property
    def stored_bytes(self) -> int:
        """Of all its dumps together."""
        return sum(level.all_stored_bytes for level in self.latest)

    @property
    def dumps(self) -> int:
        """How many it has."""
        return sum(level.dumps for level in self.latest)


def standings(
    catalog: Catalog, settings: Settings, now_ns: int, faults: Mapping[str, VoltoolError] | None = None
) -> list[Standing]:
    """How all volumes stand, by name. ``faults``: volumes whose section of the configuration cannot be read."""
    volumes = catalog.volumes()
    schedules = schedules_of(settings, volumes, faults)
    latest: dict[str, list[LatestDump]] = {}
    for level in catalog.latest():
        latest.setdefault(level.volume_uuid, []).append(level)
    last = {run.volume_uuid: run for run in catalog.last_runs(_FOREVER)}
    unfinished = {move.volume_uuid: move for move in catalog.last_moves() if move.outcome in (RUNNING, STOPPED)}
    suspicious = _suspicious(catalog)
    replicas = replica_standings(catalog, settings, now_ns)
    wanted = _Wanted(settings, now_ns)
    found = []
    for volume in volumes:
        levels = latest.get(volume.uuid, [])
        newest_ns = newest_of((level.clone_time_ns for level in levels), now_ns)
        error = schedules.errors.get(volume.name)
        found.append(
            Standing(
                volume=volume,
                latest=tuple(levels),
                newest_ns=newest_ns,
                schedule=schedule_text(settings, volume.name),
                fault="" if error is None else str(error),
                overdue=wanted.overdue(
                    volume.name, newest_ns, schedules.timetables.get(volume.uuid), error is not None
                ),
                suspicious=suspicious.get(volume.uuid, {}),
                last=last.get(volume.uuid),
                unfinished=unfinished.get(volume.uuid),
                replicas=tuple(replicas.get(volume.uuid, ())),
            )
        )
    return found


def in_trouble(found: Sequence[Standing]) -> bool:
    """Whether one of the volumes is overdue, may be in service nowhere, or has a stale replica."""
    return any(
        each.overdue or each.has_stale_replica or (each.unfinished and each.unfinished.may_be_nowhere) for each in found
    )


class _Wanted:
    """What the configuration promises, for one moment."""

    def __init__(self, settings: Settings, now_ns: int) -> None:
        self._settings = settings
        self._now_ns = now_ns
        try:
            self._zone = zone_of(settings)
        except UsageError:  # `backup` says so; half a day more or less makes no difference here
            self._zone = UTC

    def overdue(self, name: str, newest_ns: int | None, timetable: Timetable | None, is_faulty: bool) -> Overdue | None:
        """Whether the volume is overdue. One whose schedule cannot be read is held to what holds for all."""
        own = self._settings.volume(name).overdue_after
        after = own
        if after is None and (timetable is not None or is_faulty):
            after = self._settings.overdue_after
        wanted = None
        if timetable is not None:
            wanted = last_wanted_ns(timetable, asked_about_ns(self._now_ns), self._zone)
        return overdue(self._now_ns, newest_ns, wanted_ns=wanted, overdue_after=after)


def _suspicious(catalog: Catalog) -> dict[str, dict[str, str]]:
    """By volume what nobody has accepted, of the dumps that there are."""
    accepted = catalog.accepted()
    noted = catalog.suspicious()
    there = catalog.known_ids(dump_id for dumps in noted.values() for dump_id in dumps)
    return {
        uuid: {dump_id: why for dump_id, why in dumps.items() if dump_id in there and dump_id not in accepted}
        for uuid, dumps in noted.items()
    }
