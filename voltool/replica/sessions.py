"""`ReplicaSourceHome` and `ReplicaHome` over a conversation with an agent: one exchange a method (see `wire.replicas`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from voltool.errors import AgentError
from voltool.model import ReplicaRecord
from voltool.move.ports import Sink
from voltool.replica.options import ReplicaOptions
from voltool.replica.ports import Brought
from voltool.wire import messages, moving
from voltool.wire.conversation import Conversation, expect
from voltool.wire.replicas import (
    EndReplica,
    ForgetReplica,
    KeepReplicaBase,
    RemoveReplica,
    ReplicaIn,
    ReplicaOut,
    ReplicaSource,
    ReplicaStatus,
    StartReplicaDump,
    SwapReplica,
)


class SourceSession:
    """The session with the volume's home."""

    def __init__(self, agent: Conversation, request: ReplicaOut, options: ReplicaOptions) -> None:
        self._agent = agent
        self._request = request
        self._options = options
        agent.send(request)
        source = expect(agent, ReplicaSource)
        self.volume = source.record
        self.base = source.base

    def dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink) -> Brought:
        """See `ReplicaSourceHome`."""
        began = time.monotonic()
        options = self._options
        self._agent.send(
            StartReplicaDump(
                dump_id=f"{self._request.replica_id[:16]}{time.time_ns():016x}",
                base_state_id=base,
                codec=options.codec,
                workers=options.workers,
                bandwidth=options.bandwidth,
                hooks=options.hooks,
            )
        )
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
        sink.open()
        self._agent.send(messages.Proceed())
        while isinstance(received := self._agent.receive(), bytes):
            sink.feed(received)
        if not isinstance(received, messages.EndOfData):
            raise AgentError("something else came where a dump should", why=type(received).__name__)
        result = expect(self._agent, messages.DumpReply).result
        held = sink.close()
        if held != result.totals.state_id:
            raise AgentError("the replica does not hold what was sent", remedy="the same again")
        header, totals = result.header, result.totals
        return Brought(
            held,
            header.epoch,
            header.sequence,
            header.clone_time_ns,
            totals.entries,
            totals.data_bytes,
            time.monotonic() - began,
            result.problems,
        )

    def keep(self, state_id: str) -> None:
        """See `ReplicaSourceHome`."""
        self._agent.send(KeepReplicaBase(state_id))
        expect(self._agent, messages.Done)

    def forget(self) -> None:
        """See `ReplicaSourceHome`."""
        self._agent.send(ForgetReplica())
        expect(self._agent, messages.Done)


class ReplicaSession:
    """The session with the host of a replica."""

    def __init__(self, agent: Conversation, record: ReplicaRecord, options: ReplicaOptions, *, begin: bool) -> None:
        self._agent = agent
        self._options = options
        agent.send(ReplicaIn(record, begin))
        status = expect(agent, ReplicaStatus)
        self.record = status.replica
        self.held = status.held

    def open(self) -> None:
        """See `Sink`."""
        self._agent.send(moving.ReceiveDump(self._options.bandwidth, self._options.workers))

    def feed(self, data: bytes) -> None:
        """See `Sink`."""
        self._agent.send_data(data)

    def close(self) -> str:
        """See `Sink`."""
        self._agent.send(messages.EndOfData())
        self.held = expect(self._agent, moving.Arrived).held
        return self.held

    def manifest(self) -> Iterator[bytes]:
        """See `ReplicaHome`."""
        self._agent.send(moving.SendManifest())
        while isinstance(received := self._agent.receive(), bytes):
            yield received
        if not isinstance(received, messages.EndOfData):
            raise AgentError("the manifest of the replica did not come", why=type(received).__name__)

    def swap(self, brought: Brought) -> None:
        """See `ReplicaHome`."""
        self._agent.send(SwapReplica(brought.state_id, brought.epoch, brought.sequence, brought.clone_time_ns))
        status = expect(self._agent, ReplicaStatus)
        self.record, self.held = status.replica, status.held

    def remove(self, *, purge: bool) -> None:
        """See `ReplicaHome`."""
        self._agent.send(RemoveReplica(purge))
        expect(self._agent, messages.Done)


def end_session(agent: Conversation) -> None:
    """End the session that the agent is in; the agent takes the next request then."""
    agent.send(EndReplica())
    expect(agent, messages.Done)
