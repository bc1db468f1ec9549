"""The framing of the byte stream between CLI and agent; docs/wire-protocol.md describes it.

The agent's first bytes may be preceded by noise (a login banner, a shell profile's echo), so it begins with `SYNC` and a
newline; the decoder of the CLI's side drops everything before. After that, both ways, frames: length of the payload
(4 bytes, big-endian), kind (1 byte), payload. Kind `MESSAGE` is JSON, `DATA` raw bytes of the dump that is being sent.
No I/O here. Part of what is shipped to servers.
"""

from __future__ import annotations

import struct
from typing import Iterator, NamedTuple

from voltool.errors import AgentError

SYNC = b"\0voltool-agent\0"
_HEAD = struct.Struct(">IB")
HEAD_SIZE = _HEAD.size

MESSAGE = 1
DATA = 2

#: Nothing larger is ever sent; a larger claim means that the other side is not a voltool.
MAX_PAYLOAD = 16 << 20
#: How much noise before the sync marker is tolerated.
MAX_NOISE = 1 << 20


class WireFrame(NamedTuple):
    """One frame off the wire."""

    kind: int
    payload: bytes


def encode_frame_head(kind: int, length: int) -> bytes:
    """The 5 bytes before a payload of ``length`` bytes."""
    return _HEAD.pack(length, kind)


class FrameDecoder:
    """Bytes in, frames out. ``expect_sync``: drop noise up to the marker first and keep it in ``noise``."""

    def __init__(self, *, expect_sync: bool) -> None:
        self._buffer = bytearray()
        self._synced = not expect_sync
        self.noise = b""

    @property
    def synced(self) -> bool:
        """Whether the marker has been seen (always, where none is expected)."""
        return self._synced

    def feed(self, data: bytes) -> Iterator[WireFrame]:
        """Take what was read and yield the frames that are complete. Raises AgentError on an impossible frame."""
        self._buffer += data
        if not self._synced and not self._find_sync():
            return
        position = 0
        size = len(self._buffer)
        while size - position >= HEAD_SIZE:
            length, kind = _HEAD.unpack_from(self._buffer, position)
            if length > MAX_PAYLOAD or kind not in (MESSAGE, DATA):
                raise AgentError("the connection carries something that is not voltool's protocol")
            if size - position - HEAD_SIZE < length:
                break
            start = position + HEAD_SIZE
            position = start + length
            yield WireFrame(kind, bytes(memoryview(self._buffer)[start:position]))
        if position:
            del self._buffer[:position]

    def _find_sync(self) -> bool:
        marker = SYNC + b"\n"
        at = self._buffer.find(marker)
        if at < 0:
            if len(self._buffer) > MAX_NOISE:
                raise AgentError("the agent did not start", why="the login shell prints without end")
            self.noise = bytes(self._buffer)
            return False
        self.noise = bytes(self._buffer[:at])
        del self._buffer[: at + len(marker)]
        self._synced = True
        return True
