"""What kind of file system something lies on and what may be relied upon there; and syncfs. Ships to servers.

Knows nothing of volumes or drivers. Sources: statfs(2), linux/magic.h; syncfs(2); fcntl(2) on leases; for tmpfs:
mm/shmem.c has no page_mkwrite, so a page dirtied again through a mapping leaves no stamp.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Union

from voltool.frozen import dataclass
from voltool.volumes.mounts import read_mounts


@dataclass(frozen=True)
class FilesystemTraits:
    """What a file system can be trusted with.

    ``stable_inodes``: the inode number of a file stays while it lives, also after a remount; without it home stamps
    are worthless. ``leases``: the lease test means something there *and* a stamp tells of every change, so that a file of
    a live tree can ever be called settled (not on tmpfs, which does not see mapped writes). ``clones``: it has snapshots
    or reflinks that a driver may use.
    """

    kind: str
    stable_inodes: bool
    leases: bool
    clones: bool = False


BTRFS_MAGIC = 0x9123683E
_FUSE_MAGIC = 0x65735546
_BY_MAGIC = {
    0xEF53: FilesystemTraits("ext4", stable_inodes=True, leases=True),
    0x58465342: FilesystemTraits("xfs", stable_inodes=True, leases=True, clones=True),
    BTRFS_MAGIC: FilesystemTraits("btrfs", stable_inodes=True, leases=True, clones=True),
    0xF2F52010: FilesystemTraits("f2fs", stable_inodes=True, leases=True),
    0x2FC12FC1: FilesystemTraits("zfs", stable_inodes=True, leases=True, clones=True),
    0xCA451A4E: FilesystemTraits("bcachefs", stable_inodes=True, leases=True, clones=True),
    0x3153464A: FilesystemTraits("jfs", stable_inodes=True, leases=True),
    0x52654973: FilesystemTraits("reiserfs", stable_inodes=True, leases=True),
    0x01021994: FilesystemTraits("tmpfs", stable_inodes=True, leases=False),
    0x858458F6: FilesystemTraits("ramfs", stable_inodes=True, leases=False),
    0x794C7630: FilesystemTraits("overlay", stable_inodes=False, leases=False),
    0x6969: FilesystemTraits("nfs", stable_inodes=False, leases=False),
    _FUSE_MAGIC: FilesystemTraits("fuse", stable_inodes=False, leases=False),
    0xFF534D42: FilesystemTraits("cifs", stable_inodes=False, leases=False),
    0xFE534D42: FilesystemTraits("smb2", stable_inodes=False, leases=False),
    0x01021997: FilesystemTraits("9p", stable_inodes=False, leases=False),
    0x00C36400: FilesystemTraits("ceph", stable_inodes=False, leases=False),
    0x4D44: FilesystemTraits("vfat", stable_inodes=False, leases=False),
    0x2011BAB0: FilesystemTraits("exfat", stable_inodes=False, leases=False),
}
#: File systems behind FUSE that are known, by what mountinfo calls them. zfs-fuse: the inode number is the object's, also in a
#: snapshot and after a remount; but times are given in whole seconds, so that a stamp does not tell of every change.
_BEHIND_FUSE = {"fuse.zfs": FilesystemTraits("zfs-fuse", stable_inodes=True, leases=False, clones=True)}
#: f_type is a long, but an unsigned int on s390x.
_TYPE = struct.Struct("@I" if platform.machine() == "s390x" else "@l")


def traits_of(place: Union[bytes, int]) -> FilesystemTraits:
    """The traits of the file system that a path or descriptor lies on; one that is not known is trusted with nothing.

    Raises OSError.
    """
    magic = _magic_of(place)
    known = _behind_fuse(place) if magic == _FUSE_MAGIC else _BY_MAGIC.get(magic)
    return known or FilesystemTraits(f"unknown ({magic:#x})", stable_inodes=False, leases=False)


def _behind_fuse(place: Union[bytes, int]) -> FilesystemTraits:
    device = os.stat(place).st_dev
    kinds = {mount.kind for mount in read_mounts() if os.makedev(*mount.device) == device}
    return next((_BEHIND_FUSE[kind] for kind in kinds if kind in _BEHIND_FUSE), _BY_MAGIC[_FUSE_MAGIC])


def _magic_of(place: Union[bytes, int]) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)
    if (libc.fstatfs if isinstance(place, int) else libc.statfs)(place, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), None if isinstance(place, int) else os.fsdecode(place))
    kind: int = _TYPE.unpack_from(buffer)[0]
    return kind & 0xFFFFFFFF


def synchronize(path: bytes) -> None:
    """syncfs(2): everything written to the file system of ``path`` is on its device. Raises OSError (EIO, ENOSPC)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fsdecode(path))
    finally:
        os.close(descriptor)
