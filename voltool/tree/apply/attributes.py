"""All attributes of one object: owner, xattrs, mode, times, inode flags, in the order in which one does not undo another.

What the target's file system or our rights cannot hold becomes a loss, never an error. Staging inherits nothing (see
`staging`), so a fresh object has no attribute that would have to be taken off. Part of what is shipped to servers.

Sources: chown(2) (clears setuid bits and capabilities: so it comes first), acl(5) (the group bits of a mode are the mask:
the mode comes after the ACL), ioctl_iflags(2), linux/fsverity.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from typing import Callable, Optional

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.errors import SpaceError
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners

#: Flags that must be there before the first byte (or, casefold, before the first name).
EARLY_FILE_FLAGS = fmt.FLAG_COMPR | fmt.FLAG_NOCOMP | fmt.FLAG_NOCOW | fmt.FLAG_DAX | fmt.FLAG_JOURNAL
EARLY_DIRECTORY_FLAGS = fmt.FLAG_CASEFOLD
#: Flags after which nothing can be changed any more.
SEALS = fmt.FLAG_IMMUTABLE | fmt.FLAG_APPEND
SECOND = 1_000_000_000
#: What every file system can hold; the kernel silently cuts off what one cannot.
_FIRST_SECOND, _LAST_SECOND = -(2**31), 2**31 - 1
_TIME_RANGE = "time before 1901 or after 2038"
_TIME_FRACTION = "fraction of a second of the time"

_SPECIAL_BITS = 0o7000
#: Not the labels that the host's own policy gives (security.selinux).
OURS_TO_REMOVE = (b"user.", b"trusted.", b"system.posix_acl_", b"security.capability")
_LETTERS = {
    fmt.FLAG_COMPR: "c", fmt.FLAG_SYNC: "S", fmt.FLAG_IMMUTABLE: "i", fmt.FLAG_APPEND: "a", fmt.FLAG_NODUMP: "d",
    fmt.FLAG_NOATIME: "A", fmt.FLAG_NOCOMP: "m", fmt.FLAG_JOURNAL: "j", fmt.FLAG_DIRSYNC: "D", fmt.FLAG_TOPDIR: "T",
    fmt.FLAG_NOCOW: "C", fmt.FLAG_DAX: "x", fmt.FLAG_PROJINHERIT: "P", fmt.FLAG_CASEFOLD: "F",
}  # fmt: skip
#: XFS shows each ACL a second time under these names; to set them there would make the ACL twice.
SHADOWS = b"trusted.SGI_ACL_"
_VERITY_ARGUMENT = struct.Struct("=III I QIIQ 11Q")
_FS_IOC_ENABLE_VERITY = inodes.ioctl_number(inodes.WRITE, ord("f"), 133, 128)
#: Free blocks below which "no space" means what it says, and not that a value is too large for an inode.
_FULL_BLOCKS = 64


def record_times(record: ObjectRecord, now_ns: int) -> tuple[int, int]:
    """Access and change time to set: access times are not kept, so the moment of the restore."""
    return now_ns, record.mtime_s * SECOND + record.mtime_ns


class Attributes:
    """Sets attributes and notes what was lost. One per process."""

    def __init__(self, owners: Owners, losses: Losses) -> None:
        self._owners = owners
        self._losses = losses
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._now_ns = time.time_ns()
        self._whole_seconds: Optional[bool] = None

    def early(self, descriptor: int, record: ObjectRecord, mask: int = EARLY_FILE_FLAGS) -> None:
        """Before data: the flags that only work on what is empty."""
        if record.flags & mask:
            self._set_flags(descriptor, record, mask)

    def finish(self, descriptor: int, record: ObjectRecord, *, seal: bool, has_mode: bool = False) -> None:
        """After data and links: everything. ``seal``: also +i and +a, after which the object can never be changed.

        ``has_mode``: it was made with the permission bits of ``record``.
        """
        self._owner(descriptor, record)
        if record.xattrs:
            for name, value in fmt.decode_xattrs(record.xattrs):
                self._xattr(descriptor, record, name, value, follow_symlinks=True)
        if not has_mode or record.xattrs or record.mode & _SPECIAL_BITS:
            os.chmod(descriptor, stat.S_IMODE(record.mode))
        if record.project:
            self._project(descriptor, record)
        if not self._utime(descriptor, record) or self._cut_off(record, lambda: os.fstat(descriptor)):
            self._losses.attribute(_TIME_RANGE, record.number)
        elif self._rounded(record, lambda: os.fstat(descriptor)):
            self._losses.attribute(_TIME_FRACTION, record.number)
        if record.flags:
            self._set_flags(descriptor, record, fmt.PORTABLE_FLAGS if seal else fmt.PORTABLE_FLAGS & ~SEALS)

    def finish_at(self, prefix: bytes, directory: int, name: bytes, record: ObjectRecord) -> None:
        """The same for what is not opened: symlinks, devices, fifos, sockets. ``prefix`` + name is a path to it."""
        uid, gid = self._owners.user(record.uid), self._owners.group(record.gid)
        if (uid, gid) != (self._uid, self._gid):
            try:
                os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                self._no_owner(error, record)
        for key, value in fmt.decode_xattrs(record.xattrs):
            self._xattr(prefix + name, record, key, value, follow_symlinks=False)
        if not stat.S_ISLNK(record.mode):
            os.chmod(name, stat.S_IMODE(record.mode), dir_fd=directory)
        if not self._utime(name, record, dir_fd=directory):
            self._losses.attribute(_TIME_RANGE, record.number)
        elif self._rounded(record, lambda: os.lstat(name, dir_fd=directory)):
            self._losses.attribute(_TIME_FRACTION, record.number)

    def strip(self, descriptor: int, record: ObjectRecord) -> None:
        """Take off what an object that was there before has and ``record`` lacks: its owner, xattrs, ACLs, flags, project."""
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) != (self._uid, self._gid):
            self._owner(descriptor, record, always=True)
        wanted = {name for name, _value in fmt.decode_xattrs(record.xattrs)}
        for listed in inodes.list_xattrs(descriptor):
            name = os.fsencode(listed)
            if name not in wanted and name.startswith(OURS_TO_REMOVE):
                os.removexattr(descriptor, name)
        if not record.flags:
            inodes.set_flags(descriptor, 0, fmt.PORTABLE_FLAGS)
        if not record.project:
            inodes.set_project(descriptor, 0)

    def times(self, descriptor: int, record: ObjectRecord) -> None:
        """Set the times again, after names in the directory have changed."""
        self._utime(descriptor, record)

    def _utime(self, where: int | bytes, record: ObjectRecord, dir_fd: Optional[int] = None) -> bool:
        """Set the times; False where the file system says that it cannot hold them (zfs-fuse)."""
        try:
            if dir_fd is None:
                os.utime(where, ns=record_times(record, self._now_ns))
            else:
                os.utime(where, ns=record_times(record, self._now_ns), dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            return False
        return True

    @staticmethod
    def _cut_off(record: ObjectRecord, look: Callable[[], os.stat_result]) -> bool:
        """Whether the kernel has silently put the nearest time that the file system can hold."""
        if _FIRST_SECOND <= record.mtime_s <= _LAST_SECOND:
            return False
        return look().st_mtime_ns // SECOND != record.mtime_s

    def _rounded(self, record: ObjectRecord, look: Callable[[], os.stat_result]) -> bool:
        """Whether the file system holds whole seconds alone; it is asked once."""
        if record.mtime_ns and self._whole_seconds is None:
            self._whole_seconds = look().st_mtime_ns % SECOND != record.mtime_ns
        return bool(record.mtime_ns and self._whole_seconds)

    def seal(self, descriptor: int, record: ObjectRecord) -> None:
        """+i and +a, last of all."""
        if record.flags & SEALS:
            self._set_flags(descriptor, record, SEALS)

    def seal_entry(self, descriptor: int, flags: int) -> None:
        """+i and +a of a name in the root, whose number nobody knows any more: a loss is the root's. A tree that is published
        cannot fail for it."""
        try:
            inodes.set_flags(descriptor, flags, SEALS)
        except OSError:
            for bit in (fmt.FLAG_IMMUTABLE, fmt.FLAG_APPEND):
                if flags & bit:
                    self._losses.attribute(f"inode flag {_LETTERS[bit]} (chattr +{_LETTERS[bit]})", ROOT_OBJECT)

    def verity(self, descriptor: int, record: ObjectRecord) -> None:
        """Enable fs-verity; ``descriptor`` is open for reading, and nobody has the file open for writing."""
        argument = _VERITY_ARGUMENT.pack(1, 1, fmt.BLOCK_SIZE, 0, 0, 0, 0, 0, *[0] * 11)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_ENABLE_VERITY, argument)
        except OSError:
            self._losses.attribute("fs-verity", record.number)

    def _owner(self, descriptor: int, record: ObjectRecord, *, always: bool = False) -> None:
        """``always``: also where that is who we are, and what we make is anyway."""
        uid, gid = self._owners.user(record.uid), self._owners.group(record.gid)
        if uid == self._uid and gid == self._gid and not always:
            return
        try:
            os.chown(descriptor, uid, gid)
        except OSError as error:
            self._no_owner(error, record)

    def _no_owner(self, error: OSError, record: ObjectRecord) -> None:
        """Not root, or a user namespace without that number."""
        if error.errno not in {errno.EPERM, errno.EINVAL}:
            raise error
        self._losses.attribute("owner", record.number)

    def _xattr(
        self, where: int | bytes, record: ObjectRecord, name: bytes, value: bytes, *, follow_symlinks: bool
    ) -> None:
        if name.startswith(SHADOWS):
            return
        try:
            os.setxattr(where, name, self._owners.xattr(name, value), follow_symlinks=follow_symlinks)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT} and not isinstance(where, bytes) and is_full(where):
                raise no_space("an extended attribute") from error
            if error.errno in {errno.EIO, errno.EROFS}:
                raise
            self._losses.attribute(_xattr_title(name), record.number)

    def _project(self, descriptor: int, record: ObjectRecord) -> None:
        try:
            inodes.set_project(descriptor, record.project)
        except OSError:
            self._losses.attribute("project id", record.number)

    def _set_flags(self, descriptor: int, record: ObjectRecord, mask: int) -> None:
        """All at once; where that fails, or the file system forgets some silently, one by one."""
        try:
            inodes.set_flags(descriptor, record.flags, mask)
        except OSError:
            self._flags_one_by_one(descriptor, record, mask)
        held, _project = inodes.get_flags(descriptor)
        for bit, letter in _LETTERS.items():
            if record.flags & mask & bit and not held & bit:
                self._losses.attribute(f"inode flag {letter} (chattr +{letter})", record.number)

    def _flags_one_by_one(self, descriptor: int, record: ObjectRecord, mask: int) -> None:
        for bit in sorted(_LETTERS, key=lambda bit: bool(bit & SEALS)):
            if not record.flags & mask & bit:
                continue
            try:
                inodes.set_flags(descriptor, bit, bit)
            except OSError as error:
                if error.errno == errno.EIO:
                    raise


def _xattr_title(name: bytes) -> str:
    if name.startswith(b"system.posix_acl_"):
        return "ACL"
    if name == b"security.capability":
        return "file capability"
    return f"extended attribute {name.partition(b'.')[0].decode(errors='replace')}.*"


def is_full(descriptor: int) -> bool:
    """Whether the file system has hardly a block left."""
    return os.fstatvfs(descriptor).f_bavail < _FULL_BLOCKS


def no_space(what: str) -> SpaceError:
    """The error for a full disk; what has arrived stays in staging."""
    return SpaceError(
        "the target's file system is full",
        why=f"no room for {what}",
        remedy="make room there and run the same restore again: it goes on where it stopped",
    )
