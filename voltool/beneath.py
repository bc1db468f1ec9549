"""Opening what lies beneath a directory, whatever hostile users do to the path meanwhile. Ships to servers.

No link is followed, in any component; nothing outside the directory can be reached; paths may be longer than PATH_MAX.
Knows nothing of trees or dumps. Sources: openat2(2), path_resolution(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import struct
from typing import Iterator, List

_SYS_OPENAT2 = 437  # the same on all architectures that got it with Linux 5.6
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
#: flags, mode, resolve (struct open_how)
_HOW = struct.Struct("=QQQ")
_AT_FDCWD = -100
#: The longest path given to the kernel at once; it takes 4095 bytes.
_PIECE = 4000
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_beneath(directory: int, path: bytes, flags: int, mode: int = 0o600) -> int:
    """Open ``path``, relative to the descriptor ``directory``, without following any link. The caller closes it.

    O_CLOEXEC and O_NOFOLLOW are added. A link as the last component is opened only with O_PATH. ``mode`` is for O_CREAT.
    Raises OSError: ELOOP for a link on the way (ENOTDIR on kernels before 5.6), EINVAL for an empty or absolute path or
    one with ``.`` or ``..`` in it, else as open(2).
    """
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    _refuse_special(path)
    if b"/" not in path:
        return os.open(path, flags, mode, dir_fd=directory)
    if not has_openat2():
        return _open_by_steps(directory, path.split(b"/"), flags, mode)
    if len(path) <= _PIECE:
        return _openat2(directory, path, flags, mode)
    return _open_by_steps(directory, list(_pieces(path.split(b"/"))), flags, mode)


@contextlib.contextmanager
def opened_directory(path: bytes) -> Iterator[int]:
    """A descriptor of the directory at ``path``, which must not be a link itself. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@functools.cache
def has_openat2() -> bool:
    """Whether the kernel has openat2 (Linux 5.6) and no filter of a container forbids it."""
    try:
        os.close(_openat2(_AT_FDCWD, b".", _STEP, 0))
    except OSError as error:
        # A directory that we may not enter or that is gone says nothing about the system call.
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL)
    return True


def _refuse_special(path: bytes) -> None:
    if path[-1:] not in b"/" and path[0] not in b"/." and b"//" not in path and b"/." not in path:
        return  # as nearly all are
    parts = path.split(b"/")
    if b"" in parts or b"." in parts or b".." in parts:
        raise OSError(errno.EINVAL, "not a plain relative path", os.fsdecode(path))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


@functools.lru_cache(maxsize=16)
def _how(flags: int, mode: int) -> bytes:
    return _HOW.pack(flags, mode, _RESOLVE)


def _openat2(directory: int, path: bytes, flags: int, mode: int) -> int:
    how = _how(flags, mode if flags & os.O_CREAT else 0)
    syscall = _libc().syscall
    for _attempt in range(100):
        descriptor = syscall(_SYS_OPENAT2, directory, path, how, len(how))
        if descriptor >= 0:
            return int(descriptor)
        code = ctypes.get_errno()
        # EAGAIN: a rename elsewhere made the kernel unsure; EINTR: a signal.
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), os.fsdecode(path))


def _pieces(parts: List[bytes]) -> Iterator[bytes]:
    """Join components to paths of at most `_PIECE` bytes."""
    piece = parts[0]
    for part in parts[1:]:
        if len(piece) + 1 + len(part) > _PIECE:
            yield piece
            piece = part
        else:
            piece += b"/" + part
    yield piece


def _open_by_steps(directory: int, steps: List[bytes], flags: int, mode: int) -> int:
    """Open each step (one component, or a piece for openat2) beneath the one before."""
    current = directory
    try:
        for step in steps[:-1]:
            below = _open_step(current, step, _STEP, 0)
            if current != directory:
                os.close(current)
            current = below
        return _open_step(current, steps[-1], flags, mode)
    finally:
        if current != directory:
            os.close(current)


def _open_step(directory: int, step: bytes, flags: int, mode: int) -> int:
    if b"/" in step:
        return _openat2(directory, step, flags, mode)
    return os.open(step, flags, mode, dir_fd=directory)
