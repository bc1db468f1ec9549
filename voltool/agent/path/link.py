"""A trusted connection between two agents: messages and data in frames, as between agent and command line. Ships to servers.

No beats: the kernels say whether the other host lives (keepalive; TCP_USER_TIMEOUT for what is sent and not acknowledged), and
whether its process does its work is what the command line, or a reader's own time-out, watches over. Socket buffers are left to
the kernel, which makes them as large as the path needs; a size of our own would be capped far below that. Source: tcp(7).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Any, Iterator, Optional

from voltool.errors import PathBrokenError
from voltool.wire import framing, messages
from voltool.wire.conversation import Buffer

#: A host that is silent for so long is gone, seconds (as `silence_timeout` of the configuration).
SILENCE = 120.0
_PROBES = 6
#: A data frame carries at most this, so that it stays in a processor's cache.
_PIECE = 256 << 10
#: What fits into a record of TLS behind a frame's head.
_FIRST = (16 << 10) - framing.HEAD_SIZE


class Link:
    """One connection, used by one thread at a time (`close` by any). Whatever goes wrong closes it, so that the other end notices
    at once, and raises PathBrokenError. ``peer``: the certificate of the other end (DER)."""

    def __init__(self, connection: ssl.SSLSocket, peer: bytes, silence: float = SILENCE) -> None:
        self.peer = peer
        self._connection = connection
        self._closed = False
        self._in_use = threading.RLock()
        # Filled again and again: new memory for each frame costs more than TLS does.
        self._head = memoryview(bytearray(framing.HEAD_SIZE))
        self._buffer = memoryview(bytearray(_PIECE))
        connection.settimeout(None)
        _watch_over(connection, silence)

    @property
    def closed(self) -> bool:
        """Whether it is closed, by us or because it broke."""
        return self._closed

    def address(self) -> str:
        """At which the other end is reached; empty: it is gone."""
        try:
            return str(self._connection.getpeername()[0])
        except OSError:
            return ""

    def fileno(self) -> int:
        """For select(2): readable where something has come, or it has ended; -1: closed."""
        return self._connection.fileno()

    def send(self, message: messages.Message) -> None:
        """Send one message."""
        payload = messages.encode(message)
        with self._closing_on_error():
            self._connection.sendall(framing.encode_frame_head(framing.MESSAGE, len(payload)) + payload)

    def send_data(self, data: Buffer) -> None:
        """Send raw bytes (split into frames as needed); blocks while the other side is slow."""
        with self._closing_on_error():
            for piece in framing.split_data(data, _PIECE):
                head = framing.encode_frame_head(framing.DATA, len(piece))
                # The head shares a record with what follows: a record of its own costs as much as one of 16 KiB.
                self._connection.sendall(b"".join((head, piece[:_FIRST])))
                if len(piece) > _FIRST:
                    self._connection.sendall(piece[_FIRST:])

    def receive(self, timeout: Optional[float] = None) -> Any:
        """The next message, or ``bytes`` for a data frame. ``timeout``: so many seconds without a byte break the link (None: no
        matter how many, as long as the other host lives)."""
        with self._closing_on_error():
            self._connection.settimeout(timeout)
            self._fill(self._head)
            kind, length = framing.decode_frame_head(self._head)
            view = self._buffer[:length] if length <= _PIECE else memoryview(bytearray(length))
            self._fill(view)
            payload = bytes(view)
            self._connection.settimeout(None)
        return messages.decode(payload) if kind == framing.MESSAGE else payload

    def close(self) -> None:
        """End it, at both ends. Idempotent; whoever waits in it gets PathBrokenError."""
        self._closed = True
        hang_up(self._connection)
        # Not under the feet of another thread, for which the descriptor would soon be somebody else's.
        if self._in_use.acquire(blocking=False):
            try:
                self._connection.close()
            finally:
                self._in_use.release()

    def _fill(self, view: memoryview) -> None:
        while view:
            length = self._connection.recv_into(view)
            if not length:
                raise PathBrokenError("the direct path between the hosts ended", why="the other end closed it")
            view = view[length:]

    @contextlib.contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        with self._in_use:
            try:
                yield
            except (OSError, ValueError) as error:
                self.close()
                why = "the other host is silent" if isinstance(error, socket.timeout) else str(error)
                raise PathBrokenError("the direct path between the hosts broke", why=why) from None
            except BaseException:  # half a frame may have passed
                self.close()
                raise


def hang_up(connection: socket.socket) -> None:
    """End it at both ends, whoever else has the descriptor (a forked worker; a thread that waits in it); it stays open here."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _watch_over(connection: socket.socket, silence: float) -> None:
    """Let the kernel find out that the other host is gone, within about ``silence`` seconds."""
    apart = max(1, round(silence / (_PROBES + 2)))
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2 * apart),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, apart),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence * 1000)),
    ):
        connection.setsockopt(level, option, value)
