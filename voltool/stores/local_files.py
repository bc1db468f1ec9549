"""The files of a local store: written under a lock, read at any place, renamed without replacing. Used by local.py alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from typing import Self

from voltool.durable import fsync_directory, rename_new
from voltool.errors import NotFoundError, RefusedError, SpaceError, VoltoolError
from voltool.stores.contract import ASIDE_MOST, Space

#: After so many bytes the free space is looked at again.
_SPACE_INTERVAL = 8 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalWriter:
    """A file that is being written; invisible until published. As a context manager it abandons what was not published."""

    def __init__(self, final: str, partial: str, descriptor: int, min_free_percent: float) -> None:
        self._final = final
        self._partial = partial
        self._descriptor = descriptor
        self._min_free_percent = min_free_percent
        self._until_check = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append. SpaceError when the store is full or would fall below its ``min_free``."""
        self._until_check -= len(data)
        with translated("the dump cannot be written", self._final):
            if self._until_check < 0:
                self._check_space(len(data))
                self._until_check = _SPACE_INTERVAL
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def _check_space(self, ahead: int) -> None:
        space = space_of(os.fstatvfs(self._descriptor))
        floor = space.total * self._min_free_percent / 100
        if space.free - ahead < floor:
            raise SpaceError(
                "the store has no room left",
                where=self._final,
                why=f"{space.free} bytes are free and {self._min_free_percent:g} % ({int(floor)} bytes) are kept free",
                remedy="make room, choose another --store, or lower min_free in the configuration",
            )

    def publish(self) -> None:
        """Make the file durable and let it appear under its name, atomically. RefusedError if the name exists."""
        with translated("the dump cannot be published", self._final):
            os.fsync(self._descriptor)
            rename_no_replace(self._partial, self._final)
            fsync_directory(os.path.dirname(self._final))
        self._close()

    def abandon(self) -> None:
        """Remove what was written. Idempotent; a no-op after publish."""
        if self._descriptor >= 0:
            remove_quietly(self._partial)
            self._close()

    def read_back(self) -> LocalReader:
        """What was written so far; before publish only."""
        with translated("the dump cannot be read back", self._partial):
            return LocalReader(self._partial)

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.abandon()


class LocalReader:
    """Random access to a published file; ``size`` in bytes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes, fewer only at the end of the file. Thread-safe (pread has no position)."""
        parts = []
        with translated("the dump cannot be read", self._path):
            while length > 0:
                part = os.pread(self._descriptor, length, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def make_locked(directory: str, prefix: str, base: str) -> tuple[str, int]:
    """A new file with a name of its own, locked by us.

    A sweep may lock and remove it between its creation and our lock; then another one is made.
    """
    while True:
        path = os.path.join(directory, f"{prefix}{base}-{secrets.token_hex(6)}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
        except BlockingIOError:
            pass
        except OSError:
            remove_quietly(path)
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_if_unlocked(path: str) -> bool:
    """Remove ``path`` unless its owner lives; whether it was removed (or was gone already)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A writer may have published between our open and our lock: then the name is gone and nothing is removed.
        remove_quietly(path)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def names_in(directory: str, prefix: str) -> list[str]:
    """The paths in ``directory`` whose names begin with ``prefix``; none where there is no directory."""
    try:
        return [entry.path for entry in os.scandir(directory) if entry.name.startswith(prefix)]
    except FileNotFoundError:
        return []


def rename_no_replace(partial: str, final: str) -> None:
    """Rename without ever replacing."""
    try:
        rename_new(partial, final)
    except FileExistsError:
        raise exists(final) from None


def read_small(path: str) -> bytes:
    """A note of at most `ASIDE_MOST` bytes. Raises OSError, FileNotFoundError; VoltoolError where it is no file, or too long."""
    descriptor = os.open(
        path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    )  # a pipe would keep us waiting
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise VoltoolError(
                "a note in the store cannot be read", where=ascii(path)[1:-1], why="it is not a regular file"
            )
        if status.st_size > ASIDE_MOST:
            raise too_large(ascii(path)[1:-1], status.st_size)
        return file.read(ASIDE_MOST)


def remove_quietly(path: str) -> None:
    """Remove what nobody waits for."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def space_of(status: os.statvfs_result) -> Space:
    """What statvfs(3) says, in bytes."""
    return Space(total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize)


def pinned(path: str) -> RefusedError:
    """The error of dropping a dump that is in use."""
    return RefusedError(
        "a dump that is in use cannot be dropped",
        where=ascii(path)[1:-1],
        why="somebody restores, verifies or builds on it",
        remedy="again when that is done",
    )


def too_large(where: str, size: int) -> VoltoolError:
    """The error of a note that nobody of us wrote."""
    return VoltoolError(
        "a note in the store cannot be read", where=where, why=f"it is {size} bytes long, and voltool's are small",
        remedy="look at it, and remove it: the next dump writes it anew",
    )  # fmt: skip


def exists(path: str) -> RefusedError:
    """The error of a name that is taken."""
    return RefusedError(
        "a dump of that name exists already", where=ascii(path)[1:-1], remedy="voltool dumps, to see it"
    )


@contextlib.contextmanager
def translated(what: str, path: str) -> Iterator[None]:
    """Foreign exceptions become ours: the adapter's edge."""
    where = ascii(path)[1:-1]
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno == errno.ENOENT:
            raise NotFoundError(what, where=where, why=why, remedy="voltool dumps, to see what is there") from None
        if error.errno in _FULL:
            remedy = "make room, or choose another --store"
            raise SpaceError("the store is full", where=where, why=why, remedy=remedy) from None
        remedy = "check the store's directory: its owner, its mount, its disk"
        raise VoltoolError(what, where=where, why=why, remedy=remedy) from None
