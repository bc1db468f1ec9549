"""What of the long-running processes of a host is not as it should be, and how it is put right. Ships to servers."""

from __future__ import annotations

import functools
from typing import Callable, Iterator

from voltool.agent.daemon import Daemon, list_daemons
from voltool.agent.door.book import KIND as DOOR_KIND
from voltool.agent.door.book import is_wanted
from voltool.agent.fetching.keys import drop_identity, serving_purpose
from voltool.agent.fetching.served import KIND as SERVE_KIND
from voltool.agent.host import HostState
from voltool.agent.lazy.book import KIND as LAZY_KIND
from voltool.agent.replica.records import ReplicaBook
from voltool.frozen import dataclass
from voltool.model import LAZY, LAZY_HOME

#: What each kind of process does, for people.
_DOING = {
    DOOR_KIND: "lets hosts come that serve files to a lazy replica",
    LAZY_KIND: "fills the lazy replica",
    SERVE_KIND: "serves files to a lazy replica",
}
_ELSE = "brings a volume to its new home"


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
        elif daemon.kind == DOOR_KIND and daemon.running() is None and not is_wanted(host, daemon.identity):
            yield Trouble(name, "what is kept of a door that nobody needs", functools.partial(_remove, host, daemon))
        elif daemon.running() is None:
            doing = _DOING.get(daemon.kind, _ELSE)
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
        drop_identity(host, serving_purpose(daemon.identity) if daemon.kind == SERVE_KIND else daemon.identity)


def _start(daemon: Daemon) -> None:
    with daemon.controlled():
        if daemon.running() is None:
            daemon.start(f"voltool: {daemon.kind} {daemon.identity}")
