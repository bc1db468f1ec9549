"""Durable files: write, fsync, rename, fsync the directory; and file locks that name their owner.

Knows nothing of volumes or dumps. Part of what is shipped to servers.
Sources: rename(2), fsync(2), flock(2), renameat2(2); fsync of the directory makes the name durable.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import stat
import time
from types import TracebackType
from typing import Any, Dict, Optional, Type, Union

from voltool.errors import BusyError

Path = Union[str, bytes]

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
#: What renameat2 says where the file system does not know its flags.
NO_RENAME_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_AT_FDCWD = -100
_LOCK_PAUSE = 0.02


def fsync_directory(path: Path) -> None:
    """Make the names in directory ``path`` durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``, atomically and durably: a reader sees the old or the new bytes, also after a crash."""
    path = os.fsencode(path)
    temporary = path + b".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):  # half a file on a full disk helps nobody
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    fsync_directory(os.path.dirname(path) or b".")


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make ``path`` and its missing parents, durably; an existing directory is left as it is."""
    path = os.fsencode(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent and parent != path:
        make_directory(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    fsync_directory(parent or b".")


def remove_file(path: Path) -> None:
    """Remove ``path`` durably; a missing file is fine (idempotent)."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    fsync_directory(os.path.dirname(os.fsencode(path)) or b".")


def rename_with_flags(old: Path, new: Path, flags: int, old_dir: int = _AT_FDCWD, new_dir: int = _AT_FDCWD) -> None:
    """renameat2(2): `RENAME_NOREPLACE` fails with EEXIST where plain rename would replace; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(old_dir, os.fsencode(old), new_dir, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), os.fsdecode(new))


def rename_new(old: Path, new: Path, old_dir: int = _AT_FDCWD, new_dir: int = _AT_FDCWD) -> None:
    """Rename and never replace anything: FileExistsError where ``new`` exists. Raises OSError.

    Where renameat2 lacks the flag (FUSE, OpenZFS before 2.2): a file is linked and unlinked, in two steps; cut off between them
    it has both names, and repeating this goes on from there. A directory is renamed, which replaces an empty one at the most.
    """
    try:
        rename_with_flags(old, new, RENAME_NOREPLACE, old_dir, new_dir)
    except OSError as error:
        if error.errno not in (*NO_RENAME_FLAGS, errno.EEXIST):
            raise
    else:
        return
    from_dir, to_dir = _known(old_dir), _known(new_dir)
    here, there = os.stat(old, dir_fd=from_dir, follow_symlinks=False), _stat_or_none(new, to_dir)
    is_directory = stat.S_ISDIR(here.st_mode)
    if there is not None and (is_directory or not os.path.samestat(here, there)):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(new))
    if is_directory:
        os.rename(old, new, src_dir_fd=from_dir, dst_dir_fd=to_dir)
        return
    if there is None:
        os.link(old, new, src_dir_fd=from_dir, dst_dir_fd=to_dir, follow_symlinks=False)
    os.unlink(old, dir_fd=from_dir)


def _known(directory: int) -> Optional[int]:
    return None if directory == _AT_FDCWD else directory


def _stat_or_none(path: Path, directory: Optional[int]) -> Optional[os.stat_result]:
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


class FileLock:
    """An exclusive flock(2) on a file that says who holds it and since when; ends with the process.

    Use as a context manager. ``acquire`` raises BusyError at once when it is held elsewhere. The file is never removed:
    removing a lock file lets two processes lock two files of one name. It is held open for reading only, so that the mount
    it lies on can become read-only meanwhile (not on NFS, whose exclusive locks need a file open for writing).
    """

    def __init__(self, path: Path, *, what: str, owner: str, patience: float = 0.0, with_whom: str = "") -> None:
        self._path = path
        self._what = what
        self._owner = owner
        self._patience = patience
        self._with_whom = with_whom
        self._descriptor: Optional[int] = None

    def acquire(self) -> None:
        """Take the lock or raise BusyError with the owner's own words; an owner whose words begin with ``with_whom`` is waited
        for, up to ``patience`` seconds."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._acquire()
            except BusyError:  # noqa: PERF203 - it waits in any case
                if time.monotonic() > deadline or not self._is_waited_for():
                    raise
                time.sleep(_LOCK_PAUSE)
            else:
                return

    def _is_waited_for(self) -> bool:
        """Also of one that has just begun, and has not said yet who it is."""
        with open(self._path, "rb") as file:
            content = file.read(65536)
        try:
            return str(json.loads(content)["owner"]).startswith(self._with_whom)
        except (ValueError, KeyError, TypeError):
            return True

    def _acquire(self) -> None:
        try:
            self._descriptor = self._take(os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            self._descriptor = self._take(os.O_RDWR)
        note = {"owner": self._owner, "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        try:
            self._write(json.dumps(note).encode())
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the lock up; idempotent."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # the file system may be read-only by now; who holds nothing is not read
                self._write(b"")
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self, mode: int) -> int:
        descriptor = os.open(self._path, mode | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            why = _describe_owner(os.pread(descriptor, 65536, 0)) if error.errno != errno.EBADF else ""
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise BusyError(
                f"{self._what} is in use", why=why, remedy="wait until it is done; the lock ends with its owner"
            ) from None
        return descriptor

    def _write(self, note: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, note)
        finally:
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.release()


def _describe_owner(content: bytes) -> str:
    try:
        note: Dict[str, Any] = json.loads(content)
        return f"held by {note['owner']} (pid {note['pid']}) since {note['since']}"
    except (ValueError, KeyError, TypeError):
        return "held by another voltool that has just begun"
