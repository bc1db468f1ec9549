"""Inode flags and project ids, read and set by ioctl on an open descriptor. Ships to servers.

Knows nothing of trees or dumps: which flags are worth keeping is told by `PORTABLE_FLAGS` alone. Sources:
ioctl_iflags(2), ioctl_xfs_fsgetxattr(2), linux/fs.h; the numbers of ioctls: asm-generic/ioctl.h and its few exceptions.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import struct
from typing import List, Set, Tuple

READ, WRITE = 2, 1
_OTHER_LAYOUT = platform.machine().startswith(("ppc", "powerpc", "mips", "sparc", "alpha"))


def ioctl_number(direction: int, kind: int, number: int, size: int) -> int:
    """The request code of an ioctl: `READ`, `WRITE`, both or 0; a type, a number, the size of its argument."""
    if _OTHER_LAYOUT:
        bits = {0: 1, READ: 2, WRITE: 4, READ | WRITE: 6}[direction]
        return bits << 29 | size << 16 | kind << 8 | number
    return direction << 30 | size << 16 | kind << 8 | number


_LONG = struct.calcsize("l")
_FLAGS = struct.Struct("=I")
#: flags, extent size hint, extents, project id, copy-on-write extent size hint, padding (struct fsxattr)
_FSXATTR = struct.Struct("=IIIII8x")
FS_IOC_GETFLAGS = ioctl_number(READ, ord("f"), 1, _LONG)
FS_IOC_SETFLAGS = ioctl_number(WRITE, ord("f"), 2, _LONG)
FS_IOC_FSGETXATTR = ioctl_number(READ, ord("X"), 31, _FSXATTR.size)
FS_IOC_FSSETXATTR = ioctl_number(WRITE, ord("X"), 32, _FSXATTR.size)
_NO_FLAGS = bytes(_LONG)
_NO_FSXATTR = bytes(_FSXATTR.size)

#: What a user can set and what means the same everywhere: the same bits as dumpfile.format.PORTABLE_FLAGS (tested).
PORTABLE_FLAGS = 0x62_83_44_FC

#: The inode number of `.zfs` at the root of an OpenZFS dataset, which no file has. With snapdir=visible it is listed there, and
#: leads to all snapshots. Source: ZFSCTL_INO_ROOT, include/os/linux/zfs/sys/zfs_ctldir.h.
ZFS_CONTROL_INODE = 0x0000FFFFFFFFFFFF
#: How file systems say that they have no such thing. (EINVAL: some FUSE servers; ENOSYS: others.)
_ABSENT = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def get_flags(descriptor: int) -> Tuple[int, int]:
    """The portable inode flags and the project id of an open file or directory; 0 for what its file system lacks.

    Raises OSError for other failures (EIO). Never call it on a device: its driver would take the ioctl.
    """
    return _read_flags(descriptor), _read_project(descriptor)


class FlagReader:
    """`get_flags` for many files, with a memory of devices (``st_dev``) whose file systems have no flags or projects.

    The memory lives as long as this object: device numbers are given out again after an unmount.
    """

    def __init__(self) -> None:
        self._without_flags: Set[int] = set()
        self._without_projects: Set[int] = set()

    def read(self, descriptor: int, device: int) -> Tuple[int, int]:
        """As `get_flags`; ``device`` is the file's ``st_dev``."""
        flags = project = 0
        if device not in self._without_flags:
            try:
                data = fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, _NO_FLAGS)
                if data != _NO_FLAGS:
                    flags = _FLAGS.unpack_from(data)[0] & PORTABLE_FLAGS
            except OSError as error:
                _raise_unless_absent(error)
                self._without_flags.add(device)
        if device not in self._without_projects:
            try:
                project = _FSXATTR.unpack(fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, _NO_FSXATTR))[3]
            except OSError as error:
                _raise_unless_absent(error)
                self._without_projects.add(device)
        return flags, project


def set_flags(descriptor: int, flags: int, mask: int) -> None:
    """Make the inode flags within ``mask`` equal ``flags``; others stay. Does nothing where they are so already.

    Raises OSError: EOPNOTSUPP or ENOTTY where the file system does not have them, EPERM without CAP_LINUX_IMMUTABLE.
    """
    try:
        data = bytearray(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, _NO_FLAGS))
    except OSError as error:
        _raise_unless_absent(error)
        if flags & mask:
            raise
        return
    current = _FLAGS.unpack_from(data)[0]
    wanted = (current & ~mask) | (flags & mask)
    if wanted != current:
        _FLAGS.pack_into(data, 0, wanted)
        fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, bytes(data))


def list_xattrs(descriptor: int) -> List[str]:
    """The names of an open inode's extended attributes; none where the file system does not have them. Raises OSError."""
    try:
        return os.listxattr(descriptor)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # what FUSE says; others say that there are none
            raise
        return []


def set_project(descriptor: int, project: int) -> None:
    """Set the project id (quota); does nothing where it is so already. Raises OSError as `set_flags`."""
    try:
        fields = list(_FSXATTR.unpack(fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, _NO_FSXATTR)))
    except OSError as error:
        _raise_unless_absent(error)
        if project:
            raise
        return
    if fields[3] != project:
        fields[3] = project
        fcntl.ioctl(descriptor, FS_IOC_FSSETXATTR, _FSXATTR.pack(*fields))


def _read_flags(descriptor: int) -> int:
    try:
        flags: int = _FLAGS.unpack_from(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, _NO_FLAGS))[0]
    except OSError as error:
        _raise_unless_absent(error)
        return 0
    return flags & PORTABLE_FLAGS


def _read_project(descriptor: int) -> int:
    try:
        project: int = _FSXATTR.unpack(fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, _NO_FSXATTR))[3]
    except OSError as error:
        _raise_unless_absent(error)
        return 0
    return project


def _raise_unless_absent(error: OSError) -> None:
    if error.errno not in _ABSENT:
        raise error
