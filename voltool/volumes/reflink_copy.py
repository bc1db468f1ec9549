"""One object of a reflink clone: made beside its source, with all that Linux keeps of it. Ships to servers.

Knows nothing of trees or indexes. Sources: ioctl_ficlone(2); chown(2) (clears setuid bits and capabilities: so it comes
first), acl(5) (the group bits of a mode are the mask: the mode comes after the ACL); btrfs: fs/btrfs/reflink.c (both files
must have checksums, or neither: NOCOW is set while the file is empty).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import NamedTuple, Union

from voltool.inodes import PORTABLE_FLAGS, WRITE, get_flags, ioctl_number, set_flags, set_project
from voltool.leases import nobody_writes
from voltool.volumes.reflink_index import pack_source

FICLONE = ioctl_number(WRITE, 0x94, 9, 4)
#: Kernel times lag the clock by up to a tick; a change younger than this may share its stamp with the next one.
TICK_NS = 20_000_000
SEALS = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOATIME
_MAKE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: How a file system says that this file cannot share its data (a realtime file, say), though others can.
_UNSHARED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV})
#: How long the kernel lets a holder of a lease keep others waiting (/proc/sys/fs/lease-break-time is 45 s), in seconds.
_LEASE_BREAK = 60.0
#: XFS shows each ACL a second time under these names.
_SHADOW = "trusted.SGI_ACL_"


class Made(NamedTuple):
    """An object of the clone: its inode, what it was made from, whether that was at rest."""

    inode: int
    source: bytes
    settled: bool


def reflinks_work(directory: bytes, into: bytes) -> bool:
    """Whether files in ``directory`` can be cloned to ``into``; tried with two files that have no name. Raises OSError."""
    try:
        source = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):
            return False
        raise
    try:
        os.write(source, bytes(4096))
        target = os.open(into, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.ioctl(target, FICLONE, source)
        finally:
            os.close(target)
    except OSError as error:
        if error.errno in _UNSHARED:
            return False
        raise
    finally:
        os.close(source)
    return True


def make_file(live: int, new: int, name: str) -> Made:
    """Clone the regular file ``name`` from directory ``live`` into ``new``. FileNotFoundError: it is none any more."""
    source = _open(live, name)
    try:
        before = os.fstat(source)
        if not stat.S_ISREG(before.st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is no regular file any more", name)
        at_rest = nobody_writes(source)
        moment = time.time_ns()
        flags, project = get_flags(source)
        target = os.open(name, _MAKE, 0o600, dir_fd=new)
        try:
            set_flags(target, flags & ~SEALS, PORTABLE_FLAGS & ~SEALS)
            if before.st_size:
                _share(source, target, before.st_size)
            _dress(source, target, before, project)
            set_flags(target, flags & SEALS, SEALS)
            inode = os.fstat(target).st_ino
        finally:
            os.close(target)
        stamp = pack_source(before)
        still = pack_source(os.fstat(source)) == stamp
    finally:
        os.close(source)
    return Made(inode, stamp, still and at_rest and moment - before.st_ctime_ns > TICK_NS)


def _open(directory: int, name: str) -> int:
    """Open a file to read it; one that another process has a lease on (an SMB client's) once that was given back."""
    deadline = time.monotonic() + _LEASE_BREAK
    while True:
        try:
            return os.open(name, _READ, dir_fd=directory)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise FileNotFoundError(errno.ENOENT, "it is a symlink by now", name) from error
            if error.errno != errno.EWOULDBLOCK or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def make_special(live: int, new: int, name: str) -> Made:
    """The same for a symlink, device, fifo or socket."""
    moment = time.time_ns()
    status = os.stat(name, dir_fd=live, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        raise FileNotFoundError(errno.ENOENT, "it is something else by now", name)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=live), name, dir_fd=new)
    else:
        os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=new)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=new, follow_symlinks=False)
    _copy_xattrs(f"/proc/self/fd/{live}/{name}", f"/proc/self/fd/{new}/{name}")
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=new)
    os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=new, follow_symlinks=False)
    inode = os.stat(name, dir_fd=new, follow_symlinks=False).st_ino
    stamp = pack_source(status)
    still = pack_source(os.stat(name, dir_fd=live, follow_symlinks=False)) == stamp
    return Made(inode, stamp, still and moment - status.st_ctime_ns > TICK_NS)


def dress_directory(live: int, new: int, status: os.stat_result) -> None:
    """Give the directory ``new`` all attributes of ``live``, after its names have changed."""
    flags, project = get_flags(live)
    set_flags(new, flags & ~SEALS, PORTABLE_FLAGS)
    _dress(live, new, status, project)
    set_flags(new, flags & SEALS, SEALS)


def unseal(descriptor: int) -> int:
    """Take immutable and append-only off; the flags that were there."""
    flags = get_flags(descriptor)[0] & SEALS
    if flags:
        set_flags(descriptor, 0, SEALS)
    return flags


def seal(descriptor: int, seals: int) -> None:
    """Put back what `unseal` took off."""
    if seals:
        set_flags(descriptor, seals, SEALS)


def link(old: int, old_name: str, new: int, new_name: str) -> None:
    """A hard link between two trees of voltool's own, sealed files too. Raises OSError: EMLINK, EXDEV."""
    try:
        os.link(old_name, new_name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
    except PermissionError:
        descriptor = os.open(old_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=old)
        try:
            seals = unseal(descriptor)
            os.link(old_name, new_name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
            seal(descriptor, seals)
        finally:
            os.close(descriptor)


def unlink(directory: int, name: str) -> None:
    """Take away one of several names of an object, which stays sealed if it is."""
    try:
        os.unlink(name, dir_fd=directory)
    except PermissionError:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            seals = unseal(descriptor)
            os.unlink(name, dir_fd=directory)
            seal(descriptor, seals)
        finally:
            os.close(descriptor)


def _share(source: int, target: int, size: int) -> None:
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno not in _UNSHARED:
            raise
        _copy(source, target, size)
    # btrfs takes a clone's preallocated parts for data until something is preallocated in the clone itself (the inode flag
    # BTRFS_INODE_PREALLOC is not cloned; fs/btrfs/file.c, find_desired_extent).
    if os.lseek(source, 0, os.SEEK_HOLE) < size <= os.lseek(target, 0, os.SEEK_HOLE):
        os.posix_fallocate(target, size, 4096)
        os.ftruncate(target, size)


def _copy(source: int, target: int, size: int) -> None:
    """What cannot be shared is copied, holes left out."""
    os.ftruncate(target, size)
    position = 0
    with contextlib.suppress(EOFError):
        while position < size:
            try:
                position = os.lseek(source, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            hole = min(os.lseek(source, position, os.SEEK_HOLE), size)
            while position < hole:
                data = os.pread(source, min(1 << 20, hole - position), position)
                if not data:
                    raise EOFError
                position += os.pwrite(target, data, position)


def _dress(source: int, target: int, status: os.stat_result, project: int) -> None:
    os.fchown(target, status.st_uid, status.st_gid)
    _copy_xattrs(source, target)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    set_project(target, project)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))


def _copy_xattrs(source: Union[int, str], target: Union[int, str]) -> None:
    follow = isinstance(source, int)
    wanted = [name for name in os.listxattr(source, follow_symlinks=follow) if not name.startswith(_SHADOW)]
    for name in os.listxattr(target, follow_symlinks=follow):
        if name not in wanted and not name.startswith(_SHADOW):
            os.removexattr(target, name, follow_symlinks=follow)  # an ACL inherited from the directory
    for name in wanted:
        value = os.getxattr(source, name, follow_symlinks=follow)
        os.setxattr(target, name, value, follow_symlinks=follow)
