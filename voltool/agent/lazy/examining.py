"""What of the long-running processes of a host is not as it should be, and how it is put right. Ships to servers."""

from __future__ import annotations

import functools
from typing import Callable, Iterator

from voltool.agent.daemon import Daemon, list_daemons
from voltool.agent.fetching.keys import drop_identity, serving_purpose
from voltool.agent.host import HostState
from voltool.agent.lazy.book import KIND as LAZY_KIND
from voltool.agent.replica.records import ReplicaBook
from voltool.frozen import dataclass
from voltool.model import LAZY, LAZY_HOME


@dataclass(frozen=True)
class Trouble:
    """``what`` is wrong with a process of the volume ``name`` (empty: nobody knows); ``mend`` puts it right."""

    name: str
    what: str
    mend: Callable[[], object]


def troubles(host: HostState) -> Iterator[Trouble]:
    """All of them."""
    lazy = {each.replica_id: each for each in ReplicaBook(host.directory).replicas() if each.phase in (LAZY, LAZY_HOME)}
    for daemon in list_daemons(host.directory):
        record = lazy.get(daemon.identity)
        name = record.name if record is not None else ""
        if daemon.kind == LAZY_KIND and record is None:
            yield Trouble(
                name, "what is kept of a process that filled a lazy replica", functools.partial(_remove, host, daemon)
            )
        elif daemon.running() is None:
            doing = "fills the lazy replica" if daemon.kind == LAZY_KIND else "serves files to a lazy replica"
            last = daemon.last()
            why = f" ({last.fault})" if last is not None and last.fault else ""
            yield Trouble(name, f"the process that {doing} does not run{why}", functools.partial(_start, daemon))


def remove_daemons(host: HostState) -> None:
    """Every one of them, running or not, for a host on which nothing lives. Idempotent. HostError."""
    for daemon in list_daemons(host.directory):
        _remove(host, daemon)


def _remove(host: HostState, daemon: Daemon) -> None:
    with daemon.controlled():
        daemon.remove()
        drop_identity(host, daemon.identity if daemon.kind == LAZY_KIND else serving_purpose(daemon.identity))


def _start(daemon: Daemon) -> None:
    with daemon.controlled():
        if daemon.running() is None:
            daemon.start(f"voltool: {daemon.kind} {daemon.identity}")
