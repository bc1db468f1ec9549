"""`ReplicaSourceHome` and `ReplicaHome` over a conversation with an agent: one exchange of messages a method (see
`wire.replicas`)."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from voltool.errors import AgentError
from voltool.model import NO_HOOKS, DumpResult, Hooks, KnownVolume, Peer, ReplicaRecord, VolumeRecord
from voltool.move.ports import Sink
from voltool.move.sessions import Receiving
from voltool.remote.paths import AUTO, until_sent
from voltool.replica.ports import Brought
from voltool.wire import messages, moving, replicas, tunnel
from voltool.wire.conversation import IntroducedConversation, expect


@dataclass(frozen=True)
class ReplicaSettings:
    """How data travels: see `wire.replicas.StartReplicaDump`. ``base_age``: see `wire.replicas.ReplicaOut`; ``path``: of
    `remote.paths`.

    ``lazy``: a new replica is mounted at once, and its files come later: from the volume's home, and from the hosts ``sources``
    (empty: all that have full replicas). ``fetch_timeout``: see `wire.replicas.StartLazy`. ``fill_bandwidth`` of one that is
    filled already; None: what it was."""

    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    base_age: int = 0
    hooks: Hooks = NO_HOOKS
    path: str = AUTO
    lazy: bool = False
    sources: tuple[str, ...] = ()
    fetch_timeout: int = 30
    fill_bandwidth: int | None = None


class SourceSession:
    """The session with the volume's home."""

    def __init__(
        self,
        agent: IntroducedConversation,
        volume: VolumeRecord | KnownVolume,
        replica_id: str,
        replica: Peer,
        settings: ReplicaSettings,
    ) -> None:
        self._agent = agent
        self._settings = settings
        agent.send(replicas.ReplicaOut(volume.uuid, volume.path, replica_id, replica, settings.base_age))
        source = expect(agent, replicas.ReplicaSource)
        self.volume = source.record
        self.base = source.base

    def dump_manifest(self, sink: Sink) -> Brought:
        """Clone the volume and send its manifest into ``sink``; the clone is kept, for its files to be fetched from."""
        return self._dump("", lambda: iter(()), sink, manifest_only=True)

    def dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink) -> Brought:
        """See `ReplicaSourceHome`."""
        return self._dump(base, manifest, sink, manifest_only=False)

    def _dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink, *, manifest_only: bool) -> Brought:
        began = time.monotonic()
        settings = self._settings
        self._agent.send(
            replicas.StartReplicaDump(
                dump_id=secrets.token_hex(16),
                base_state_id=base,
                codec=settings.codec,
                workers=settings.workers,
                bandwidth=settings.bandwidth,
                hooks=settings.hooks,
                manifest_only=manifest_only,
                over_path=sink.direct,
            )
        )
        totals = self._await_scan(manifest)
        if isinstance(sink, ReplicaSession):
            sink.size = totals.bytes
        sink.open()
        self._agent.send(messages.Proceed())
        if sink.direct:
            until_sent(self._agent, sink.attend)
        else:
            self._feed(sink)
        result = expect(self._agent, messages.DumpReply).result
        held = sink.close()
        if held != result.totals.state_id:
            raise AgentError("the replica does not hold what was sent", remedy="voltool replica sync")
        return _brought(result, time.monotonic() - began)

    def _feed(self, sink: Sink) -> None:
        while isinstance(received := self._agent.receive(), bytes):
            sink.feed(received)
        if not isinstance(received, messages.EndOfData):
            raise AgentError("something else came where a dump should", why=type(received).__name__)

    def _await_scan(self, manifest: Callable[[], Iterator[bytes]]) -> messages.ScanTotals:
        received = self._agent.receive()
        if isinstance(received, messages.NeedManifest):
            for data in manifest():
                self._agent.send_data(data)
            self._agent.send(messages.EndOfData())
            received = self._agent.receive()
        if not isinstance(received, messages.ScanTotals):
            raise AgentError(
                "the agent gave an answer that does not belong to the question", why=type(received).__name__
            )
        return received

    def keep(self, state_id: str) -> None:
        """See `ReplicaSourceHome`."""
        self._agent.send(replicas.KeepReplicaBase(state_id))
        expect(self._agent, messages.Done)
        self.base = state_id

    def forget(self) -> None:
        """See `ReplicaSourceHome`."""
        self._agent.send(replicas.ForgetReplica())
        expect(self._agent, messages.Done)
        self.base = ""

    def end(self) -> None:
        """The session is over; the agent can be asked something else."""
        self._agent.send(replicas.EndReplica())
        expect(self._agent, messages.Done)


class ReplicaSession(Receiving):
    """The session with the host of a replica. ``status`` is its last word. ``begin``: make the replica, or go on with it;
    without, only look. ``forbidden``: see `wire.replicas.ReplicaIn`."""

    def __init__(
        self,
        agent: IntroducedConversation,
        record: ReplicaRecord,
        settings: ReplicaSettings,
        *,
        begin: bool,
        direct: bool = False,
        forbidden: tuple[bytes, ...] = (),
    ) -> None:
        self._dump = moving.ReceiveDump(settings.bandwidth, settings.workers, over_path=direct)
        #: Of the next dump, see `ReceiveDump`.
        self.size = 0
        super().__init__(agent, self._dump, direct=direct)
        agent.send(replicas.ReplicaIn(record, begin, forbidden))
        self.status = expect(agent, replicas.ReplicaStatus)
        self.held = self.status.held

    @property
    def record(self) -> ReplicaRecord:
        """See `ReplicaHome`."""
        return self.status.replica

    def open(self) -> None:
        """See `Sink`."""
        self._agent.send(dataclasses.replace(self._dump, size=self.size))

    def manifest_sink(self) -> Sink:
        """For the manifest of a lazy replica; closed, it says which state that is. It goes through the command line: it is small,
        and what it describes comes later."""
        return Receiving(self._agent, replicas.ReceiveManifest(), direct=False)

    def reach(self, sources: tuple[replicas.FetchSource, ...]) -> replicas.SourcesReached:
        """Whether the replica's host can reach one of them directly."""
        self._agent.send(replicas.ReachSources(sources))
        return expect(self._agent, replicas.SourcesReached)

    def listen_tunnel(self) -> int:
        """The port of the host's loopback where a tunnel begins, as soon as there is one."""
        self._agent.send(tunnel.ListenTunnel())
        return expect(self._agent, tunnel.TunnelListening).port

    def start_lazy(self, step: replicas.StartLazy) -> None:
        """Let it be mounted and filled from now on; repeatable."""
        self._agent.send(step)
        self.status = expect(self._agent, replicas.ReplicaStatus)

    def swap(self, brought: Brought) -> None:
        """See `ReplicaHome`."""
        step = replicas.SwapReplica(brought.state_id, brought.epoch, brought.sequence, brought.clone_time_ns)
        self._agent.send(step)
        self.status = expect(self._agent, replicas.ReplicaStatus)

    def remove(self, *, purge: bool) -> None:
        """See `ReplicaHome`."""
        self._agent.send(replicas.RemoveReplica(purge))
        expect(self._agent, messages.Done)
        self.held = ""

    def end(self) -> None:
        """The session is over; the agent can be asked something else."""
        self._agent.send(replicas.EndReplica())
        expect(self._agent, messages.Done)


def _brought(result: DumpResult, seconds: float) -> Brought:
    header, totals = result.header, result.totals
    return Brought(
        state_id=totals.state_id,
        epoch=header.epoch,
        sequence=header.sequence,
        clone_time_ns=header.clone_time_ns,
        entries=totals.entries,
        bytes=totals.data_bytes,
        seconds=seconds,
        problems=result.problems,
    )
