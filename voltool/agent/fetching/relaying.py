"""The ends of a tunnel for a lazy replica whose host reaches none that serve its files (`wire.tunnel`). Ships to servers.

The entry stands at the replica's host, for its process; the exit at the host that serves, and leads to the one port where that is
done. Both last as long as the command line's connections.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Callable, Iterator, Optional, Protocol

from voltool import durable
from voltool.agent.fetching.served import ServeBook
from voltool.agent.host import HostState
from voltool.agent.lazy.book import LazyBook
from voltool.agent.lazy.mounted import read_status
from voltool.agent.lazy.start import why_dead
from voltool.agent.path.held import HeldPath, path_of
from voltool.agent.path.link import hang_up
from voltool.agent.path.tunnel import Tunnel
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import AgentError, VoltoolError
from voltool.events import Event, PhaseEnded, PhaseStarted, Progressed
from voltool.model import LAZY
from voltool.wire.conversation import Conversation
from voltool.wire.messages import Done
from voltool.wire.tunnel import EndTunnel, EnterTunnel, LeaveTunnel, ListenTunnel, TunnelListening, TunnelOver

_LOOPBACK = "127.0.0.1"
_BACKLOG = 64
#: How often is looked how far the replica is, seconds.
_LOOK = 0.25
#: A process that fills may be away for so long, as when it is started again, seconds.
_AWAY = 15.0
_CONNECT = 10.0
_PHASE = "fill"


class _Session(Protocol):
    """What is needed of `agent.replica.into.Session`."""

    conversation: Conversation
    host: HostState
    replica: HostReplica


def listen_tunnel(step: ListenTunnel, session: _Session) -> TunnelListening:
    """The step `ListenTunnel`. BusyError where another command line carries the tunnel of that replica."""
    del step
    held = path_of(session.conversation)
    _let_go(held)
    book = LazyBook(session.host, session.replica.record.replica_id)
    durable.make_directory(os.path.dirname(book.daemon.path(b"")))
    lock = durable.FileLock(
        book.daemon.path(b".relay"), what="filling the replica through a command line", owner=f"pid {os.getpid()}"
    )
    lock.acquire()
    held.entry_lock = lock
    held.entry = socket.create_server((_LOOPBACK, 0), backlog=_BACKLOG)
    return TunnelListening(held.entry.getsockname()[1])


def _let_go(held: HeldPath) -> None:
    """Idempotent."""
    if held.entry is not None:
        held.entry.close()
    if held.entry_lock is not None:
        held.entry_lock.release()
    held.entry = held.entry_lock = None


def enter_tunnel(request: EnterTunnel, conversation: Conversation, host: HostState) -> Done:
    """Handle `EnterTunnel`."""
    held = path_of(conversation)
    entry = held.entry
    if entry is None:
        raise AgentError("nothing waits for connections that a tunnel could carry")
    with contextlib.ExitStack() as stack:
        stack.callback(_let_go, held)
        tunnel = stack.enter_context(_open(Tunnel(conversation.send_data)))
        watch = _Watch(request, host, entry.getsockname()[1], conversation)
        threads = [
            threading.Thread(target=_accept, args=(entry, tunnel), name="voltool-entry", daemon=True),
            threading.Thread(target=watch.run, name="voltool-watch", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            _carry(conversation, tunnel)
        finally:
            watch.ended.set()
            hang_up(entry)
        for thread in threads:
            thread.join()
    return Done()


def leave_tunnel(request: LeaveTunnel, conversation: Conversation, host: HostState) -> Done:
    """Handle `LeaveTunnel`."""
    book = ServeBook(host, request.replica_id)
    book.wishes()

    def connect() -> socket.socket:
        # Asked anew: who serves may have been started again.
        return socket.create_connection((_LOOPBACK, book.wishes().port), timeout=_CONNECT)

    with _open(Tunnel(conversation.send_data, connect)) as tunnel:
        _carry(conversation, tunnel)
    return Done()


@contextlib.contextmanager
def _open(tunnel: Tunnel) -> Iterator[Tunnel]:
    """However it ends, nothing goes on; where that is at peace, nothing is sent any more either."""
    try:
        yield tunnel
    finally:
        tunnel.close()
    tunnel.finish()


def _carry(conversation: Conversation, tunnel: Tunnel) -> None:
    while not isinstance(received := conversation.receive(), EndTunnel):
        if not isinstance(received, bytes):
            raise AgentError("something else came where a tunnel is", why=type(received).__name__)
        tunnel.take(received)


def _accept(entry: socket.socket, tunnel: Tunnel) -> None:
    """Until nothing waits there any more."""
    with contextlib.suppress(OSError, VoltoolError):
        while True:
            tunnel.begin(entry.accept()[0])


class _Watch:
    """Says how far the replica is, and at last, once, that the tunnel is needed no more."""

    def __init__(self, request: EnterTunnel, host: HostState, port: int, conversation: Conversation) -> None:
        self.ended = threading.Event()
        self._request = request
        self._replicas = ReplicaBook(host.directory)
        self._book = LazyBook(host, request.replica_id)
        self._port = port
        self._conversation = conversation
        self._seen = time.monotonic()
        self._total: Optional[int] = None
        self._told = -1

    def run(self) -> None:
        """Until it has said so, or ``ended``."""
        with contextlib.suppress(OSError, VoltoolError):  # the connection: who reads from it notices too
            while not self.ended.wait(_LOOK):
                over = self._is_over()
                if over is not None:
                    self._report(lambda name: PhaseEnded(name, _PHASE))
                    self._conversation.send(over)
                    return
                self._tell()

    def _is_over(self) -> Optional[TunnelOver]:
        record = self._replicas.find(self._request.uuid)
        if record is None or record.replica_id != self._request.replica_id:
            return TunnelOver("the replica was removed")
        if record.phase != LAZY:
            return TunnelOver()
        wishes = self._book.wishes()
        if wishes is not None and all(source.port != self._port for source in wishes.sources):
            return TunnelOver("it was given other hosts to ask meanwhile")
        if self._book.daemon.running() is not None:
            self._seen = time.monotonic()
        return TunnelOver(why_dead(self._book)) if time.monotonic() - self._seen > _AWAY else None

    def _tell(self) -> None:
        status = read_status(self._book.status_file)
        if status is None:
            return
        if self._total is None:
            self._total = total = status.missing_bytes
            self._report(lambda name: PhaseStarted(name, _PHASE, total_bytes=total))
        done = max(0, self._total - status.missing_bytes)
        if done != self._told:
            self._told = done
            self._report(lambda name: Progressed(name, _PHASE, bytes=done))

    def _report(self, event: Callable[[str], Event]) -> None:
        record = self._replicas.find(self._request.uuid)
        if record is not None and self._total is not None:
            self._conversation.report(event(record.name))
