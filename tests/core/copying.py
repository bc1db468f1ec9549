"""An exact copy of a tree, to judge a restore by after the tree has gone on changing. Uses no code of voltool.

Keeps what the judge looks at: content, holes, owners, modes, times, xattrs, inode flags, hard links, every type.
"""

from __future__ import annotations

import errno
import os
import stat

from tests.judge import FLAGS
from tests.torture import get_flags, set_flags

_MASK = sum(FLAGS.values())
_PIECE = 1 << 20


def copy_tree(source: bytes, target: bytes) -> None:
    """Copy the directory ``source`` to ``target``, which does not exist. A ``.voltool`` at the top is left out."""
    links: dict[int, bytes] = {}
    finish: list[tuple[bytes, os.stat_result, int]] = []
    _copy(source, target, links, finish, top=True)
    for path, status, flags in reversed(finish):
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        if flags:
            _with_flags(path, flags)


def _copy(
    source: bytes, target: bytes, links: dict[int, bytes], finish: list[tuple[bytes, os.stat_result, int]], *, top: bool
) -> None:
    status = os.lstat(source)
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFDIR and status.st_nlink > 1:
        if status.st_ino in links:
            os.link(links[status.st_ino], target, follow_symlinks=False)
            return
        links[status.st_ino] = target
    flags = 0
    if kind == stat.S_IFDIR:
        os.mkdir(target)
        flags = _flags(source)
        for name in sorted(os.listdir(source)):
            if not (top and name == b".voltool"):
                _copy(os.path.join(source, name), os.path.join(target, name), links, finish, top=False)
    elif kind == stat.S_IFREG:
        flags = _flags(source)
        _copy_content(source, target, status.st_size, flags & FLAGS["C"])
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, status.st_mode, status.st_rdev)
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(target, stat.S_IMODE(status.st_mode))
    for attribute in os.listxattr(source, follow_symlinks=False):
        os.setxattr(target, attribute, os.getxattr(source, attribute, follow_symlinks=False), follow_symlinks=False)
    finish.append((target, status, flags))


def _copy_content(source: bytes, target: bytes, size: int, early_flags: int) -> None:
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        if early_flags:
            set_flags(new.fileno(), early_flags | get_flags(new.fileno()))
        position = 0
        while position < size:
            try:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            end = min(os.lseek(old.fileno(), position, os.SEEK_HOLE), size)
            while position < end:
                data = os.pread(old.fileno(), min(_PIECE, end - position), position)
                position += os.pwrite(new.fileno(), data, position)
        os.ftruncate(new.fileno(), size)


def _flags(path: bytes) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    try:
        return get_flags(descriptor) & _MASK
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
        return 0
    finally:
        os.close(descriptor)


def _with_flags(path: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME)
    try:
        set_flags(descriptor, (get_flags(descriptor) & ~_MASK) | flags)
    finally:
        os.close(descriptor)
