"""Directories of a volume and of its reflink clones, opened by path from their roots, no link followed. Ships to servers.

Knows nothing of what is cloned there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from array import array
from typing import Iterator, List, Optional

from voltool.beneath import open_beneath
from voltool.volumes.reflink_copy import unseal

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: What opening a directory by its path says when another object has taken its place.
_REPLACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EAGAIN})


class Place:
    """One directory, open in the volume (``live``), the clone (``new``) and perhaps an older clone (else -1)."""

    def __init__(self, live: int, new: int, older: int, *, fresh: bool) -> None:
        self.live = live
        self.new = new
        self.older = older
        self.fresh = fresh
        self.touched = fresh
        #: Hashes of the names that the clone has by now: a directory may have millions.
        self.names = array("q")

    def touch(self) -> None:
        """The clone's directory is about to change."""
        if not self.touched:
            unseal(self.new)
            self.touched = True

    def close(self) -> None:
        """Close all sides."""
        for descriptor in (self.live, self.new, self.older):
            if descriptor >= 0:
                os.close(descriptor)


def open_directory(root: int, path: bytes) -> int:
    """The directory ``path`` below ``root`` (empty: itself); the caller closes it. Raises OSError."""
    return open_beneath(root, path, _OPEN) if path else os.open(".", _OPEN, dir_fd=root)


def open_live(root: int, path: bytes) -> Optional[int]:
    """The same in a tree that others change: None where it is no directory any more. Raises other OSErrors."""
    try:
        return open_directory(root, path)
    except OSError as error:
        if error.errno in _REPLACED and path:
            return None
        raise


@contextlib.contextmanager
def opened(root: int, path: bytes) -> Iterator[int]:
    """`open_directory`, closed afterwards."""
    descriptor = open_directory(root, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def names_now(directory: int) -> List[str]:
    """What is in an open directory now: btrfs shows what was there when it was opened, so it is opened again."""
    with opened(directory, b"") as again:
        return os.listdir(again)


def status_at(directory: int, name: str) -> Optional[os.stat_result]:
    """What stat(2) says of ``name``, which is not followed; None where it is not there."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
