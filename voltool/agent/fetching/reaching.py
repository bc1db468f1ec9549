"""The hosts that serve to a lazy replica, as its processes reach them: over direct paths, with its own key. Ships to servers."""

from __future__ import annotations

import functools
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, Sequence, Tuple

from voltool.agent.door.ringing import take_link
from voltool.agent.fetching.asking import FetchLink
from voltool.agent.fetching.keys import kept_identity
from voltool.agent.fetching.pool import Pool, Source
from voltool.agent.host import HostState
from voltool.agent.path.identity import Identity
from voltool.agent.path.joining import join
from voltool.errors import UnreachableError, VoltoolError
from voltool.wire.replicas import FetchSource, SourcesReached

#: The certificates alone say who may come: what is served outlives every session, so there is no token of one.
_TOKEN = b""
#: A host that is asked whether it can be reached directly has so long, seconds.
_PROBE = 8.0
#: How long one source may take, seconds.
_PATIENCE = 10.0
#: What it may take besides.
_GRACE = 5.0


def make_pool(host: HostState, replica_id: str, sources: Sequence[FetchSource], timeout: float) -> Pool:
    """A pool for one process, after its last fork; nothing is connected yet. ``timeout``: see `StartLazy`. HostError where this
    host's key cannot be read or made."""
    identity = kept_identity(host, replica_id)
    connect = functools.partial(link_with, host, replica_id, identity)
    return Pool([Source(source.host, functools.partial(connect, source)) for source in sources], timeout)


def unreachable_sources(pool: Pool, patience: float) -> Dict[str, str]:
    """Which of the hosts cannot be reached within ``patience`` seconds, and why; all are tried at once."""
    with ThreadPoolExecutor(max(1, len(pool.sources)), "voltool-probe") as threads:
        tries = {source.name: threads.submit(_probe, source, patience) for source in pool.sources}
    found = {name: attempt.result() for name, attempt in tries.items()}
    return {name: why for name, why in found.items() if why}


def first_reached(pool: Pool, patience: float) -> Tuple[str, Dict[str, str]]:
    """The host that is reached first, nobody else is waited for; where none is within ``patience`` seconds: an empty name, and
    of each host why not."""
    results: queue.SimpleQueue[Tuple[str, str]] = queue.SimpleQueue()
    for source in pool.sources:
        threading.Thread(
            target=lambda source=source: results.put((source.name, _probe(source, patience))),
            name="voltool-probe",
            daemon=True,
        ).start()
    faults: Dict[str, str] = {}
    for _each in pool.sources:
        try:
            name, why = results.get(timeout=patience + _GRACE)
        except queue.Empty:
            break
        if not why:
            return name, {}
        faults[name] = why
    return "", faults


def sources_reached(host: HostState, replica_id: str, sources: Sequence[FetchSource]) -> SourcesReached:
    """Answers `ReachSources`."""
    reached, faults = first_reached(make_pool(host, replica_id, sources, _PROBE), _PROBE)
    return SourcesReached(reached, "; ".join(f"{name}: {why}" for name, why in sorted(faults.items())))


def _probe(source: Source, patience: float) -> str:
    try:
        source.connect(patience).close()
    except VoltoolError as error:
        return error.why or error.what
    return ""


def link_with(host: HostState, replica_id: str, identity: Identity, source: FetchSource, timeout: float) -> FetchLink:
    """A connection with a host that serves, made by this one or, where that cannot be, by that one. VoltoolError."""
    if source.comes:
        return take_link(host.directory, replica_id, identity, source.certificate, timeout)
    return join(identity, source.certificate, source.addresses, source.port, _TOKEN, timeout)


def reach_one(host: HostState, replica_id: str, sources: Sequence[FetchSource]) -> None:
    """UnreachableError where none of the sources can be reached directly from this host."""
    faults = unreachable_sources(make_pool(host, replica_id, sources, _PATIENCE), _PATIENCE)
    if len(faults) < len(sources):
        return
    raise UnreachableError(
        "no host that has the files can be reached directly",
        where=host.hostname,
        why="; ".join(f"{name}: {why}" for name, why in faults.items()) or "there is none",
        remedy="open a port between the hosts (ports in [hosts.NAME] of the configuration); or without --lazy",
    )
