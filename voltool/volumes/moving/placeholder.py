"""The empty directory that stands at a volume's path while, and after, its tree is away: marked, and immutable where the file
system can do that, so that nothing starts on the old path (of a mount point it is the emptied root); and the one that keeps the
name at the new home. Ships to servers."""

from __future__ import annotations

import contextlib
import os
from typing import Union

from voltool import durable, inodes
from voltool.beneath import opened_directory
from voltool.dumpfile.format import FLAG_APPEND, FLAG_IMMUTABLE
from voltool.model import SourceMove, TargetMove

#: The inode flags that keep a directory's entries from being renamed.
SEALS = FLAG_IMMUTABLE | FLAG_APPEND

_MARK = "trusted.voltool.away"
#: For those who are not root: only root may have trusted attributes.
_USER_MARK = "user.voltool.away"


def make(move: SourceMove) -> None:
    """Make it where the tree is to go; the exchange brings it to the path. Idempotent. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(move.retired_path, 0o700)
    mark(move.retired_path, move)
    durable.fsync_directory(os.path.dirname(move.retired_path))


def mark(path: bytes, move: Union[SourceMove, TargetMove]) -> None:
    """Let `stands_at` know the directory at ``path``. Raises OSError."""
    try:
        os.setxattr(path, _MARK, move.move_id.encode(), follow_symlinks=False)
    except PermissionError:
        os.setxattr(path, _USER_MARK, move.move_id.encode(), follow_symlinks=False)


def unmark(path: bytes, move: Union[SourceMove, TargetMove]) -> None:
    """Take the mark of this move off. Idempotent. Raises OSError."""
    for name in (_MARK, _USER_MARK):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name, follow_symlinks=False) == move.move_id.encode():
                os.removexattr(path, name, follow_symlinks=False)


def keep(move: Union[SourceMove, TargetMove]) -> None:
    """Let nobody put anything into the empty directory at the path: of a new home, for then the tree could not take its place;
    of an emptied mount point, for nothing shall start there. Where the file system has neither marks nor immutable
    directories nothing is done. Idempotent."""
    with contextlib.suppress(OSError):
        mark(move.path, move)
        seal(move.path)


def let_go(move: TargetMove) -> None:
    """Undo `keep`. Idempotent. Raises OSError."""
    if stands_at(move.path, move):
        unseal(move.path)
        unmark(move.path, move)


def stands_at(path: bytes, move: Union[SourceMove, TargetMove]) -> bool:
    """Whether what is at ``path`` is the placeholder of this move."""
    for name in (_MARK, _USER_MARK):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name, follow_symlinks=False) == move.move_id.encode():
                return True
    return False


def seal(path: bytes) -> None:
    """Make it immutable. Not every file system can: then it is empty, and that is all."""
    with contextlib.suppress(OSError), opened_directory(path) as descriptor:
        inodes.set_flags(descriptor, FLAG_IMMUTABLE, FLAG_IMMUTABLE)


def unseal(path: bytes) -> None:
    """Let it be renamed again. Raises OSError."""
    with opened_directory(path) as descriptor:
        if inodes.get_flags(descriptor)[0] & FLAG_IMMUTABLE:
            inodes.set_flags(descriptor, 0, FLAG_IMMUTABLE)


def is_sealed(path: bytes) -> bool:
    """Whether the directory at ``path`` is immutable, whoever made it so; False where there is none."""
    try:
        with opened_directory(path) as descriptor:
            return bool(inodes.get_flags(descriptor)[0] & FLAG_IMMUTABLE)
    except OSError:
        return False


def remove(move: SourceMove) -> None:
    """Take it away from the path, where it stands there; an emptied root becomes one like any other. Idempotent."""
    if stands_at(move.path, move):
        with contextlib.suppress(OSError):
            unseal(move.path)
        if move.by_entries:
            unmark(move.path, move)
            return
        with contextlib.suppress(OSError):
            os.rmdir(move.path)
