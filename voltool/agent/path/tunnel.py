"""One end of a tunnel (`wire.tunnel`): sockets of this host on one side, frames on the other. Ships to servers.

Whoever reads the frames never waits for a socket: what a connection cannot take yet is kept, never more than its window. So a
connection that stalls keeps none of the others waiting, and the memory is bounded. A connection that ends at one end ends at the
other; nothing here goes on in one direction alone, since TLS does not either.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
from typing import Callable, Deque, Dict, Optional

from voltool.agent.path.link import hang_up
from voltool.errors import AgentError, VoltoolError
from voltool.wire import tunnel

#: Leave for more is given when so much of a window was used up.
_GRANT = tunnel.WINDOW_SIZE // 4

Connect = Callable[[], socket.socket]


class Tunnel:
    """``send`` puts a frame into the tunnel, from any thread. ``connect`` is what the exit does for each connection (OSError or
    VoltoolError where it cannot); the entry has none."""

    def __init__(self, send: Callable[[bytes], None], connect: Optional[Connect] = None) -> None:
        self._frame_out = send
        self._connect = connect
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._streams: Dict[int, _Stream] = {}
        self._last = 0
        self._over = False

    def begin(self, connection: socket.socket) -> None:
        """At the entry: take a connection that was made here. AgentError where the frames go nowhere any more."""
        with self._lock:
            if self._over or len(self._streams) >= tunnel.MOST_STREAMS:
                connection.close()
                return
            self._last += 1
            stream = self._streams[self._last] = _Stream(self, self._last)
        try:
            self.send(tunnel.encode(tunnel.OPEN, stream.number))
        except VoltoolError:
            self.forget(stream.number)
            connection.close()
            raise
        stream.start(lambda: connection)

    def take(self, frame: bytes) -> None:
        """A frame that came through the tunnel. AgentError for one that no voltool sends."""
        what = tunnel.decode(frame)
        if what.kind == tunnel.OPEN:
            self._open(what.stream)
            return
        with self._lock:
            stream = self._streams.get(what.stream)
        if stream is None:
            return  # it has ended here, and the other end does not know yet
        if what.kind == tunnel.BYTES:
            stream.give(what.data)
        elif what.kind == tunnel.WINDOW:
            stream.grant(what.amount)
        else:
            stream.end()

    def send(self, frame: bytes) -> None:
        """Nothing is sent once it is closed. AgentError then."""
        with self._sending:
            if self._over:
                raise AgentError("the tunnel is closed")
            self._frame_out(frame)

    def close(self) -> None:
        """All connections end. Idempotent; waits for nobody."""
        self._over = True
        with self._lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.drop()

    def finish(self) -> None:
        """The same; then nothing is being sent any more."""
        self.close()
        with self._sending:
            pass

    def forget(self, number: int) -> None:
        """That connection has ended."""
        with self._lock:
            self._streams.pop(number, None)

    def _open(self, number: int) -> None:
        if self._connect is None:
            raise AgentError("the tunnel carries connections from its other end")
        with self._lock:
            if number <= self._last:
                raise AgentError("the tunnel has that connection already")
            self._last = number
            full = self._over or len(self._streams) >= tunnel.MOST_STREAMS
            if not full:
                stream = self._streams[number] = _Stream(self, number)
        if full:
            self.send(tunnel.encode(tunnel.CLOSE, number))
        else:
            stream.start(self._connect)


class _Stream:
    """One connection, with a thread for each direction."""

    def __init__(self, owner: Tunnel, number: int) -> None:
        self.number = number
        self._owner = owner
        self._changed = threading.Condition()
        self._socket: Optional[socket.socket] = None
        self._credit = tunnel.WINDOW_SIZE
        self._waiting: Deque[bytes] = collections.deque()
        self._held = 0  # bytes that came and for which no leave was given yet
        self._ended = False  # nothing more comes
        self._dropped = False

    def start(self, connect: Connect) -> None:
        """Begin; ``connect`` may take its time."""
        threading.Thread(target=self._run, args=(connect,), name="voltool-tunnel", daemon=True).start()

    def give(self, data: bytes) -> None:
        """Bytes for the socket."""
        with self._changed:
            self._held += len(data)
            if self._held > tunnel.WINDOW_SIZE:
                raise AgentError("more comes through the tunnel than it has been given leave for")
            if not self._dropped:
                self._waiting.append(data)
            self._changed.notify_all()

    def grant(self, amount: int) -> None:
        """So many bytes more may be sent."""
        with self._changed:
            self._credit = min(self._credit + amount, tunnel.WINDOW_SIZE)
            self._changed.notify_all()

    def end(self) -> None:
        """It has ended at the other end: what has come is still passed on."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def drop(self) -> None:
        """End it here, at once. Idempotent."""
        with self._changed:
            self._dropped = True
            self._waiting.clear()
            self._changed.notify_all()
            if self._socket is not None:
                hang_up(self._socket)

    def _run(self, connect: Connect) -> None:
        connection: Optional[socket.socket] = None
        try:
            connection = connect()
            connection.settimeout(None)
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._socket = connection
            outward = threading.Thread(target=self._pass_on, args=(connection,), name="voltool-tunnel", daemon=True)
            outward.start()
            self._fetch(connection)
            outward.join()
        except (OSError, VoltoolError, RuntimeError):
            pass  # it ends, as connections do
        finally:
            self._leave(connection)

    def _leave(self, connection: Optional[socket.socket]) -> None:
        with self._changed:
            told = self._ended
            self._dropped = True
            self._socket = None
        self._owner.forget(self.number)
        if connection is not None:
            connection.close()
        if not told:
            with contextlib.suppress(VoltoolError, OSError):
                self._owner.send(tunnel.encode(tunnel.CLOSE, self.number))

    def _fetch(self, connection: socket.socket) -> None:
        """From the socket into the tunnel, as far as there is leave."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._credit > 0 or self._dropped)
                    if self._dropped:
                        return
                    size = min(self._credit, tunnel.MAX_PIECE)
                data = connection.recv(size)
                if not data:
                    return
                with self._changed:
                    self._credit -= len(data)
                self._owner.send(tunnel.encode(tunnel.BYTES, self.number, data))
        finally:
            self.drop()

    def _pass_on(self, connection: socket.socket) -> None:
        """From the tunnel into the socket; then it is hung up."""
        owed = 0
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._ended or self._dropped)
                    if self._dropped or not self._waiting:
                        return
                    data = self._waiting.popleft()
                connection.sendall(data)
                owed += len(data)
                if owed >= _GRANT:
                    with self._changed:
                        self._held -= owed
                    self._owner.send(tunnel.encode_window(self.number, owed))
                    owed = 0
        except (OSError, VoltoolError):
            pass
        finally:
            self.drop()
