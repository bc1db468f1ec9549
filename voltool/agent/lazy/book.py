"""What is kept of a lazy replica's long-running process on its host: what it shall do, by the replica's id. Ships to servers."""

from __future__ import annotations

import os
from typing import Optional, Tuple

from voltool.agent.daemon import Daemon
from voltool.agent.host import HostState
from voltool.frozen import dataclass
from voltool.wire.codec import from_plain, to_plain
from voltool.wire.replicas import FetchSource

KIND = "lazy"


@dataclass(frozen=True)
class LazyWishes:
    """``uuid`` of the volume, whose replica on this host is filled; ``given``: directories on this host that are looked in first;
    the rest as of `StartLazy`."""

    uuid: str
    sources: Tuple[FetchSource, ...]
    bandwidth: int = 0
    timeout: int = 30
    given: Tuple[bytes, ...] = ()


class LazyBook:
    """The process of the replica ``replica_id``."""

    def __init__(self, host: HostState, replica_id: str) -> None:
        self.daemon = Daemon(host.directory, KIND, replica_id)

    def wishes(self) -> Optional[LazyWishes]:
        """What it shall do; None where there is no such process."""
        plain = self.daemon.wishes()
        wishes: Optional[LazyWishes] = from_plain(LazyWishes, plain) if plain is not None else None
        return wishes

    def save(self, wishes: LazyWishes) -> None:
        """Write it down; one that runs sees it soon."""
        self.daemon.save(to_plain(wishes))

    @property
    def status_file(self) -> bytes:
        """Where it says how far it is."""
        return self.daemon.path(b".status")

    def version(self) -> int:
        """Another number when something else was written down."""
        try:
            return os.stat(self.daemon.path(b".json")).st_mtime_ns
        except FileNotFoundError:
            return 0
