"""A tunnel: connections between two hosts that cannot reach each other, carried by the command line, which sees only ciphertext.

It is for a lazy replica. At one end, the *entry*, its host listens on its own loopback; the other end, the *exit*, connects to
the process there that serves the files. TLS goes from the one process to the other: neither the agents nor the command line have
its keys. Data frames carry what is encoded here, and the command line passes them on as they are; messages begin and end it. No
I/O here, nothing is trusted. Part of what is shipped to servers.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Union

from voltool.errors import AgentError
from voltool.frozen import dataclass

#: What a frame is: a connection was made at the entry; bytes of one; so many bytes more may be sent; it has ended.
OPEN = 1
BYTES = 2
WINDOW = 3
CLOSE = 4

#: kind, number of the connection; then bytes, or how many
_HEAD = struct.Struct(">BI")
HEAD_SIZE = _HEAD.size
assert HEAD_SIZE == 5
_AMOUNT = struct.Struct(">I")
assert _AMOUNT.size == 4

#: Bytes of one connection that may be under way in one direction: who sends more without leave is no voltool.
WINDOW_SIZE = 1 << 20
#: A frame carries at most this, so that no connection keeps another waiting for long.
MAX_PIECE = 64 << 10
MOST_STREAMS = 64

_Buffer = Union[bytes, bytearray, memoryview]


@dataclass(frozen=True)
class ListenTunnel:
    """A step of `ReplicaIn`: wait for connections on the loopback; they get no answer before `EnterTunnel`. It ends with the
    connection to the command line. Answered by `TunnelListening`; BusyError where another command line does it already."""


@dataclass(frozen=True)
class TunnelListening:
    """The port on 127.0.0.1."""

    port: int


@dataclass(frozen=True)
class EnterTunnel:
    """What connects to the port of `ListenTunnel` goes into the tunnel: data frames, both ways. Meanwhile the host reports how
    far the replica is, and says `TunnelOver` once. Until `EndTunnel`; answered by `Done`."""

    uuid: str
    replica_id: str


@dataclass(frozen=True)
class LeaveTunnel:
    """What comes through the tunnel is connected to the process that serves files to that replica (`ServeFiles`), and to nothing
    else. Until `EndTunnel`; answered by `Done`. NotFoundError where nothing is served to it."""

    replica_id: str


@dataclass(frozen=True)
class TunnelOver:
    """The tunnel is needed no more: the replica is full; else ``why`` not."""

    why: str = ""


@dataclass(frozen=True)
class EndTunnel:
    """All connections end."""


class TunnelFrame(NamedTuple):
    """``data`` of BYTES, ``amount`` of WINDOW."""

    kind: int
    stream: int
    data: bytes = b""
    amount: int = 0


def encode(kind: int, stream: int, data: _Buffer = b"") -> bytes:
    """A frame; ``data`` for BYTES alone."""
    assert len(data) <= MAX_PIECE
    return b"".join((_HEAD.pack(kind, stream), data))


def encode_window(stream: int, amount: int) -> bytes:
    """A frame of kind WINDOW."""
    return _HEAD.pack(WINDOW, stream) + _AMOUNT.pack(amount)


def decode(frame: bytes) -> TunnelFrame:
    """AgentError for what nobody of us sends."""
    if len(frame) < HEAD_SIZE:
        raise _impossible()
    kind, stream = _HEAD.unpack_from(frame)
    rest = frame[HEAD_SIZE:]
    if kind == BYTES and 0 < len(rest) <= MAX_PIECE:
        return TunnelFrame(kind, stream, rest)
    if kind == WINDOW and len(rest) == _AMOUNT.size:
        (amount,) = _AMOUNT.unpack(rest)
        if 0 < amount <= WINDOW_SIZE:
            return TunnelFrame(kind, stream, amount=amount)
    if kind in (OPEN, CLOSE) and not rest:
        return TunnelFrame(kind, stream)
    raise _impossible()


def _impossible() -> AgentError:
    return AgentError("the connection carries something that is not voltool's tunnel")
