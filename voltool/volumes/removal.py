"""Removing a tree of voltool's own: by descriptors, never through a link, never into another file system. Ships to servers.

Snapshots inside are deleted as such, immutable files are made mutable. Knows nothing of what it removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import List

from voltool.beneath import open_beneath
from voltool.errors import HostError
from voltool.inodes import set_flags
from voltool.showing import shown
from voltool.volumes import btrfs_ioctl

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEALS = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL


def remove_tree(path: bytes) -> None:
    """Remove the directory (or file) ``path`` and all in it. Idempotent: a missing one is fine.

    Raises HostError where rights are missing or something is mounted inside; then part of it may be gone.
    """
    try:
        parent = os.open(os.path.dirname(path), _OPEN)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from error
    try:
        _Removal(parent, os.path.basename(path), os.fstat(parent).st_dev).run()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        os.close(parent)


def remove_at(directory: int, name: bytes) -> None:
    """Remove ``name`` in an open directory (which is not sealed), and all in it. Raises OSError; a missing one is fine."""
    with contextlib.suppress(FileNotFoundError):
        _Removal(directory, name, os.fstat(directory).st_dev).run()


def tree_size(path: bytes) -> int:
    """The bytes that a tree takes on disk, a file with several names once. What cannot be looked at counts nothing."""
    total = 0
    linked = set()
    for _root, directories, files, descriptor in os.fwalk(path, follow_symlinks=False):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1 or status.st_ino not in linked:
                    total += status.st_blocks * 512
                if status.st_nlink > 1:
                    linked.add(status.st_ino)
    return total


class _Removal:
    def __init__(self, parent: int, name: bytes, device: int) -> None:
        self._parent = parent
        self._name = name
        self._device = device

    def run(self) -> None:
        status = os.lstat(self._name, dir_fd=self._parent)
        if not stat.S_ISDIR(status.st_mode):
            self._unlink(self._parent, self._name)
            return
        if self._removed_as_subvolume(self._parent, self._name, status):
            return
        root = os.open(self._name, _OPEN, dir_fd=self._parent)
        try:
            self._check_device(os.fstat(root), self._name)
            self._empty(root)
        finally:
            os.close(root)
        os.rmdir(self._name, dir_fd=self._parent)

    def _empty(self, root: int) -> None:
        found: List[bytes] = []
        stack = [b""]
        while stack:
            path = stack.pop()
            directory = open_beneath(root, path, _OPEN) if path else os.dup(root)
            try:
                self._unseal(directory)
                below = [path + b"/" + name if path else name for name in self._empty_of_files(directory)]
            finally:
                os.close(directory)
            stack += below
            found += below
        for path in reversed(found):
            parent, _slash, name = path.rpartition(b"/")
            directory = open_beneath(root, parent, _OPEN) if parent else os.dup(root)
            try:
                os.rmdir(name, dir_fd=directory)
            finally:
                os.close(directory)

    def _empty_of_files(self, directory: int) -> List[bytes]:
        """Unlink all but directories; their names are returned."""
        directories = []
        for text in os.listdir(directory):
            name = os.fsencode(text)
            status = os.lstat(name, dir_fd=directory)
            if not stat.S_ISDIR(status.st_mode):
                self._unlink(directory, name)
            elif not self._removed_as_subvolume(directory, name, status):
                self._check_device(status, name)
                directories.append(name)
        return directories

    def _unlink(self, directory: int, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=directory)
        except PermissionError:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                set_flags(descriptor, 0, _SEALS)
            finally:
                os.close(descriptor)
            os.unlink(name, dir_fd=directory)

    @staticmethod
    def _unseal(directory: int) -> None:
        with contextlib.suppress(OSError):  # if it matters, the next unlink says so
            set_flags(directory, 0, _SEALS)

    def _removed_as_subvolume(self, directory: int, name: bytes, status: os.stat_result) -> bool:
        if status.st_ino != btrfs_ioctl.SUBVOLUME_ROOT_INODE or status.st_dev == self._device:
            return False
        try:
            btrfs_ioctl.destroy_subvolume(directory, name)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EXDEV):
                return False
            raise
        return True

    def _check_device(self, status: os.stat_result, name: bytes) -> None:
        if status.st_dev != self._device:
            raise OSError(errno.EBUSY, "another file system is mounted there", os.fsdecode(name))


def _failed(path: bytes, error: OSError) -> HostError:
    why = error.strerror or str(error)
    if error.filename:
        name = error.filename if isinstance(error.filename, bytes) else os.fsencode(error.filename)
        why += f": {shown(name)}"
    return HostError(
        "not everything could be removed",
        where=shown(path),
        why=why,
        remedy="unmount what is mounted there; without rights, run it as root (become = true)",
    )
