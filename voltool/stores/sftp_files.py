"""The files of an SFTP store: written ahead of the confirmations, read ahead of the questions. Used by sftp.py alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self, TypeVar

from voltool.errors import SpaceError, UnreachableError, VoltoolError
from voltool.stores.contract import Space
from voltool.stores.sftp_client import FAILURE, PendingRead, SftpClient
from voltool.stores.sftp_link import SftpLink, translated
from voltool.stores.sftp_wire import Pending, SftpStatus

T = TypeVar("T")

#: Small writes travel together, in bytes.
_TOGETHER = 512 << 10
#: After so many bytes the free space is looked at again.
_SPACE_INTERVAL = 8 << 20
#: What is fetched at once, in bytes: first, and where it turns out that one piece is read after the other.
_FIRST_WINDOW = 64 << 10
_LARGEST_WINDOW = 4 << 20
#: Below so many free bytes a refused write was refused for want of room.
_NEARLY_FULL = 1 << 20


class SftpWriter:
    """A file that is being written at ``partial``. ``name_it`` gives it its name; ``held`` ends with it (the
    lease that keeps it from being swept)."""

    def __init__(
        self,
        link: SftpLink,
        partial: bytes,
        where: str,
        *,
        space: Callable[[], Space | None],
        min_free_percent: float,
        name_it: Callable[[SftpClient, bytes], None],
        held: ExitStack,
    ) -> None:
        self._link = link
        self._partial = partial
        self._where = where
        self._space = space
        self._min_free_percent = min_free_percent
        self._name_it = name_it
        self.held = held
        self._pending = Pending()
        self._waiting = bytearray()
        self._offset = 0
        self._until_check = 0
        self._open = True
        self._handle = link.run(lambda client: client.create(partial))
        self._generation = link.generation

    def write(self, data: bytes | memoryview) -> None:
        """Append. SpaceError when the store is full or would fall below its ``min_free``."""
        self._until_check -= len(data)
        if self._until_check < 0:
            self._check_space(len(data))
            self._until_check = _SPACE_INTERVAL
        self._waiting += data
        if len(self._waiting) >= _TOGETHER:
            self._run("the dump cannot be written", self._send)

    def publish(self) -> None:
        """Make the file durable and let it appear under its name, atomically. RefusedError if the name exists."""
        self._run("the dump cannot be written", self._finish)
        self._run("the dump cannot be published", lambda client: self._name_it(client, self._handle))
        self._open = False
        self._leave()

    def abandon(self) -> None:
        """Remove what was written. Idempotent; a no-op after publish."""
        if not self._open:
            return
        self._open = False
        self._leave()

    def read_back(self) -> SftpReader:
        """What was written so far; before publish only."""
        self._run("the dump cannot be written", self._finish)
        with translated("the dump cannot be read back", self._where):
            return SftpReader(self._link, self._partial, self._where)

    def _leave(self) -> None:
        """Remove the partial name; where that cannot be, it is swept when our lease has ended."""
        if self._generation == self._link.generation:
            with contextlib.suppress(SftpStatus, VoltoolError):
                self._link.run(lambda client: client.close_handle(self._handle), again=False)
        with contextlib.suppress(SftpStatus, VoltoolError):
            self._link.run(lambda client: client.remove_file(self._partial))
        self.held.close()

    def _send(self, client: SftpClient) -> None:
        data = bytes(self._waiting)
        self._waiting.clear()
        client.write(self._handle, self._offset, memoryview(data), self._pending)
        self._offset += len(data)

    def _finish(self, client: SftpClient) -> None:
        self._send(client)
        client.flush(self._pending)

    def _run(self, what: str, act: Callable[[SftpClient], T]) -> T:
        def on_our_connection(client: SftpClient) -> T:
            if self._link.generation != self._generation:
                raise UnreachableError(
                    "the connection to the store's host broke while a dump was written", where=self._where,
                    remedy="dump again; what was written is removed by a later run",
                )  # fmt: skip
            return act(client)

        with translated(what, self._where):
            try:
                return self._link.run(on_our_connection, again=False)
            except SftpStatus as status:
                self._raise_if_full(status)
                raise

    def _check_space(self, ahead: int) -> None:
        space = self._space() if self._min_free_percent else None
        if space is not None and space.free - ahead < space.total * self._min_free_percent / 100:
            raise SpaceError(
                "the store has no room left", where=self._where,
                why=f"{space.free} bytes are free and {self._min_free_percent:g} % of {space.total} are kept free",
                remedy="make room, choose another --store, or lower min_free in the configuration",
            )  # fmt: skip

    def _raise_if_full(self, status: SftpStatus) -> None:
        """The protocol has no word for a full disk: whoever wants to know looks at it."""
        space = self._space() if status.code == FAILURE else None
        if space is not None and space.free < _NEARLY_FULL:
            remedy = "make room, or choose another --store"
            raise SpaceError("the store is full", where=self._where, why=status.text, remedy=remedy) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.abandon()


class SftpReader:
    """Random access to a file; ``size`` in bytes. A broken connection is made anew, and the same file opened again."""

    def __init__(self, link: SftpLink, path: bytes, where: str) -> None:
        self._link = link
        self._path = path
        self._where = where
        self._lock = threading.Lock()
        self._open = True
        self._forget()
        self.size, self._mtime, self._handle = link.run(self._open_file)
        self._generation = link.generation

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes, fewer only at the end of the file. Thread-safe."""
        length = max(0, min(length, self.size - offset))
        with self._lock, translated("the dump cannot be read", self._where):
            return self._link.run(lambda client: self._take(client, offset, length)) if length else b""

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._open:
                self._open = False
                self._forget()
                if self._generation == self._link.generation:
                    with contextlib.suppress(SftpStatus, VoltoolError):
                        self._link.run(lambda client: client.close_handle(self._handle), again=False)

    def _open_file(self, client: SftpClient) -> tuple[int, int, bytes]:
        entry = client.entry(self._path)
        if entry is not None and entry.mode & 0o170000 != 0o100000:
            raise VoltoolError(
                "the dump cannot be opened", where=self._where, why="it is not a regular file",
                remedy="look at it in the store, and remove it if it is nobody's",
            )  # fmt: skip
        handle = client.open_to_read(self._path)
        return (entry.size, entry.mtime, handle) if entry is not None else (0, 0, handle)

    def _forget(self) -> None:
        self._start, self._data = 0, memoryview(b"")
        self._ahead: PendingRead | None = None
        self._next = -1
        self._window = _FIRST_WINDOW

    def _take(self, client: SftpClient, offset: int, length: int) -> bytes:
        if self._generation != self._link.generation:
            self._reopen(client)
        parts: list[memoryview] = []
        while length > 0:
            if not self._start <= offset < self._start + len(self._data):
                self._fetch(client, offset, length)
            part = self._data[offset - self._start :][:length]
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        self._next = offset
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def _reopen(self, client: SftpClient) -> None:
        self._forget()
        size, mtime, self._handle = self._open_file(client)
        self._generation = self._link.generation
        if (size, mtime) != (self.size, self._mtime):
            raise VoltoolError(
                "the dump was replaced while it was read", where=self._where, remedy="the same again: voltool verify"
            )

    def _fetch(self, client: SftpClient, offset: int, length: int) -> None:
        """Bytes from ``offset``, and, where somebody reads one piece after the other, the question for those that follow."""
        ahead, self._ahead = self._ahead, None
        in_order = offset in (self._next, self._start + len(self._data))
        if ahead is not None and ahead.offset == offset:
            data = client.finish_read(self._handle, ahead)
        else:
            self._window = min(_LARGEST_WINDOW, self._window * 2) if in_order else _FIRST_WINDOW
            data = client.read(
                self._handle, offset, min(max(self._window, min(length, _LARGEST_WINDOW)), self.size - offset)
            )
        if not data:
            raise VoltoolError(
                "the dump is shorter than it was", where=self._where, why="somebody cut it off while it was read"
            )
        self._start, self._data = offset, memoryview(data)
        following = offset + len(data)
        if in_order and following < self.size:
            self._window = min(_LARGEST_WINDOW, self._window * 2)
            self._ahead = client.start_read(self._handle, following, min(self._window, self.size - following))
