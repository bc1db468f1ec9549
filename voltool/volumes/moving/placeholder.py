"""The empty directory that stands at a volume's path while, and after, its tree is away: marked, and immutable where the file
system can do that, so that nothing starts on the old path; and the one that keeps the name at the new home. Ships to servers."""

from __future__ import annotations

import contextlib
import os
from typing import Iterator, Union

from voltool import durable, inodes
from voltool.dumpfile.format import FLAG_IMMUTABLE
from voltool.model import SourceMove, TargetMove

_MARK = "trusted.voltool.away"
#: For those who are not root: only root may have trusted attributes.
_USER_MARK = "user.voltool.away"


def make(move: SourceMove) -> None:
    """Make it where the tree is to go; the exchange brings it to the path. Idempotent. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(move.retired_path, 0o700)
    _mark(move.retired_path, move)
    durable.fsync_directory(os.path.dirname(move.retired_path))


def _mark(path: bytes, move: Union[SourceMove, TargetMove]) -> None:
    try:
        os.setxattr(path, _MARK, move.move_id.encode())
    except PermissionError:
        os.setxattr(path, _USER_MARK, move.move_id.encode())


def keep(move: TargetMove) -> None:
    """Let nobody put anything into the empty directory at the new home's path, for then the tree could not take its place.
    Where the file system has neither marks nor immutable directories nothing is done. Idempotent."""
    with contextlib.suppress(OSError):
        _mark(move.path, move)
        seal(move.path)


def let_go(move: TargetMove) -> None:
    """Undo `keep`. Idempotent. Raises OSError."""
    if stands_at(move.path, move):
        unseal(move.path)
        for mark in (_MARK, _USER_MARK):
            with contextlib.suppress(OSError):
                os.removexattr(move.path, mark)


def stands_at(path: bytes, move: Union[SourceMove, TargetMove]) -> bool:
    """Whether what is at ``path`` is the placeholder of this move."""
    for mark in (_MARK, _USER_MARK):
        with contextlib.suppress(OSError):
            if os.getxattr(path, mark, follow_symlinks=False) == move.move_id.encode():
                return True
    return False


def seal(path: bytes) -> None:
    """Make it immutable. Not every file system can: then it is empty, and that is all."""
    with contextlib.suppress(OSError), _opened(path) as descriptor:
        inodes.set_flags(descriptor, FLAG_IMMUTABLE, FLAG_IMMUTABLE)


def unseal(path: bytes) -> None:
    """Let it be renamed again. Raises OSError."""
    with _opened(path) as descriptor:
        if inodes.get_flags(descriptor)[0] & FLAG_IMMUTABLE:
            inodes.set_flags(descriptor, 0, FLAG_IMMUTABLE)


def is_sealed(path: bytes) -> bool:
    """Whether the directory at ``path`` is immutable, whoever made it so; False where there is none."""
    try:
        with _opened(path) as descriptor:
            return bool(inodes.get_flags(descriptor)[0] & FLAG_IMMUTABLE)
    except OSError:
        return False


def remove(move: SourceMove) -> None:
    """Take it away from the path, where it stands there. Idempotent."""
    if stands_at(move.path, move):
        with contextlib.suppress(OSError):
            unseal(move.path)
        with contextlib.suppress(OSError):
            os.rmdir(move.path)


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
