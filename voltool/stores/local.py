"""A store that is a directory on this machine. Knows nothing of what is in the files.

A file is written as ``.partial-<name>-<random>`` in its final directory, under an exclusive flock(2) that ends with the
writer, and appears by one rename after fsync. What a dead writer leaves is a partial file that nobody locks: `sweep`
removes it. A pin is a file ``.pin-<name>-<random>`` under the same kind of lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from typing import Self
from urllib.parse import quote

from voltool.durable import fsync_directory, make_directory, remove_file, rename_new
from voltool.errors import NotFoundError, RefusedError, SpaceError, UsageError, VoltoolError
from voltool.stores.contract import Space, StoredFile

_PARTIAL = ".partial-"
_PIN = ".pin-"
#: How the system says that nothing can be written here.
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT})
#: After so many bytes the free space is looked at again.
_SPACE_INTERVAL = 8 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class LocalStore:
    """The store in directory ``root``; see `voltool.stores.contract.Store`.

    Keeps ``min_free_percent`` of the file system free.
    """

    def __init__(self, root: str, *, min_free_percent: float = 0.0) -> None:
        self.root = os.path.abspath(root)
        self.url = "file://" + quote(self.root)
        self._min_free_percent = min_free_percent

    def create(self, name: str) -> LocalWriter:
        """Begin a file; RefusedError at once where the name exists already."""
        final = self._path(name)
        with _translated("the store cannot take a new dump", final):
            make_directory(os.path.dirname(final))
            if os.path.lexists(final):
                raise _exists(final)
            partial, descriptor = _make_locked(os.path.dirname(final), _PARTIAL, os.path.basename(final))
            return LocalWriter(final, partial, descriptor, self._min_free_percent)

    def open(self, name: str) -> LocalReader:
        """Open a published file; NotFoundError."""
        path = self._path(name)
        with _translated("the dump cannot be opened", path):
            return LocalReader(path)

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Published files, sorted by name; other things in the directory (hidden files, links) are passed over."""
        with _translated("the store cannot be listed", self.root):
            found = sorted(self._walk(self.root, ""), key=lambda file: file.name)
        return (file for file in found if file.name.startswith(prefix))

    def _walk(self, directory: str, prefix: str) -> Iterator[StoredFile]:
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(entry.path, f"{prefix}{entry.name}/")
            elif stat.S_ISREG(status.st_mode):
                yield StoredFile(prefix + entry.name, status.st_size, status.st_mtime_ns)

    def remove(self, name: str) -> None:
        """Remove a published file durably; idempotent."""
        path = self._path(name)
        with _translated("the dump cannot be removed", path), contextlib.suppress(FileNotFoundError):
            remove_file(path)

    def space(self) -> Space | None:
        """The file system below the store, also where the store's directory does not exist yet."""
        path = self.root
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        with _translated("the store's file system cannot be looked at", path):
            return _space_of(os.statvfs(path))

    @contextlib.contextmanager
    def pin(self, name: str, purpose: str) -> Iterator[None]:
        """Keep ``name`` from being removed while the context lasts; NotFoundError if it is not there.

        Where nothing can be written (a read-only mount, a full disk, a user who may only read) there is no pin, for a
        dump must be readable there too: who has opened the file keeps it, removed or not.
        """
        path = self._path(name)
        with _translated("the dump cannot be pinned", path), contextlib.ExitStack() as stack:
            try:
                pin, descriptor = _make_locked(os.path.dirname(path), _PIN, os.path.basename(path))
            except OSError as error:
                if error.errno not in _UNWRITABLE:
                    raise
            else:
                stack.callback(os.close, descriptor)
                stack.callback(_remove_quietly, pin)
                with contextlib.suppress(OSError):  # for whoever looks into it; the lock is what holds
                    os.write(descriptor, json.dumps({"purpose": purpose, "pid": os.getpid()}).encode())
            os.stat(path)
            held = stack.pop_all()
        with held:
            yield

    def is_pinned(self, name: str) -> bool:
        """Whether somebody alive pins ``name``; pins of the dead are removed on the way."""
        path = self._path(name)
        with _translated("the pins cannot be looked at", path):
            pins = _names(os.path.dirname(path), _PIN + os.path.basename(path) + "-")
            alive = [pin for pin in pins if not _remove_if_unlocked(pin)]
            return bool(alive)

    def sweep(self) -> tuple[str, ...]:
        """Remove partial files and pins whose owners are dead; the names of the partial files, relative to the store."""
        swept: list[str] = []
        with _translated("the store cannot be swept", self.root):
            for directory, _directories, _files in os.walk(self.root):
                for path in _names(directory, _PIN):
                    _remove_if_unlocked(path)
                swept += [
                    os.path.relpath(path, self.root)
                    for path in _names(directory, _PARTIAL)
                    if _remove_if_unlocked(path)
                ]
        return tuple(sorted(swept))

    def path_on_this_host(self) -> bytes | None:
        """The store's directory, free of symlinks."""
        return os.fsencode(os.path.realpath(self.root))

    def _path(self, name: str) -> str:
        parts = name.split("/")
        if any(not part or part.startswith(".") or "\0" in part for part in parts):
            raise UsageError(f"{name!a} cannot be the name of a file in a store")
        return os.path.join(self.root, *parts)


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
        with _translated("the dump cannot be written", self._final):
            if self._until_check < 0:
                self._check_space(len(data))
                self._until_check = _SPACE_INTERVAL
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def _check_space(self, ahead: int) -> None:
        space = _space_of(os.fstatvfs(self._descriptor))
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
        with _translated("the dump cannot be published", self._final):
            os.fsync(self._descriptor)
            _rename_no_replace(self._partial, self._final)
            fsync_directory(os.path.dirname(self._final))
        self._close()

    def abandon(self) -> None:
        """Remove what was written. Idempotent; a no-op after publish."""
        if self._descriptor >= 0:
            _remove_quietly(self._partial)
            self._close()

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
        with _translated("the dump cannot be read", self._path):
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


def _make_locked(directory: str, prefix: str, base: str) -> tuple[str, int]:
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
            _remove_quietly(path)
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove_if_unlocked(path: str) -> bool:
    """Remove ``path`` unless its owner lives; whether it was removed (or was gone already)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A writer may have published between our open and our lock: then the name is gone and nothing is removed.
        _remove_quietly(path)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _names(directory: str, prefix: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(directory) if entry.name.startswith(prefix)]
    except FileNotFoundError:
        return []


def _rename_no_replace(partial: str, final: str) -> None:
    """Rename without ever replacing."""
    try:
        rename_new(partial, final)
    except FileExistsError:
        raise _exists(final) from None


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _space_of(status: os.statvfs_result) -> Space:
    return Space(total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize)


def _exists(path: str) -> RefusedError:
    return RefusedError(
        "a dump of that name exists already", where=ascii(path)[1:-1], remedy="voltool dumps, to see it"
    )


@contextlib.contextmanager
def _translated(what: str, path: str) -> Iterator[None]:
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
