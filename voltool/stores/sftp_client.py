"""What an SFTP server can be asked for, as our store needs it: names as bytes, many requests under way at once, OpenSSH's
extensions. Knows nothing of stores; one thread at a time (`sftp_link.SftpLink` sees to that).

Sources: draft-ietf-secsh-filexfer-02 (version 3), OpenSSH's PROTOCOL, section 4.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import paramiko
from paramiko import sftp
from paramiko.message import Message

from voltool.stores.sftp_wire import Pending, SftpStatus, SftpWire

#: What every server takes and gives in one request, in bytes; `limits@openssh.com` may allow more.
_SMALL_BLOCK = 32 << 10
#: No more than that in one, whatever the server allows: its packets (256 KiB at OpenSSH) also have a head.
_LARGE_BLOCK = 255 << 10
#: So much may be under way at once, in bytes and in requests: below the window of the channel.
_AHEAD = 6 << 20
_AT_ONCE = 64

FSYNC = b"fsync@openssh.com"
HARDLINK = b"hardlink@openssh.com"
POSIX_RENAME = b"posix-rename@openssh.com"
STATVFS = b"statvfs@openssh.com"
_LIMITS = b"limits@openssh.com"
_STATVFS_REPLY = struct.Struct(">11Q")

NO_SUCH_FILE = sftp.SFTP_NO_SUCH_FILE
DENIED = sftp.SFTP_PERMISSION_DENIED
FAILURE = sftp.SFTP_FAILURE
UNSUPPORTED = sftp.SFTP_OP_UNSUPPORTED


@dataclass(frozen=True)
class Entry:
    """A name in a directory and what lstat(2) says of it; whole seconds, as the protocol has them."""

    name: bytes
    mode: int
    size: int
    mtime: int


@dataclass(frozen=True)
class FileSystem:
    """Bytes of a file system: all, and free to us."""

    total: int
    free: int


@dataclass(eq=False)
class PendingRead(Pending):
    """A read under way of ``length`` bytes from ``offset``; ``starts``: where each request reads."""

    offset: int = 0
    length: int = 0
    starts: dict[int, tuple[int, int]] = field(default_factory=dict)


class SftpClient(SftpWire):
    """What an SFTP server does for us. Raises what `SftpWire` does."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self._read_block, self._write_block = self._ask_limits()

    def _ask_limits(self) -> tuple[int, int]:
        if _LIMITS not in self.extensions:
            return _SMALL_BLOCK, _SMALL_BLOCK
        message = self._ask(sftp.CMD_EXTENDED, _LIMITS)
        message.get_int64()
        read, write = message.get_int64(), message.get_int64()
        return tuple(min(limit, _LARGE_BLOCK) if limit >= _SMALL_BLOCK else _SMALL_BLOCK for limit in (read, write))  # type: ignore[return-value]

    # ------------------------------------------------------------------------------------------------------- files

    def open_file(self, path: bytes, flags: int) -> bytes:
        """A handle; a new file is for its owner alone."""
        attributes = paramiko.SFTPAttributes()
        if flags & sftp.SFTP_FLAG_CREATE:
            attributes.st_mode = 0o600
        return self._ask(sftp.CMD_OPEN, path, flags, attributes).get_binary()

    def open_to_read(self, path: bytes) -> bytes:
        """A handle for reading."""
        return self.open_file(path, sftp.SFTP_FLAG_READ)

    def create(self, path: bytes) -> bytes:
        """A handle for writing a file that must not exist."""
        return self.open_file(path, sftp.SFTP_FLAG_WRITE | sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_EXCL)

    def create_anew(self, path: bytes) -> bytes:
        """A handle for writing a file; what was in it is gone."""
        return self.open_file(path, sftp.SFTP_FLAG_WRITE | sftp.SFTP_FLAG_CREATE | sftp.SFTP_FLAG_TRUNC)

    def close_handle(self, handle: bytes) -> None:
        """Close a file or a directory."""
        self._ask(sftp.CMD_CLOSE, handle)

    def start_read(self, handle: bytes, offset: int, length: int) -> PendingRead:
        """Ask for ``length`` bytes (at most `_AHEAD` at once) without waiting for them."""
        pending = PendingRead(offset=offset, length=length)
        for at in range(offset, offset + length, self._read_block):
            size = min(self._read_block, offset + length - at)
            number = self._start(pending, size, sftp.CMD_READ, handle, sftp.int64(at), size)
            pending.starts[number] = (at, size)
        return pending

    def finish_read(self, handle: bytes, pending: PendingRead) -> bytes:
        """What was asked for; fewer bytes only where the file ends."""
        data = bytearray(pending.length)
        end = 0
        for number in list(pending.starts):
            at, size = pending.starts[number]
            while number not in pending.replies:
                self._receive()
            while size > 0:
                piece = self._data(*pending.replies.pop(number))[:size]
                if not piece:
                    break
                data[at - pending.offset : at - pending.offset + len(piece)] = piece
                at, size = at + len(piece), size - len(piece)
                end = max(end, at - pending.offset)
                if size > 0:  # fewer than asked for: allowed, and not yet the end
                    number = self._start(pending, size, sftp.CMD_READ, handle, sftp.int64(at), size)  # noqa: PLW2901
                    while number not in pending.replies:
                        self._receive()
        return bytes(memoryview(data)[:end])

    def read(self, handle: bytes, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, fewer only at the end of the file."""
        parts = []
        for at in range(offset, offset + length, _AHEAD):
            size = min(_AHEAD, offset + length - at)
            part = self.finish_read(handle, self.start_read(handle, at, size))
            parts.append(part)
            if len(part) < size:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _data(self, kind: int, message: Message) -> bytes:
        if kind == sftp.CMD_STATUS:
            try:
                self._convert_status(message)
            except SftpStatus as status:
                if status.code != sftp.SFTP_EOF:
                    raise
            return b""
        return message.get_binary()

    def write(self, handle: bytes, offset: int, data: memoryview, pending: Pending) -> None:
        """Send ``data``; returns before all of it is confirmed. What the server refused of earlier data is raised here."""
        for at in range(0, len(data), self._write_block):
            block = bytes(data[at : at + self._write_block])
            self._start(pending, len(block), sftp.CMD_WRITE, handle, sftp.int64(offset + at), block)
            while pending.bytes > _AHEAD:
                self._receive()
        self._check_written(pending)

    def write_now(self, handle: bytes, data: bytes) -> None:
        """Write a small file's only bytes, and wait for the confirmation."""
        pending = Pending()
        self.write(handle, 0, memoryview(data), pending)
        self.flush(pending)

    def flush(self, pending: Pending) -> None:
        """Wait until everything that was sent is confirmed."""
        while pending.lengths:
            self._receive()
        self._check_written(pending)

    def _check_written(self, pending: Pending) -> None:
        while pending.replies:
            _number, (_kind, message) = pending.replies.popitem()
            self._convert_status(message)

    def fsync(self, handle: bytes) -> None:
        """Make a file durable on the server, where that is offered (`extensions`): whoever needs to know asks before."""
        if FSYNC in self.extensions:
            self._extended(FSYNC, handle)

    # ------------------------------------------------------------------------------------------------------- names

    def entry(self, path: bytes) -> Entry | None:
        """What lies at ``path`` (links are not followed); None where nothing does."""
        try:
            message = self._ask(sftp.CMD_LSTAT, path)
        except SftpStatus as status:
            if status.code != NO_SUCH_FILE:
                raise
            return None
        return _entry(os.path.basename(path), message)

    def make_directory(self, path: bytes) -> None:
        """Make ``path`` and its missing parents, for their owner alone."""
        if path in (b"", b"/") or self._is_directory(path):
            return
        self.make_directory(os.path.dirname(path))
        attributes = paramiko.SFTPAttributes()
        attributes.st_mode = 0o700
        try:
            self._ask(sftp.CMD_MKDIR, path, attributes)
        except SftpStatus:
            if not self._is_directory(path):  # somebody else was faster
                raise

    def _is_directory(self, path: bytes) -> bool:
        try:
            message = self._ask(sftp.CMD_STAT, path)
        except SftpStatus as status:
            if status.code != NO_SUCH_FILE:
                raise
            return False
        return _entry(b"", message).mode & 0o170000 == 0o040000

    def remove_file(self, path: bytes) -> bool:
        """Remove a file; False where there was none."""
        try:
            self._ask(sftp.CMD_REMOVE, path)
        except SftpStatus as status:
            if status.code != NO_SUCH_FILE:
                raise
            return False
        return True

    def set_mtime(self, path: bytes, seconds: int) -> None:
        """Set both times."""
        attributes = paramiko.SFTPAttributes()
        attributes.st_atime = attributes.st_mtime = seconds
        self._ask(sftp.CMD_SETSTAT, path, attributes)

    def rename_over(self, old: bytes, new: bytes) -> None:
        """Rename and replace, atomically. A server without that: what is in the way is removed first."""
        try:
            self._extended(POSIX_RENAME, old, new)
        except SftpStatus as status:
            if status.code != UNSUPPORTED:
                raise
            self.remove_file(new)
            self.rename_plain(old, new)

    def rename_plain(self, old: bytes, new: bytes) -> None:
        """The protocol's own rename: an error where ``new`` exists (draft, section 6.5; not every server keeps to it)."""
        self._ask(sftp.CMD_RENAME, old, new)

    def link(self, old: bytes, new: bytes) -> None:
        """Give a file one more name, which never replaces anything; SftpStatus `UNSUPPORTED` where it is not offered."""
        self._extended(HARDLINK, old, new)

    def file_system(self, path: bytes) -> FileSystem | None:
        """The file system that ``path`` lies on; None where the server does not tell."""
        if STATVFS not in self.extensions:
            return None
        values = _STATVFS_REPLY.unpack(self._ask(sftp.CMD_EXTENDED, STATVFS, path).get_remainder()[:88])
        return FileSystem(values[2] * values[1], values[4] * values[1])

    def _extended(self, name: bytes, *arguments: object) -> None:
        if name not in self.extensions:
            raise SftpStatus(UNSUPPORTED, "the server does not offer it")
        self._ask(sftp.CMD_EXTENDED, name, *arguments)

    # ------------------------------------------------------------------------------------------------- directories

    def directories(self, paths: Sequence[bytes]) -> Iterator[tuple[bytes, list[Entry]]]:
        """The entries of many directories, asked for together; one that is not there has none."""
        opened = self._many((sftp.CMD_OPENDIR, path) for path in paths)
        handles = {}
        for path, (kind, message) in zip(paths, opened, strict=True):
            if kind == sftp.CMD_HANDLE:
                handles[path] = message.get_binary()
            else:
                self._unless_missing(message)
        found: dict[bytes, list[Entry]] = {path: [] for path in handles}
        reading = dict(handles)
        while reading:
            replies = self._many((sftp.CMD_READDIR, handle) for handle in reading.values())
            for path, (kind, message) in zip(list(reading), replies, strict=True):
                if kind == sftp.CMD_NAME:
                    found[path] += _names(message)
                else:
                    del reading[path]
                    self._data(kind, message)
        self._many((sftp.CMD_CLOSE, handle) for handle in handles.values())
        return iter(found.items())

    def _unless_missing(self, message: Message) -> None:
        try:
            self._convert_status(message)
        except SftpStatus as status:
            if status.code != NO_SUCH_FILE:
                raise

    def _many(self, requests: Iterable[tuple[int, bytes]]) -> list[tuple[int, Message]]:
        pending = Pending()
        numbers = []
        for kind, argument in requests:
            numbers.append(self._start(pending, 1, kind, argument))
            while len(pending.lengths) >= _AT_ONCE:
                self._receive()
        while pending.lengths:
            self._receive()
        return [pending.replies[number] for number in numbers]


def _entry(name: bytes, message: Message) -> Entry:
    attributes: Any = paramiko.SFTPAttributes()
    attributes._unpack(message)  # noqa: SLF001 - paramiko's names of files are text
    return Entry(name, attributes.st_mode or 0, attributes.st_size or 0, attributes.st_mtime or 0)


def _names(message: Message) -> list[Entry]:
    entries = []
    for _ in range(message.get_int()):
        name = message.get_binary()
        message.get_binary()
        entries.append(_entry(name, message))
    return [entry for entry in entries if entry.name not in (b".", b"..") and b"/" not in entry.name]
