"""What the jobs need of the world, as narrow protocols; cli/ passes the real ones in, tests pass others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from voltool.events import Reporter
from voltool.machine import Machine
from voltool.model import KnownReplica, KnownVolume, StoredDump
from voltool.policy.due import DumpFact
from voltool.policy.latest import LatestDump
from voltool.policy.moves import MoveRecord
from voltool.policy.runs import VolumeRun
from voltool.stores.contract import Store
from voltool.wire.conversation import IntroducedConversation

__all__ = ["Catalog", "Hosts", "KnownVolume", "Stores", "World"]


class Hosts(Protocol):
    """Ways to agents. `remote.connect.RemoteHosts` is the real one."""

    def connect(self, host: str) -> AbstractContextManager[IntroducedConversation]:
        """A conversation with a fresh agent on ``host`` (``Hello`` already done); leaving the context ends the agent.

        Raises UnreachableError, HostError (python3 missing or too old, with the remedy).
        """

    def apart(self, reporter: Reporter) -> Hosts:
        """The same ways for a job of its own that runs beside others, in a thread of its own; ``reporter`` gets its events."""


class Stores(Protocol):
    """Stores by their URL."""

    def open(self, url: str) -> Store:
        """The store at ``url`` (``file:///path`` or a plain path); UsageError for a kind that is not known."""


class Catalog(Protocol):
    """The memory of volumes and dumps; never the only place of a fact."""

    def identity(self) -> str:
        """What tells this catalog from one that was made anew in its place."""

    def volume(self, name: str) -> KnownVolume:
        """NotFoundError with the names that are known; RefusedError where it is `local` to another machine."""

    def is_elsewhere(self, volume: KnownVolume) -> bool:
        """Whether the volume is `local` to another machine than this one."""

    def volumes(self) -> list[KnownVolume]:
        """All, by name."""

    def put_volume(self, volume: KnownVolume) -> None:
        """Insert or replace by uuid; UsageError when another volume has the name."""

    def remove_volume(self, uuid: str) -> None:
        """Forget it; its dumps stay known. Idempotent."""

    def add_dump(self, dump: StoredDump) -> None:
        """Remember a published dump; idempotent."""

    def remove_dump(self, dump_id: str) -> None:
        """Forget it; idempotent."""

    def dumps(self, volume_uuid: str | None = None) -> list[StoredDump]:
        """Oldest first (by sequence within a volume)."""

    def latest(self) -> list[LatestDump]:
        """For each volume and level that has dumps the newest one, and the sums of all."""

    def newest_facts(self) -> list[tuple[str, str, str, DumpFact]]:
        """For each volume and level the newest dump: the volume's uuid, store, file and what the schedule must know of it."""

    def newest_dumps(self, each: int) -> list[StoredDump]:
        """Of each volume the newest ``each`` dumps, ordered as `dumps` are."""

    def stored_over_time(self, points: int, volume_uuid: str | None = None) -> list[tuple[str, int, int]]:
        """By volume (or of one) and time: the bytes of the dumps of each of ``points`` spans, with the end of the span (ns)."""

    def dumps_by_prefix(self, prefix: str, most: int) -> list[StoredDump]:
        """The dumps whose id begins with ``prefix`` (lower-case hex digits), at the most ``most`` of them."""

    def dumps_named(self, name: str) -> list[StoredDump]:
        """The dumps of volumes that were called ``name`` when they were dumped, oldest first."""

    def dump_count(self, store: str | None = None) -> int:
        """How many dumps there are, or in the store ``store``."""

    def volume_count(self) -> int:
        """How many volumes have dumps."""

    def stores_of(self, volume_uuid: str | None = None) -> list[str]:
        """The stores that dumps (of the volume) are known in."""

    def bases_of(self, dumps: Iterable[StoredDump]) -> dict[str, str]:
        """For each of ``dumps`` that has a base that is known: the ids of the two."""

    def known_ids(self, ids: Iterable[str]) -> set[str]:
        """Those of ``ids`` that are ids of known dumps."""

    def files_in(self, store: str, directory: str) -> dict[str, str]:
        """The files of known dumps in a top-level directory of a store, and the dumps' ids."""

    def directories_of(self, store: str) -> list[str]:
        """The top-level directories of a store that dumps are known in."""

    def listed(self, store: str) -> dict[str, int]:
        """The directories of a store that need not be listed again while their modification time (ns) is this."""

    def put_listed(self, store: str, directories: Mapping[str, int | None]) -> None:
        """Remember (None: forget) when directories of a store were last changed before they were listed."""

    def has_dumps(self) -> bool:
        """Whether it knows any dump at all."""

    def add_run(self, run: VolumeRun) -> None:
        """Remember a volume's turn in a run; idempotent."""

    def runs(self, volume_uuid: str | None = None, since_ns: int = 0) -> list[VolumeRun]:
        """The turns that ended at ``since_ns`` or later, oldest first."""

    def last_runs(self, until_ns: int) -> list[VolumeRun]:
        """Of each volume that is known the last turn that ended at ``until_ns`` or before."""

    def run_of(self, run_id: str | None = None) -> list[VolumeRun]:
        """All turns of a run, oldest first; without ``run_id`` of the last one."""

    def put_move(self, move: MoveRecord) -> None:
        """Remember a move, instead of what was remembered of this call; idempotent."""

    def moves(self, volume_uuid: str | None = None, since_ns: int = 0) -> list[MoveRecord]:
        """The moves whose last news are of ``since_ns`` or later, oldest first."""

    def last_moves(self) -> list[MoveRecord]:
        """Of each volume that was ever moved the last move."""

    def put_suspicious(self, volume_uuid: str, found: Mapping[str, str]) -> None:
        """Remember which of a volume's dumps are suspicious (by their ids), and why; instead of what was remembered of it."""

    def suspicious(self) -> dict[str, dict[str, str]]:
        """By volume the dumps that were suspicious when it was last looked at, and why."""

    def replicas(self, volume_uuid: str | None = None) -> list[KnownReplica]:
        """The replicas (of a volume), and former homes that have not heard of a promotion; by host."""

    def put_replica(self, replica: KnownReplica) -> None:
        """Add or replace (by id)."""

    def remove_replica(self, replica_id: str) -> None:
        """Forget it. Idempotent."""

    def accept_dump(self, dump_id: str) -> None:
        """Remember that a suspicious dump is as it should be; idempotent."""

    def accepted(self) -> frozenset[str]:
        """The ids of the dumps that were accepted."""


@dataclass(frozen=True)
class World:
    """All collaborators of a job. ``machine`` is the one that `local` means here."""

    hosts: Hosts
    stores: Stores
    catalog: Catalog
    reporter: Reporter
    caller: str
    machine: Machine = field(default_factory=Machine)
