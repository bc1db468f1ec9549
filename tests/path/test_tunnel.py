"""A tunnel between two ends of this process: real sockets, and frames that are carried as the command line carries them."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from voltool.agent.path.tunnel import Tunnel
from voltool.errors import AgentError
from voltool.wire import tunnel
from voltool.wire.tunnel import BYTES, CLOSE, MAX_PIECE, OPEN, WINDOW, WINDOW_SIZE, TunnelFrame

_PATIENCE = 20.0


class Pair:
    """``inside`` ends at the server ``serve`` of each connection."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.carried = 0
        self._serve = serve
        self._frames: queue.SimpleQueue[tuple[Tunnel, bytes] | None] = queue.SimpleQueue()
        self.entry = Tunnel(lambda frame: self._frames.put((self.exit, frame)))
        self.exit = Tunnel(lambda frame: self._frames.put((self.entry, frame)), self._connect)
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()

    def _connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _carry(self) -> None:
        while (carried := self._frames.get()) is not None:
            end, frame = carried
            self.carried += len(frame)
            end.take(frame)

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(_PATIENCE)
        self.entry.begin(theirs)
        return ours

    def close(self) -> None:
        self._frames.put(None)
        self._carrier.join()
        for end in (self.entry, self.exit):
            end.finish()


def echo(connection: socket.socket) -> None:
    """Until the other side ends it."""
    with connection, contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            connection.sendall(data)


@pytest.fixture
def echoing() -> Iterator[Pair]:
    made = Pair(echo)
    yield made
    made.close()


def receive(connection: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        data = connection.recv(length - len(parts))
        assert data, "it ended early"
        parts += data
    return bytes(parts)


def test_what_goes_in_comes_back_and_many_windows_of_it(echoing: Pair) -> None:
    content = os.urandom(3 * WINDOW_SIZE + 17)
    with echoing.connect() as connection:
        sender = threading.Thread(target=connection.sendall, args=(content,))
        sender.start()
        assert receive(connection, len(content)) == content
        sender.join()


def test_one_that_is_not_read_holds_up_no_other_and_costs_a_window() -> None:
    reading = threading.Event()

    def serve(connection: socket.socket) -> None:
        if connection.recv(1) == b"s":
            reading.wait(_PATIENCE)
        echo(connection)

    pair = Pair(serve)
    with pair.connect() as stalled, pair.connect() as other:
        stalled.sendall(b"s")
        stalled.settimeout(0)
        pushed, quiet = 0, 0
        while quiet < 20:
            try:
                pushed += stalled.send(bytes(MAX_PIECE))
                quiet = 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.01)
        other.sendall(b".still here")
        assert receive(other, 10) == b"still here"
        assert WINDOW_SIZE < pair.carried < 2 * WINDOW_SIZE
        reading.set()
        stalled.settimeout(_PATIENCE)
        assert receive(stalled, pushed) == bytes(pushed)
    pair.close()


def test_what_ends_at_one_end_ends_at_the_other_after_its_last_byte() -> None:
    gone = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.sendall(b"last words")
            if connection.recv(1):
                return
            gone.set()

    pair = Pair(serve)
    with pair.connect() as connection:
        assert receive(connection, 10) == b"last words"
    assert gone.wait(_PATIENCE)
    with pair.connect() as connection:
        connection.sendall(b"x")
        assert receive(connection, 10) == b"last words"
        assert connection.recv(1) == b""
    pair.close()


def test_where_nobody_can_be_connected_to_the_connection_ends() -> None:
    sent: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def refuse() -> socket.socket:
        raise ConnectionRefusedError

    exit_ = Tunnel(sent.put, refuse)
    exit_.take(tunnel.encode(OPEN, 1))
    assert tunnel.decode(sent.get(timeout=_PATIENCE)) == TunnelFrame(CLOSE, 1)
    exit_.finish()
    with pytest.raises(AgentError, match="closed"):
        exit_.send(b"")
    ours, theirs = socket.socketpair()
    with ours:
        exit_.begin(theirs)
        assert ours.recv(1) == b""


def test_who_sends_more_than_he_may_or_opens_what_is_open_is_no_voltool() -> None:
    reading = threading.Event()

    def connect() -> socket.socket:
        reading.wait(_PATIENCE)
        raise ConnectionRefusedError

    exit_ = Tunnel(lambda _frame: None, connect)
    exit_.take(tunnel.encode(OPEN, 7))
    with pytest.raises(AgentError):
        exit_.take(tunnel.encode(OPEN, 7))
    for _ in range(WINDOW_SIZE // MAX_PIECE):
        exit_.take(tunnel.encode(BYTES, 7, bytes(MAX_PIECE)))
    with pytest.raises(AgentError, match="leave"):
        exit_.take(tunnel.encode(BYTES, 7, b"x"))
    exit_.take(tunnel.encode(BYTES, 8, b"to one that is not there"))
    with pytest.raises(AgentError):
        Tunnel(lambda _frame: None).take(tunnel.encode(OPEN, 1))
    reading.set()
    exit_.finish()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x02\0\0\0",
        b"\x02\0\0\0\1",
        b"\x02\0\0\0\1" + bytes(MAX_PIECE + 1),
        b"\x01\0\0\0\1x",
        b"\x03\0\0\0\1\0\0\0\0",
        b"\x03\0\0\0\1\xff\xff\xff\xff",
        b"\x03\0\0\0\1\0\0",
        b"\x05\0\0\0\1",
    ],
)
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(AgentError, match="tunnel"):
        tunnel.decode(frame)


def test_what_is_encoded_is_decoded() -> None:
    assert tunnel.decode(tunnel.encode(BYTES, 3, b"abc")) == TunnelFrame(BYTES, 3, b"abc")
    assert tunnel.decode(tunnel.encode_window(4, 5)) == TunnelFrame(WINDOW, 4, amount=5)
