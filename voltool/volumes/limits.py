"""What a file system can hold, by its kind and its superblock; nothing is tried out. Ships to servers.

Measured on Linux 6.18, or taken from the kernel's sources: fs/ext4/ext4.h (EXT4_LINK_MAX, EXT4_MAX_BLOCK_FILE_PHYS,
i_[acm]time_extra), fs/ext4/xattr.h; fs/xfs/libxfs/xfs_format.h (XFS_SYMLINK_MAXLEN, bigtime); fs/btrfs/ctree.h
(BTRFS_LINK_MAX, BTRFS_MAX_XATTR_SIZE); fs/fat/fat.h. What is not known is not limited here.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from typing import Optional

from voltool.inodes import get_flags
from voltool.volumes.mounts import mount_of, read_mounts
from voltool.volumes.traits import traits_of

#: Inode flags by letter, as chattr(1) knows them (linux/fs.h).
LETTERS = {
    0x4: "c", 0x8: "S", 0x10: "i", 0x20: "a", 0x40: "d", 0x80: "A", 0x400: "m", 0x4000: "j", 0x10000: "D", 0x20000: "T",
    0x800000: "C", 0x2000000: "x", 0x20000000: "P", 0x40000000: "F",
}  # fmt: skip
_CASEFOLD = 0x40000000
_BLOCK = 4096
_FIRST_32 = -(1 << 31)


@dataclass(frozen=True)
class Limits:
    """Of one file system; -1 where nothing is known. ``name``: bytes of a name. ``xattr``: bytes of an extended attribute, name
    and value; ``xattr_entry`` the same, and ``xattrs`` of all of an inode, counted as `xattr_cost` does. ``first``, ``last``:
    seconds since the epoch that a time can have. ``flags``: letters of the inode flags it keeps, None: not known.
    ``folds_case``: names that differ only in case are one there, and a name must be UTF-8."""

    kind: str
    name: int = 255
    file_size: int = -1
    links: int = -1
    symlink: int = -1
    xattr: int = -1
    xattr_entry: int = -1
    xattrs: int = -1
    first: Optional[int] = None
    last: Optional[int] = None
    flags: Optional[str] = None
    projects: bool = True
    folds_case: bool = False


_KNOWN = {
    "ext4": Limits(
        "ext4",
        file_size=((1 << 32) - 1) * _BLOCK,
        links=65000,
        symlink=4095,
        xattr_entry=_BLOCK - 36,
        xattrs=_BLOCK - 36 + 92,
        first=_FIRST_32,
        last=(1 << 34) - (1 << 31) - 1,
        flags="cSiadAjDTxP",
        projects=False,
    ),
    "xfs": Limits("xfs", symlink=1023, first=_FIRST_32, last=(1 << 31) - 1, flags="SiadAxP"),
    "btrfs": Limits("btrfs", links=65535, symlink=4095, xattr=16228, flags="cSiadAmDC", projects=False),
    "tmpfs": Limits("tmpfs", flags="iadA", projects=False),
    "vfat": Limits(
        "vfat", file_size=(1 << 32) - 1, links=1, symlink=0, xattr=0, xattrs=0, first=315_532_800, last=4_354_819_198,
        flags="", projects=False, folds_case=True,
    ),
    "zfs-fuse": Limits("zfs-fuse", first=_FIRST_32, last=(1 << 31) - 1, flags="", projects=False),
    "exfat": Limits("exfat", links=1, symlink=0, xattr=0, xattrs=0, flags="", projects=False, folds_case=True),
}  # fmt: skip


def limits_of(directory: bytes) -> Limits:
    """What can be made in an existing directory. Raises OSError where it cannot be looked at."""
    kind = traits_of(directory).kind
    found = _KNOWN.get(kind, Limits(kind))
    longest = os.statvfs(directory).f_namemax
    if kind not in ("vfat", "exfat") and longest > 0:  # there it counts characters, and says bytes
        found = replace(found, name=longest)
    block = _superblock(directory)
    if kind == "ext4" and block is not None:
        found = _ext4(found, block)
    elif kind == "xfs" and block is not None:
        found = _xfs(found, block)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folds = bool(get_flags(descriptor)[0] & _CASEFOLD)
    finally:
        os.close(descriptor)
    return replace(found, folds_case=found.folds_case or folds)


def xattr_cost(name: bytes, value: int) -> int:
    """Bytes that an extended attribute takes on ext4: an entry, its name without the namespace, and a value of ``value`` bytes,
    each to a multiple of 4."""
    suffix = len(name.partition(b".")[2])
    return 16 + (suffix + 3) // 4 * 4 + (value + 3) // 4 * 4


def _superblock(directory: bytes) -> Optional[bytes]:
    """The first 4 KiB of the device, None where it cannot be read (not root, or no device)."""
    mount = mount_of(os.path.realpath(directory), read_mounts())
    if mount is None or not mount.source.startswith(b"/"):
        return None
    try:
        with open(mount.source, "rb", buffering=0) as device:
            return device.read(4096)
    except OSError:
        return None


def _ext4(known: Limits, block: bytes) -> Limits:
    """Documentation/filesystems/ext4/super.rst: the superblock is at 1024."""
    (magic,) = struct.unpack_from("<H", block, 1024 + 0x38)
    if magic != 0xEF53:
        return known
    (log_block,) = struct.unpack_from("<I", block, 1024 + 0x18)
    (inode_size,) = struct.unpack_from("<H", block, 1024 + 0x58)
    incompatible, read_only = struct.unpack_from("<II", block, 1024 + 0x60)
    size = 1024 << log_block
    symlink = min(4095, size - 1)
    found = replace(known, file_size=((1 << 32) - 1) * size, symlink=symlink, projects=bool(read_only & 0x2000))
    if inode_size <= 128:
        found = replace(found, last=(1 << 31) - 1)
    if incompatible & 0x400:  # ea_inode
        return replace(found, xattr_entry=-1, xattrs=-1)
    return replace(found, xattr_entry=size - 36, xattrs=size - 36 + max(0, inode_size - 164))


def _xfs(known: Limits, block: bytes) -> Limits:
    """xfs_format.h, struct xfs_dsb: sb_features_incompat at 216; bigtime is bit 3."""
    if block[:4] != b"XFSB":
        return known
    (incompatible,) = struct.unpack_from(">I", block, 216)
    return replace(known, last=16_299_260_424) if incompatible & 0x8 else known
