"""A pure parser of btrfs send streams, version 1: bytes in, commands out. No I/O. Ships to servers.

Knows nothing of trees; `delta` gives the commands their meaning. Checksums are not checked: the stream comes from our own
kernel through a pipe. Source: fs/btrfs/send.h (struct btrfs_stream_header, btrfs_cmd_header, btrfs_tlv_header).
"""

from __future__ import annotations

import enum
import struct
from typing import Dict, Iterator, NamedTuple

MAGIC = b"btrfs-stream\0"
_HEADER = struct.Struct("<13sI")
#: length of the attributes, command, checksum
_COMMAND = struct.Struct("<IHI")
_ATTRIBUTE = struct.Struct("<HH")
_NUMBER = struct.Struct("<Q")
#: Nothing the kernel sends is larger (BTRFS_SEND_BUF_SIZE_V1 is 64 KiB).
_MAX_COMMAND = 1 << 20


class Kind(enum.IntEnum):
    """The commands of version 1 (BTRFS_SEND_C_*)."""

    SUBVOL = 1
    SNAPSHOT = 2
    MKFILE = 3
    MKDIR = 4
    MKNOD = 5
    MKFIFO = 6
    MKSOCK = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    RMDIR = 12
    SET_XATTR = 13
    REMOVE_XATTR = 14
    WRITE = 15
    CLONE = 16
    TRUNCATE = 17
    CHMOD = 18
    CHOWN = 19
    UTIMES = 20
    END = 21
    UPDATE_EXTENT = 22


class Attribute(enum.IntEnum):
    """The attributes that matter here (BTRFS_SEND_A_*)."""

    UUID = 1
    INO = 3
    SIZE = 4
    PATH = 15
    PATH_TO = 16
    PATH_LINK = 17
    FILE_OFFSET = 18
    DATA = 19
    CLONE_LEN = 24


class UnexpectedStream(Exception):  # noqa: N818 - it is no error: the caller compares instead
    """The stream is not what this parser understands for certain; nothing may be concluded from it."""


class Command(NamedTuple):
    """One command: what happens, and its attributes as raw bytes."""

    kind: Kind
    attributes: Dict[int, bytes]

    def path(self, attribute: Attribute = Attribute.PATH) -> bytes:
        """A path, relative to the root, without slashes at its ends."""
        return self._raw(attribute).strip(b"/")

    def number(self, attribute: Attribute) -> int:
        """An integer attribute."""
        raw = self._raw(attribute)
        if len(raw) != _NUMBER.size:
            raise UnexpectedStream(f"attribute {attribute} of {self.kind.name} is no number")
        value: int = _NUMBER.unpack(raw)[0]
        return value

    def data_length(self) -> int:
        """How many bytes a WRITE carries."""
        return len(self._raw(Attribute.DATA))

    def _raw(self, attribute: Attribute) -> bytes:
        try:
            return self.attributes[attribute]
        except KeyError:
            raise UnexpectedStream(f"{self.kind.name} lacks attribute {attribute}") from None


class SendStreamParser:
    """Feed it the stream in pieces of any size. ``complete`` tells whether the END command has come."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False
        self.complete = False

    def feed(self, data: bytes) -> Iterator[Command]:
        """The commands that are whole now. Raises UnexpectedStream."""
        self._buffer += data
        if not self._begun and not self._take_header():
            return
        position = 0
        while len(self._buffer) - position >= _COMMAND.size:
            length, code, _checksum = _COMMAND.unpack_from(self._buffer, position)
            if self.complete or length > _MAX_COMMAND:
                raise UnexpectedStream("the stream goes on after its end or has an absurd length")
            start = position + _COMMAND.size
            if len(self._buffer) - start < length:
                break
            position = start + length
            yield self._command(code, bytes(memoryview(self._buffer)[start:position]))
        del self._buffer[:position]

    def finish(self) -> None:
        """Raise UnexpectedStream unless the stream ended where it should."""
        if not self.complete or self._buffer:
            raise UnexpectedStream("the stream is cut off")

    def _take_header(self) -> bool:
        if len(self._buffer) < _HEADER.size:
            return False
        magic, version = _HEADER.unpack_from(self._buffer)
        if magic != MAGIC or version != 1:
            raise UnexpectedStream(f"not a btrfs send stream of version 1 but {version}")
        del self._buffer[: _HEADER.size]
        self._begun = True
        return True

    def _command(self, code: int, body: bytes) -> Command:
        try:
            kind = Kind(code)
        except ValueError:
            raise UnexpectedStream(f"unknown command {code}") from None
        attributes: Dict[int, bytes] = {}
        position = 0
        while position < len(body):
            if position + _ATTRIBUTE.size > len(body):
                raise UnexpectedStream("an attribute is cut off")
            name, length = _ATTRIBUTE.unpack_from(body, position)
            position += _ATTRIBUTE.size
            if position + length > len(body):
                raise UnexpectedStream("an attribute is cut off")
            attributes[name] = body[position : position + length]
            position += length
        if kind is Kind.END:
            self.complete = True
        return Command(kind, attributes)
