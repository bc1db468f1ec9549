"""Who serves the files of a lazy replica: the volume's home, and the hosts of full replicas; they are asked to go to the
replica's door where it cannot connect to them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from voltool.errors import UnreachableError, VoltoolError
from voltool.events import Notice
from voltool.remote.doors import Served
from voltool.replica.ports import World
from voltool.replica.target import Target
from voltool.wire.conversation import IntroducedConversation, expect
from voltool.wire.doors import Door
from voltool.wire.replicas import FetchSource
from voltool.wire.serving import FilesServed, ServeFiles

#: What a host may serve: see `ServeFiles`.
_CLONE, _REPLICA = "clone", "replica"


class Servers:
    """Those that serve to the replica of ``target``, whose host shows ``certificate``: the volume's home (its agent: ``here``),
    and ``others``, hosts of full replicas."""

    def __init__(
        self, world: World, target: Target, here: IntroducedConversation, certificate: bytes, others: Sequence[str]
    ) -> None:
        self._world = world
        self._target = target
        self._here = here
        self._certificate = certificate
        self._hosts = {target.volume.host: _CLONE} | {host: _REPLICA for host in others if host != target.volume.host}

    def begin(self) -> tuple[FetchSource, ...]:
        """Let them serve. Those that do not are named in notices. UnreachableError where none does."""
        found, faults = list[FetchSource](), list[str]()
        volume, replica = self._target.volume, self._target.replica
        for host in list(self._hosts):
            try:
                served = self._ask(host, None)
            except VoltoolError as error:
                faults.append(f"{host}: {error.why or error.what}")
                text = f"{host} does not serve files to {replica.host}: {error}"
                self._world.reporter.report(Notice("warning", text))
                del self._hosts[host]
            else:
                found.append(_source(host, served))
        if not found:
            raise UnreachableError(
                "no host serves the files of the replica", where=self._target.subject, why="; ".join(faults),
                remedy=f"voltool replica sync {volume.name} {replica.host}, when they can be reached",
            )  # fmt: skip
        return tuple(found)

    def go_to(self, door: Door | None) -> Served:
        """See `remote.doors.Serve`; of those that began to serve."""
        found, faults = list[FetchSource](), dict[str, str]()
        for host in self._hosts:
            try:
                served = self._ask(host, door)
            except VoltoolError as error:
                faults[host] = error.why or error.what
            else:
                found.append(_source(host, served))
                if served.fault:
                    faults[host] = served.fault
        return Served(tuple(found), faults)

    def _ask(self, host: str, door: Door | None) -> FilesServed:
        with self._agent(host) as agent:
            what, replica_id = self._hosts[host], self._target.replica.replica_id
            agent.send(
                ServeFiles(self._target.volume.uuid, replica_id, what, self._certificate, agent.ports, door)
            )  # fmt: skip
            return expect(agent, FilesServed)

    @contextlib.contextmanager
    def _agent(self, host: str) -> Iterator[IntroducedConversation]:
        if self._hosts[host] == _CLONE:
            yield self._here
            return
        with self._world.hosts.connect(host) as agent:
            yield agent


def _source(host: str, served: FilesServed) -> FetchSource:
    return FetchSource(host, served.addresses, served.port, served.certificate)
