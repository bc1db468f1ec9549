"""mount(2), umount2(2), unshare(2) by ctypes: just what a lock needs. Ships to servers.

Knows nothing of locks' records. Sources: mount(2), mount_namespaces(7), include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import List, Optional, Sequence

from voltool.errors import HostError
from voltool.showing import shown
from voltool.volumes.mounts import Mount, read_mounts

_MS_RDONLY = 1
_MS_REMOUNT = 32
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
#: How often a mount over a busy tree is tried.
_ATTEMPTS = 200
_CLONE_NEWNS = 0x20000
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_MOVE_EMPTY_PATH = 4
_MOVE_BENEATH = 0x200
_AT_EMPTY_PATH = 0x1000
_ATTR_RDONLY = 1
#: A remount sets all of these anew, so those that a mount has are given again.
_KEPT = {
    "nosuid": 2, "nodev": 4, "noexec": 8, "nosymfollow": 256, "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21,
}  # fmt: skip
_STRICTATIME = 1 << 24


def mounts_at(path: bytes) -> List[Mount]:
    """The mounts over one point in our namespace, the lowest first."""
    return [mount for mount in read_mounts() if mount.point == path]


def bind(path: bytes, target: bytes) -> None:
    """Mount the directory ``path`` at ``target`` too, with the flags of its mount. Raises HostError."""
    _mount(path, target, _MS_BIND)


class MountBusyError(HostError):
    """Somebody has a file open for writing through the mount."""


def bind_read_only(path: bytes) -> None:
    """Mount the directory ``path`` over itself, read-only. Raises HostError.

    Between the bind and the remount somebody may open a file for writing through the new mount, which then cannot become
    read-only: it is taken off and made anew. He writes on through what is left of it, as a writer from before the lock.
    """
    for _attempt in range(_ATTEMPTS):
        bind(path, path)
        try:
            remount(path, read_only=True)
        except MountBusyError:
            detach(path)
        else:
            return
    raise HostError(
        "the volume cannot be made read-only",
        where=shown(path),
        why="files in it are opened for writing all the time",
        remedy="stop who does it: a before_lock hook does it each time",
    )


def remount(path: bytes, *, read_only: bool) -> None:
    """Make the topmost mount at ``path`` read-only or writable; only this mount, not the file system. Raises HostError,
    MountBusyError."""
    _mount(None, path, _flags(mounts_at(path)[-1].options, read_only=read_only))


def change(root: int, options: Sequence[str], *, read_only: bool) -> None:
    """`remount` for the mount whose root ``root`` is open, also where another mount covers it; ``options`` are those it has.

    Changes the working directory: only for a process that does nothing else. Raises HostError, MountBusyError.
    Sources: mount_setattr(2), Linux 5.12; before that a path that ends in the working directory leads below what covers it.
    """
    code = _set_read_only(root, read_only=read_only)
    if code == 0:
        return
    if code != errno.ENOSYS:
        raise _error("a mount of the volume cannot be changed", b".", code)
    os.fchdir(root)
    _mount(None, b".", _flags(options, read_only=read_only))


def renew(path: bytes) -> None:
    """Put a writable mount of the same directory in the place of the read-only one that is topmost at ``path``, which is
    detached: who came by it stays where he is. Raises HostError.

    Before Linux 6.5 nothing can be mounted beneath a mount: then the old one stays where it is, below the new one.
    Sources: open_tree(2), move_mount(2).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    clone = libc.syscall(ctypes.c_long(_OPEN_TREE), _AT_FDCWD, path, _OPEN_TREE_CLONE | os.O_CLOEXEC)
    if clone >= 0:
        try:
            if _set_read_only(clone, read_only=False) == 0:
                flags = _MOVE_EMPTY_PATH | _MOVE_BENEATH
                if libc.syscall(ctypes.c_long(_MOVE_MOUNT), clone, b"", _AT_FDCWD, path, flags) == 0:
                    detach(path)
                    return
        finally:
            os.close(clone)
    bind(path, path)
    remount(path, read_only=False)


def _set_read_only(root: int, *, read_only: bool) -> int:
    """0, or why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    wish = (ctypes.c_uint64 * 4)(*((_ATTR_RDONLY, 0) if read_only else (0, _ATTR_RDONLY)))
    size = ctypes.c_size_t(ctypes.sizeof(wish))
    done = libc.syscall(ctypes.c_long(_MOUNT_SETATTR), root, b"", _AT_EMPTY_PATH, ctypes.byref(wish), size)
    return 0 if done == 0 else ctypes.get_errno()


def _flags(options: Sequence[str], *, read_only: bool) -> int:
    flags = _MS_REMOUNT | _MS_BIND | (_MS_RDONLY if read_only else 0)
    for option in options:
        flags |= _KEPT.get(option, 0)
    return flags if {"relatime", "noatime"} & set(options) else flags | _STRICTATIME


def detach(path: bytes) -> None:
    """Take the topmost mount at ``path`` off, also when it is in use. Raises HostError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(path, _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        raise _error("a mount cannot be taken off", path)


def leave_namespace() -> None:
    """From here on this process mounts and unmounts in a namespace of its own. Raises HostError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise _error("a mount namespace cannot be made", b"/")
    _mount(None, b"/", _MS_REC | _MS_PRIVATE)


def _mount(source: Optional[bytes], target: bytes, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source, target, None, ctypes.c_ulong(flags), None) != 0:
        raise _error("the volume cannot be mounted over itself", target)


def _error(what: str, path: bytes, code: int = 0) -> HostError:
    code = code or ctypes.get_errno()
    why = os.strerror(code)
    kind = MountBusyError if code == errno.EBUSY else HostError
    return kind(what, where=shown(path), why=why, remedy="look at the host's kernel log (dmesg)")
