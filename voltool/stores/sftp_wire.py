"""paramiko's SFTP client with what it lacks: it tells the server's extensions and status codes, and copies less.

What is used of it below its public methods is in this file. Source: paramiko sftp.py and sftp_client.py (3.4 to 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import paramiko
from paramiko import sftp
from paramiko.message import Message


class SftpStatus(Exception):  # noqa: N818 - the protocol's word for it
    """The server refused a request: ``code`` of the protocol, and its own words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text if text.isprintable() else ascii(text)


@dataclass(eq=False)
class Pending:
    """Requests under way, by their numbers; paramiko hands their replies to ``_async_response``."""

    lengths: dict[int, int] = field(default_factory=dict)
    replies: dict[int, tuple[int, Message]] = field(default_factory=dict)
    bytes: int = 0

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        self.bytes -= self.lengths.pop(number, 0)
        self.replies[number] = (kind, message)


class SftpWire(paramiko.SFTPClient):
    """A connection to an SFTP server. ``extensions`` are those that it offers.

    Raises SftpStatus for what the server refuses; EOFError, OSError, SSHException where the connection is broken.
    """

    extensions: frozenset[bytes] = frozenset()
    _unread: memoryview = memoryview(b"")

    def _send_version(self) -> int:
        base: Any = self
        message = Message()
        message.add_int(3)
        base._send_packet(sftp.CMD_INIT, message)  # noqa: SLF001 - paramiko has no interface for it
        kind, data = base._read_packet()  # noqa: SLF001 - the same
        if kind != sftp.CMD_VERSION:
            raise paramiko.SSHException("the server does not speak SFTP")
        message = Message(data)
        version = message.get_int()
        offered = set()
        while message.get_remainder():
            offered.add(message.get_binary())
            message.get_binary()
        self.extensions = frozenset(offered)
        return version

    def _write_all(self, out: bytes) -> None:
        connection: Any = self.sock
        view = memoryview(out)
        while view:
            sent = connection.send(view)
            if sent <= 0:
                raise EOFError
            view = view[sent:]

    def _read_all(self, n: int) -> bytes:
        connection: Any = self.sock
        out = bytearray()
        while len(out) < n:
            if not self._unread:
                piece = connection.recv(1 << 20)
                if not piece:
                    raise EOFError
                self._unread = memoryview(piece)
            taken = self._unread[: n - len(out)]
            out += taken
            self._unread = self._unread[len(taken) :]
        return bytes(out)

    def _log(self, level: int, msg: str | list[str], *args: object) -> None:
        """Nothing: it asks the channel for its name, and a channel may be a command's pipes."""

    def _convert_status(self, msg: Message) -> None:
        code = msg.get_int()
        if code != sftp.SFTP_OK:
            raise SftpStatus(code, msg.get_binary().decode(errors="replace"))

    def _ask(self, kind: int, *arguments: object) -> Message:
        base: Any = self
        message: Message = base._request(kind, *arguments)[1]  # noqa: SLF001 - its public methods take no bytes
        return message

    def _start(self, pending: Pending, length: int, kind: int, *arguments: object) -> int:
        base: Any = self
        number: int = base._async_request(pending, kind, *arguments)  # noqa: SLF001 - as above
        pending.lengths[number] = length
        pending.bytes += length
        return number

    def _receive(self) -> None:
        """Take one reply off the connection, whose ever it is."""
        base: Any = self
        base._read_response()  # noqa: SLF001 - as above
