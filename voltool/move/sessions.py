"""`SourceHome` and `TargetHome` over a conversation with an agent: one exchange of messages a method (see `wire.moving`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from voltool.errors import AgentError
from voltool.model import NO_HOOKS, Epoch, Hooks, SourceMove, TargetMove, VolumeRecord
from voltool.move.ports import Sent, Sink
from voltool.remote.paths import AUTO, until_sent
from voltool.wire import messages, moving, replicas
from voltool.wire.conversation import IntroducedConversation, expect


@dataclass(frozen=True)
class SessionSettings:
    """How the homes work: see `messages.StartDump` and `moving.HoldLock` for each. ``path``: of `remote.paths`.
    ``fetch_timeout``: of a lazy move, see `moving.FetchFrom`."""

    owner: str
    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    lock_timeout: int = 30
    hooks: Hooks = NO_HOOKS
    only_hooks: bool = False
    path: str = AUTO
    fetch_timeout: int = 30


class SourceSession:
    """The session with the old home."""

    def __init__(
        self, agent: IntroducedConversation, move: SourceMove, settings: SessionSettings, *, begin: bool
    ) -> None:
        self._agent = agent
        self._settings = settings
        self._dumps = 0
        agent.send(moving.MoveOut(move, begin))
        status = expect(agent, moving.SourceStatus)
        self.move = status.move
        self.volume: VolumeRecord | None = status.volume

    def dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink) -> Sent:
        """See `SourceHome`."""
        assert self.move is not None
        assert self.volume is not None
        began = time.monotonic()
        self._agent.send(self._start_dump(self.move, self.volume, base, over_path=sink.direct))
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
        if sink.direct:
            until_sent(self._agent, sink.attend)
        else:
            self._feed(sink)
        result = expect(self._agent, messages.DumpReply).result
        held = sink.close()
        if held != result.totals.state_id:
            raise AgentError("the new home does not hold what was sent", remedy="voltool move --resume")
        totals = result.totals
        seconds = time.monotonic() - began
        return Sent(held, totals.entries, totals.data_bytes, result.header.sequence, result.problems, seconds)

    def _feed(self, sink: Sink) -> None:
        while isinstance(received := self._agent.receive(), bytes):
            sink.feed(received)
        if not isinstance(received, messages.EndOfData):
            raise AgentError("something else came where a dump should", why=type(received).__name__)

    def _start_dump(self, move: SourceMove, volume: VolumeRecord, base: str, *, over_path: bool) -> messages.StartDump:
        self._dumps += 1
        return messages.StartDump(
            uuid=volume.uuid,
            path=volume.path,
            dump_id=f"{move.move_id[:20]}{int(time.time()):08x}{self._dumps % 0x10000:04x}",
            level=9 if base else 0,
            base_state_id=base or None,
            base_dump_id=None,
            codec=self._settings.codec,
            workers=self._settings.workers,
            bandwidth=self._settings.bandwidth,
            for_move=True,
            hooks=self._settings.hooks,
            over_path=over_path,
            manifest_only=move.lazy,
        )

    def prepare_lock(self) -> None:
        """See `SourceHome`."""
        self._agent.send(moving.PrepareLock())
        expect(self._agent, messages.Done)

    def lock(self, *, seconds: int) -> None:
        """See `SourceHome`."""
        settings = self._settings
        self._agent.send(
            moving.HoldLock(
                owner=settings.owner,
                seconds=seconds,
                timeout=settings.lock_timeout,
                hooks=settings.hooks,
                only_hooks=settings.only_hooks,
            )
        )
        expect(self._agent, messages.LockReply)

    def unlock(self) -> None:
        """See `SourceHome`."""
        self._agent.send(moving.ReleaseLock())
        expect(self._agent, messages.Done)

    def switch(self, epoch: Epoch, state_id: str) -> SourceMove:
        """See `SourceHome`."""
        self._agent.send(moving.Switch(epoch, state_id))
        self.move = expect(self._agent, moving.SourceStatus).move
        assert self.move is not None
        return self.move

    def settle(self) -> None:
        """See `SourceHome`."""
        self._agent.send(moving.SettleMove())
        self.move = expect(self._agent, moving.SourceStatus).move

    def abort(self) -> None:
        """See `SourceHome`."""
        self._agent.send(moving.AbortMove())
        expect(self._agent, messages.Done)

    def forget(self) -> None:
        """See `SourceHome`."""
        self._agent.send(moving.ForgetMove())
        expect(self._agent, messages.Done)
        self.move = None


class Receiving:
    """A session with a host to which dumps come, and that tells the manifest of what it holds: a move's new home, a replica's
    host. ``received``: what begins a dump there. ``lost``: what its file system cannot hold. ``direct``: dumps come over the
    direct path."""

    def __init__(self, agent: IntroducedConversation, received: messages.Message, *, direct: bool) -> None:
        self._agent = agent
        self._receive = received
        self.direct = direct
        self.held = ""
        self.lost: tuple[str, ...] = ()
        self._busy = False

    def _await(self) -> None:
        """What it was asked to do on its own is done."""
        if self._busy:
            self._busy = False
            expect(self._agent, messages.Done)

    def open(self) -> None:
        """See `Sink`."""
        self._await()
        self._agent.send(self._receive)

    def feed(self, data: bytes) -> None:
        """See `Sink`."""
        self._agent.send_data(data)

    def attend(self, timeout: float) -> bool:
        """See `Sink`."""
        return self._agent.attend(timeout)

    def close(self) -> str:
        """See `Sink`."""
        if not self.direct:
            self._agent.send(messages.EndOfData())
        arrived = expect(self._agent, moving.Arrived)
        self.held, self.lost = arrived.held, arrived.lost
        return self.held

    def manifest(self) -> Iterator[bytes]:
        """See `TargetHome`."""
        self._await()
        self._agent.send(moving.SendManifest())
        while isinstance(received := self._agent.receive(), bytes):
            yield received
        if not isinstance(received, messages.EndOfData):
            raise AgentError("the manifest of the copy did not come", why=type(received).__name__)


class TargetSession(Receiving):
    """The session with the new home."""

    def __init__(
        self,
        agent: IntroducedConversation,
        move: TargetMove,
        settings: SessionSettings,
        *,
        begin: bool,
        direct: bool = False,
    ) -> None:
        dump = moving.ReceiveDump(settings.bandwidth, settings.workers, over_path=direct)
        super().__init__(agent, replicas.ReceiveManifest() if move.lazy else dump, direct=direct)
        self._hooks = settings.hooks
        self._ended = False
        self.about = agent.agent
        self.hostname = agent.agent.hostname
        agent.send(moving.MoveIn(move, begin))
        status = expect(agent, moving.TargetStatus)
        self.move = status.move
        self.held = status.held

    def reach(self, source: replicas.FetchSource) -> replicas.SourcesReached:
        """Of a lazy move: whether the new home can connect to the old one."""
        self._agent.send(replicas.ReachSources((source,)))
        return expect(self._agent, replicas.SourcesReached)

    def fetch_from(self, sources: moving.FetchFrom) -> None:
        """Of a lazy move: where the files will come from."""
        self._agent.send(sources)
        expect(self._agent, moving.TargetStatus)

    def get_ready(self, *, wait: bool) -> None:
        """See `TargetHome`."""
        self._agent.send(moving.GetReady())
        self._busy = True
        if wait:
            self._await()

    def prepare(self, epoch: Epoch, state_id: str, sequence: int) -> None:
        """See `TargetHome`."""
        self._await()
        self._agent.send(moving.Prepare(epoch, state_id, sequence, self._hooks))
        status = expect(self._agent, moving.TargetStatus)
        self.move, self.lost = status.move, status.lost

    def publish(self, proof: SourceMove) -> str:
        """See `TargetHome`."""
        self._await()
        self._agent.send(moving.Publish(proof, self._hooks))
        status = expect(self._agent, moving.TargetStatus)
        self.move = status.move
        return status.hook_failed

    def abort(self) -> None:
        """See `TargetHome`."""
        self._await()
        self._agent.send(moving.AbortMove())
        expect(self._agent, messages.Done)
        self.move = None

    def end(self) -> None:
        """End the session. Idempotent."""
        if not self._ended:
            self._await()
            self._agent.send(moving.EndMove())
            expect(self._agent, messages.Done)
            self._ended = True

    def ask_for_volume(self, uuid: str, path: bytes) -> VolumeRecord:
        """The volume as it is there now; ends the session."""
        self.end()
        self._agent.send(messages.ShowVolume(uuid, path))
        return expect(self._agent, messages.VolumeReply).record
