"""A command over one channel of a paramiko connection, as a `Stream`.

paramiko's own receive buffer is one array whose front is cut off at each read, a copy of everything behind it; ours is
a queue of the pieces as they came. Sources: paramiko channel.py, buffered_pipe.py; RFC 4254 section 5.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paramiko.buffered_pipe import BufferedPipe, PipeTimeout
from paramiko.transport import ChannelMap

from voltool.ssh.library import paramiko
from voltool.ssh.stream import Buffer, StderrTail

if TYPE_CHECKING:
    _Pipe = BufferedPipe[bytes]
else:
    _Pipe = BufferedPipe  # generic only in its hints


class PieceQueue(_Pipe):
    """paramiko's BufferedPipe without copies: what is fed in is handed out as it is."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = threading.Condition()
        self._pieces: collections.deque[bytes] = collections.deque()
        self._length = 0
        #: All that was ever fed.
        self.arrived = 0
        self._ended = False

    def feed(self, data: bytes | str) -> None:
        """Take a piece; called by the connection's thread."""
        piece = data.encode() if isinstance(data, str) else bytes(data)
        if not piece:
            return
        with self._arrived:
            self._pieces.append(piece)
            self._length += len(piece)
            self.arrived += len(piece)
            self._arrived.notify()

    def read_ready(self) -> bool:
        """Whether `read` returns bytes at once."""
        return self._length > 0

    def at_end(self) -> bool:
        """Whether everything was read and nothing more comes."""
        return self._ended and not self._length

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """The next piece, or its first ``nbytes``; ``b""`` at the end. Raises PipeTimeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._arrived:
            while not self._pieces:
                if self._ended:
                    return b""
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise PipeTimeout
                self._arrived.wait(remaining)
            piece = self._pieces.popleft()
            if len(piece) > nbytes:
                self._pieces.appendleft(piece[nbytes:])
                piece = piece[:nbytes]
            self._length -= len(piece)
            return piece

    def empty(self) -> bytes:
        """Everything that is there."""
        with self._arrived:
            everything = b"".join(self._pieces)
            self._pieces.clear()
            self._length = 0
            return everything

    def close(self) -> None:
        """Nothing more comes."""
        with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    def __len__(self) -> int:
        return self._length


class PieceChannels(ChannelMap):
    """The channels of a connection; each has a `PieceQueue` before the server can send the first byte on it."""

    def put(self, chanid: int, chan: paramiko.Channel) -> None:
        """Add a channel that is about to be opened."""
        chan.in_buffer = PieceQueue()
        super().put(chanid, chan)


class ChannelStream:
    """See `Stream`. ``on_close`` is called once at the end (to drop the connection the channel belongs to)."""

    def __init__(
        self,
        channel: paramiko.Channel,
        command: str,
        *,
        listener: Callable[[bytes], None] | None,
        on_close: Callable[[], None],
    ) -> None:
        self._channel = channel
        queue = channel.in_buffer
        assert isinstance(queue, PieceQueue), "the connection must use PieceChannels"
        self._queue = queue
        self._on_close = on_close
        self._closed = False
        self._tail = StderrTail(listener)
        channel.exec_command(command)
        self._reader = threading.Thread(target=self._read_stderr, name="voltool-stderr", daemon=True)
        self._reader.start()

    def read(self, limit: int, timeout: float | None = None) -> bytes:
        """See `Stream`."""
        if timeout is not None and not self._queue.read_ready():
            self._channel.settimeout(timeout)
            try:
                return self._receive(limit)
            finally:
                self._channel.settimeout(None)
        return self._receive(limit)

    def _receive(self, limit: int) -> bytes:
        try:
            return self._channel.recv(limit)
        except TimeoutError:
            raise
        except (OSError, EOFError, paramiko.SSHException):
            return b""

    def readable(self) -> bool:
        """See `Stream`."""
        return self._queue.read_ready() or self._queue.at_end()

    def write(self, data: Buffer) -> None:
        """See `Stream`."""
        view = memoryview(data).cast("B")
        while view:
            try:
                # paramiko takes any buffer, whatever its hints say; a view keeps the rest from being copied each time.
                piece: Any = view
                sent = self._channel.send(piece)
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise BrokenPipeError(str(error)) from None
            if sent == 0 or not self._connected():
                raise BrokenPipeError
            view = view[sent:]

    def try_write(self, data: bytes) -> None:
        """See `Stream`. Where the window has no room the other side is not waiting for us."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            if self._channel.out_window_size >= len(data):
                self._channel.send(data)

    def arrived(self) -> tuple[int, int]:
        """See `Stream`."""
        return self._queue.arrived, len(self._queue)

    def drop(self) -> None:
        """See `Stream`."""
        self._channel.get_transport().close()

    def _connected(self) -> bool:
        # Without this a dead connection drops what is sent without a word (Transport._send_user_message).
        transport = self._channel.get_transport()
        return bool(transport.is_active())

    def close(self, grace: float = 0.0) -> None:
        """See `Stream`."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not self._channel.status_event.is_set() and self._connected():
            # Take what it still says, or it may wait for us for ever.
            if self._queue.at_end():
                self._channel.status_event.wait(max(0.0, deadline - time.monotonic()))
            else:
                with contextlib.suppress(TimeoutError):
                    self.read(1 << 20, timeout=0.05)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        self._on_close()
        self._reader.join(1.0)

    def stderr_tail(self) -> str:
        """See `Stream`."""
        if self._queue.at_end():
            self._reader.join(1.0)
        return self._tail.text()

    def exit_status(self, timeout: float) -> int | None:
        """See `Stream`."""
        self._channel.status_event.wait(timeout)
        return (
            self._channel.exit_status if self._channel.exit_status_ready() and self._channel.exit_status >= 0 else None
        )

    def _read_stderr(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            while data := self._channel.recv_stderr(4096):
                self._tail.feed(data)
