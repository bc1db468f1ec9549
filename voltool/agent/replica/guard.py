"""What is served cannot be written to, and is exchanged for another tree at once. Ships to servers.

A btrfs subvolume has the property ``ro``; anything else a read-only bind mount over its own path. The exchange is one rename,
made in a mount namespace of its own, since a mount point cannot be renamed: everywhere else the mounts follow their trees, so
neither tree can be written to for a moment. Who has the old tree open keeps it. Knows nothing of states or records.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Callable, Iterator

from voltool import durable, inodes
from voltool.agent.lazy.mounted import is_mounted
from voltool.beneath import opened_directory
from voltool.errors import HostError
from voltool.showing import shown
from voltool.volumes import btrfs_ioctl
from voltool.volumes.lock import mounting
from voltool.volumes.lock.hold import in_private_namespace
from voltool.volumes.moving.placeholder import SEALS

#: How an OSError begins that is told by a child (`in_private_namespace`).
_ERRNO = re.compile(r"\[Errno ([0-9]+)\]")


def is_subvolume(path: bytes) -> bool:
    """Whether a btrfs subvolume is there that we can treat as one (as root)."""
    with contextlib.suppress(OSError):
        return os.geteuid() == 0 and btrfs_ioctl.is_subvolume(path)
    return False


def identity_of(path: bytes) -> str:
    """What tells the tree at ``path`` from any other, also after a reboot; empty where there is none."""
    try:
        if btrfs_ioctl.is_subvolume(path):
            with opened_directory(path) as descriptor:
                return f"subvolume {btrfs_ioctl.subvolume_info(descriptor).uuid}"
        return f"inode {os.lstat(path).st_ino}"
    except FileNotFoundError:
        return ""


def generation_of(path: bytes) -> int:
    """Of a subvolume, when it was changed last; 0 of anything else: it does not tell. Raises OSError."""
    if not is_subvolume(path):
        return 0
    with opened_directory(path) as descriptor:
        return btrfs_ioctl.subvolume_info(descriptor).generation


def is_protected(path: bytes) -> bool:
    """Whether nobody can write to the tree at ``path`` by its path."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) if not is_subvolume(path) else _is_read_only(path)
    except OSError:
        return False


def protect(path: bytes) -> None:
    """Let nobody write to the tree at ``path``. Idempotent. HostError where that cannot be: mounting needs root."""
    if is_subvolume(path):
        take_mounts_off(path)
        _set_read_only(path, read_only=True)
    elif is_protected(path):
        return
    elif os.geteuid() == 0:
        take_mounts_off(path)
        mounting.bind_read_only(path)
    else:
        raise HostError(
            "a replica cannot be made read-only",
            where=shown(path),
            why=f"that needs root, and voltool runs there as user {os.geteuid()}",
            remedy="log in as root, or set become = true for the host and allow sudo",
        )


def unprotect(path: bytes) -> None:
    """Let its users write to it again. Idempotent. Raises HostError."""
    take_mounts_off(path)
    if is_subvolume(path):
        _set_read_only(path, read_only=False)


def exchange(path: bytes, other: bytes) -> None:
    """Let the trees at the two paths, or the one that is at ``other``, change places, at once and durably. Raises OSError,
    HostError. Neither can be written to meanwhile (as root); afterwards `protect` what is served."""
    root = os.geteuid() == 0
    # A lazy mount stays where it is, on a directory that nobody can reach below it, and follows that: there is no moment without.
    both = [place for place in (path, other) if not is_mounted(place) and os.path.lexists(place)]
    with contextlib.ExitStack() as stack:
        for place in both if root else ():
            take_mounts_off(place)
            stack.enter_context(_covered(place))
        failed = in_private_namespace(lambda: _rename(path, other)) if root else _try(path, other)
    if failed:
        raise HostError(
            "the new state of a replica cannot take its place",
            where=shown(path),
            why=failed,
            remedy="see who has mounted something there (findmnt), then voltool replica sync",
        )


@contextlib.contextmanager
def _covered(path: bytes) -> Iterator[None]:
    """Read-only by a mount that follows the tree wherever it is renamed to; below it a subvolume is writable meanwhile, and a
    root that is immutable is not, for they could not be renamed."""
    with opened_directory(path) as below:
        mounting.bind_read_only(path)
        subvolume = _is_subvolume_open(below)
        if subvolume:
            btrfs_ioctl.set_read_only(below, read_only=False)
        status = os.fstat(below)
        seals = inodes.get_flags(below)[0] & SEALS
        if seals:
            inodes.set_flags(below, 0, SEALS)
        try:
            yield
        finally:
            os.utime(below, ns=(status.st_atime_ns, status.st_mtime_ns))  # XFS counts a new parent as a change
            if seals:
                inodes.set_flags(below, seals, SEALS)
            if subvolume:
                btrfs_ioctl.set_read_only(below, read_only=True)


def _is_subvolume_open(descriptor: int) -> bool:
    return is_subvolume(b"/proc/self/fd/%d/." % descriptor)


def _rename(path: bytes, other: bytes) -> None:
    for place in (path, other):
        take_mounts_off(place)
    if os.path.lexists(path):
        durable.rename_with_flags(other, path, durable.RENAME_EXCHANGE)
    else:
        durable.rename_new(other, path)
    for directory in {os.path.dirname(path), os.path.dirname(other)}:
        durable.fsync_directory(directory)


def _try(path: bytes, other: bytes) -> str:
    try:
        _rename(path, other)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def beneath_mounts(path: bytes, act: Callable[[], None]) -> None:
    """Do it where nothing is mounted at ``path``: in another mount a file of the tree can have no further name. Raises OSError,
    HostError."""
    if not mounting.mounts_at(path):
        act()
        return

    def without() -> None:
        take_mounts_off(path)
        act()

    failed = in_private_namespace(without)
    code = _ERRNO.match(failed)
    if code:
        raise OSError(int(code.group(1)), os.strerror(int(code.group(1))), os.fsdecode(path))
    if failed:
        raise HostError("a replica's next state cannot be made", where=shown(path), why=failed)


def take_mounts_off(path: bytes) -> None:
    """All that is mounted at ``path``, also where it is in use: who came by it stays where he is. Raises HostError."""
    while mounting.mounts_at(path):
        mounting.detach(path)


def _is_read_only(path: bytes) -> bool:
    with opened_directory(path) as descriptor:
        return btrfs_ioctl.subvolume_info(descriptor).read_only


def _set_read_only(path: bytes, *, read_only: bool) -> None:
    try:
        with opened_directory(path) as descriptor:
            btrfs_ioctl.set_read_only(descriptor, read_only=read_only)
    except OSError as error:
        raise HostError(
            "the property ro of a subvolume cannot be changed", where=shown(path), why=error.strerror or str(error)
        ) from error
