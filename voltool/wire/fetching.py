"""The bytes of the fetch protocol: how the host of a lazy replica asks for parts of files, and what it gets.

docs/wire-protocol.md describes them. The asker sends *wants* (a path below the root, an offset, a length), many in a frame; who
serves answers each of them, in order, in as many frames as it likes: with the bytes (fewer where the file ends before), or
why not. Neither side keeps anything of the other between two frames. What is compressed, and how, is the caller's: `codec` is a
number of `dumpfile.codec`. No I/O here, nothing is trusted, and nothing is allocated for a claim. Ships to servers.
"""

from __future__ import annotations

import struct
from typing import Iterable, Iterator, List, NamedTuple, Sequence, Tuple, Union

from voltool.errors import AgentError

VERSION = 1

WANTS = 1
ANSWERS = 2

#: What an answer is: bytes of the file; there is no regular file of that name; it cannot be read (why, as text).
FOUND = 0
ABSENT = 1
UNREADABLE = 2

#: version, kind, codec, 0, items, stored length, length before compression
_HEAD = struct.Struct(">BBBBIII")
HEAD_SIZE = _HEAD.size
assert HEAD_SIZE == 16
#: length of the path, offset, length; then the path
_WANT = struct.Struct(">IQI")
assert _WANT.size == 16
#: what it is, length; then so many bytes
_ANSWER = struct.Struct(">BI")
assert _ANSWER.size == 5

#: Wants in one frame, bytes that they may ask for together, bytes of one of them, bytes of a path.
MAX_WANTS = 4096
MAX_ASKED = 16 << 20
MAX_RANGE = 4 << 20
MAX_PATH = 1 << 20
#: No payload is larger, compressed or not (a frame of `dumpfile` has the same limit).
MAX_PAYLOAD = 8 << 20
_MAX_OFFSET = (1 << 63) - 1
_MAX_WHY = 200

_Buffer = Union[bytes, bytearray, memoryview]


class Want(NamedTuple):
    """``length`` bytes at ``offset`` of the regular file ``path``, relative to the tree's root."""

    path: bytes
    offset: int
    length: int


class Answer(NamedTuple):
    """What became of a want: ``kind`` is FOUND, ABSENT or UNREADABLE; ``data`` the bytes, or a text for people."""

    kind: int
    data: bytes


class FetchFrame(NamedTuple):
    """One frame off the wire; ``stored`` are its bytes as they came, ``raw`` the length they should have decompressed."""

    kind: int
    items: int
    codec: int
    stored: bytes
    raw: int


def encode_head(kind: int, items: int, codec: int, stored: int, raw: int) -> bytes:
    """The bytes before a payload of ``stored`` bytes."""
    return _HEAD.pack(VERSION, kind, codec, 0, items, stored, raw)


class FetchDecoder:
    """Bytes in, frames of one ``kind`` out. Raises AgentError on a frame that no voltool of this version sends."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._pieces: List[bytes] = []
        self._length = 0
        self._needed = HEAD_SIZE
        self._head: Tuple[int, int, int, int] = (0, 0, 0, 0)
        self._in_payload = False

    @property
    def between_frames(self) -> bool:
        """Whether nothing of a next frame has come: where a connection may end."""
        return not self._length and not self._in_payload

    def feed(self, data: bytes) -> Iterator[FetchFrame]:
        """Take what was received, yield what is complete."""
        self._pieces.append(data)
        self._length += len(data)
        while self._length >= self._needed:
            taken = self._take(self._needed)
            if self._in_payload:
                items, codec, _stored, raw = self._head
                self._in_payload, self._needed = False, HEAD_SIZE
                yield FetchFrame(self._kind, items, codec, taken, raw)
            else:
                self._head = self._check(taken)
                self._in_payload, self._needed = True, self._head[2]

    def _check(self, head: bytes) -> Tuple[int, int, int, int]:
        version, kind, codec, rest, items, stored, raw = _HEAD.unpack(head)
        if version != VERSION:
            raise AgentError(
                "the other side speaks another version of the fetch protocol", why=f"{version}, here {VERSION}",
                remedy="voltool replica sync NAME gives both sides the same version",
            )  # fmt: skip
        if kind != self._kind or rest or not 0 < items <= MAX_WANTS or stored > MAX_PAYLOAD or raw > MAX_PAYLOAD:
            raise _impossible()
        return items, codec, stored, raw

    def _take(self, length: int) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = [data[length:]] if len(data) > length else []
        self._length -= length
        return data[:length]


def encode_wants(wants: Sequence[Want]) -> bytes:
    """The payload of a WANTS frame; AssertionError beyond the limits, which are for the caller to keep (`fits`)."""
    assert 0 < len(wants) <= MAX_WANTS
    parts: List[bytes] = []
    for path, offset, length in wants:
        assert 0 < len(path) <= MAX_PATH
        assert 0 <= offset <= _MAX_OFFSET
        assert 0 < length <= MAX_RANGE
        parts += [_WANT.pack(len(path), offset, length), path]
    return b"".join(parts)


def decode_wants(payload: bytes, items: int) -> List[Want]:
    """The wants of a frame. Raises AgentError: nothing in them is trusted."""
    wants: List[Want] = []
    at = asked = 0
    for _number in range(items):
        if at + _WANT.size > len(payload):
            raise _impossible()
        path_length, offset, length = _WANT.unpack_from(payload, at)
        at += _WANT.size
        path = payload[at : at + path_length]
        at += path_length
        asked += length
        if not 0 < path_length <= MAX_PATH or at > len(payload) or b"\0" in path:
            raise _impossible()
        if offset > _MAX_OFFSET or not 0 < length <= MAX_RANGE or asked > MAX_ASKED:
            raise _impossible()
        wants.append(Want(path, offset, length))
    if at != len(payload):
        raise _impossible()
    return wants


def batches(wants: Iterable[Want], most: int = MAX_WANTS, size: int = MAX_ASKED) -> Iterator[List[Want]]:
    """Wants in groups that fit one frame each, of at most ``most`` wants for ``size`` bytes."""
    batch: List[Want] = []
    asked = carried = 0
    for want in wants:
        needed = _WANT.size + len(want.path)
        if batch and (len(batch) >= most or asked + want.length > size or carried + needed > MAX_PAYLOAD):
            yield batch
            batch, asked, carried = [], 0, 0
        batch.append(want)
        asked += want.length
        carried += needed
    if batch:
        yield batch


def encode_answer(kind: int, data: _Buffer) -> List[_Buffer]:
    """The parts of an answer's bytes in the payload of an ANSWERS frame."""
    return [_ANSWER.pack(kind, len(data)), data]


def encode_refusal(kind: int, why: str) -> List[_Buffer]:
    """The same of an answer without bytes of a file."""
    return encode_answer(kind, why.encode(errors="replace")[:_MAX_WHY])


def decode_answers(payload: bytes, wants: Sequence[Want]) -> List[Answer]:
    """The answers to exactly these wants. Raises AgentError: more bytes than were asked for are refused."""
    answers: List[Answer] = []
    at = 0
    for want in wants:
        if at + _ANSWER.size > len(payload):
            raise _impossible()
        kind, length = _ANSWER.unpack_from(payload, at)
        at += _ANSWER.size
        limit = want.length if kind == FOUND else _MAX_WHY
        if kind > UNREADABLE or length > limit or at + length > len(payload):
            raise _impossible()
        answers.append(Answer(kind, payload[at : at + length]))
        at += length
    if at != len(payload):
        raise _impossible()
    return answers


def _impossible() -> AgentError:
    return AgentError("the connection carries something that is not voltool's fetch protocol")
