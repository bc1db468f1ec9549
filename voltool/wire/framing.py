"""The framing of the byte stream between CLI and agent; docs/wire-protocol.md describes it.

The agent's first bytes may be preceded by noise (a login banner, a shell profile's echo), so it begins with `SYNC` and a
newline; the decoder of the CLI's side drops everything before. After that, both ways, frames: length of the payload
(4 bytes, big-endian), kind (1 byte), payload. Kind `MESSAGE` is JSON, `DATA` raw bytes of the dump that is being sent,
`BEAT` a sign of life without a payload, which no reader gets to see (`pulse` says when it is missed).
No I/O here. Part of what is shipped to servers.
"""

from __future__ import annotations

import collections
import struct
from typing import Deque, Iterator, List, NamedTuple, Tuple, Union

from voltool.errors import AgentError

SYNC = b"\0voltool-agent\0"
_HEAD = struct.Struct(">IB")
HEAD_SIZE = _HEAD.size

MESSAGE = 1
DATA = 2
BEAT = 3

#: Nothing larger is ever sent; a larger claim means that the other side is not a voltool.
MAX_PAYLOAD = 16 << 20
#: A data frame carries at most this; larger data is split.
DATA_PIECE = 1 << 20
#: How much noise before the sync marker is tolerated.
MAX_NOISE = 1 << 20

_Buffer = Union[bytes, bytearray, memoryview]


class WireFrame(NamedTuple):
    """One frame off the wire."""

    kind: int
    payload: bytes


#: A whole frame of kind `BEAT`.
BEAT_FRAME = _HEAD.pack(0, BEAT)


def encode_frame_head(kind: int, length: int) -> bytes:
    """The 5 bytes before a payload of ``length`` bytes."""
    return _HEAD.pack(length, kind)


def decode_frame_head(head: _Buffer) -> Tuple[int, int]:
    """Kind and payload's length out of `HEAD_SIZE` bytes. AgentError for what nobody of us sends."""
    length, kind = _HEAD.unpack(head)
    if length > MAX_PAYLOAD or kind not in (MESSAGE, DATA, BEAT) or (kind == BEAT and length):
        raise AgentError("the connection carries something that is not voltool's protocol")
    return kind, length


def split_data(data: _Buffer, piece: int = DATA_PIECE) -> Iterator[memoryview]:
    """The payloads of the data frames that carry ``data``, without copies."""
    view = memoryview(data).cast("B")
    for start in range(0, len(view), piece):
        yield view[start : start + piece]


class FrameDecoder:
    """Bytes in, frames out. ``expect_sync``: drop noise up to the marker first and keep it in ``noise``.

    What was read is kept as it came, and each payload is copied once, when it is complete.
    """

    def __init__(self, *, expect_sync: bool) -> None:
        self._pieces: Deque[memoryview] = collections.deque()
        self._length = 0
        self._head: List[int] = []
        self._synced = not expect_sync
        self.noise = b""

    @property
    def synced(self) -> bool:
        """Whether the marker has been seen (always, where none is expected)."""
        return self._synced

    @property
    def between_frames(self) -> bool:
        """Whether nothing of a next frame has been seen: the place where a connection may end."""
        return not self._length and not self._head

    def feed(self, data: bytes) -> Iterator[WireFrame]:
        """Take what was read and yield the frames that are complete. Raises AgentError on an impossible frame."""
        if not self._synced:
            data = self._drop_noise(data)
        if data:
            self._pieces.append(memoryview(data))
            self._length += len(data)
        while True:
            if not self._head:
                if self._length < HEAD_SIZE:
                    return
                self._head = list(decode_frame_head(self._take(HEAD_SIZE)))
            kind, length = self._head
            if self._length < length:
                return
            self._head = []
            payload = self._take(length)
            if kind != BEAT:
                yield WireFrame(kind, payload)

    def _take(self, length: int) -> bytes:
        self._length -= length
        taken: List[memoryview] = []
        while length:
            piece = self._pieces.popleft()
            if len(piece) > length:
                self._pieces.appendleft(piece[length:])
                piece = piece[:length]
            taken.append(piece)
            length -= len(piece)
        return b"".join(taken)

    def _drop_noise(self, data: bytes) -> bytes:
        marker = SYNC + b"\n"
        seen = self.noise + data
        at = seen.find(marker)
        if at < 0:
            self.noise = seen
            if len(seen) > MAX_NOISE:
                raise AgentError("the agent did not start", why="the login shell prints without end")
            return b""
        self.noise = seen[:at]
        self._synced = True
        return seen[at + len(marker) :]
