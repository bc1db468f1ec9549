"""What the jobs need of the world, as narrow protocols; cli/ passes the real ones in, tests pass others."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from voltool.events import Reporter
from voltool.machine import Machine
from voltool.model import KnownVolume, StoredDump
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


class Stores(Protocol):
    """Stores by their URL."""

    def open(self, url: str) -> Store:
        """The store at ``url`` (``file:///path`` or a plain path); UsageError for a kind that is not known."""


class Catalog(Protocol):
    """The memory of volumes and dumps; never the only place of a fact."""

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

    def has_dumps(self) -> bool:
        """Whether it knows any dump at all."""

    def add_run(self, run: VolumeRun) -> None:
        """Remember a volume's turn in a run; idempotent."""

    def runs(self, volume_uuid: str | None = None, since_ns: int = 0) -> list[VolumeRun]:
        """The turns that ended at ``since_ns`` or later, oldest first."""

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
