"""The overlay of a lazy move: a local directory that takes all writes, over the lazy mount. Ships to servers.

Knows nothing of moves, or of how what lies below comes. What was measured (Linux 6.18, upper on ext4, XFS, btrfs, FUSE below):

- ``redirect_dir=on``: without it rename(2) of a directory from below fails (EXDEV).
- ``index=off``: an index finds files below by what FUSE calls its handles, which are others after each start: then the mount is
  refused (ESTALE). The price: a file below with several names is one file no more once it is written to by one of them.
- ``metacopy=off``: a file in the upper directory is whole. The price: the first write to a file, or chmod of it, reads all of it.
- ``xino=off``: inode numbers of files below are theirs, with another st_dev than directories have.
- ``trusted.overlay.origin`` holds such a handle too. With redirect_dir=on the kernel believes it, even where the file system
  below is another one by now: **then it showed the bytes of one file under the name of another**. So `mount` takes all of
  them off first. Nothing here needs them.
- An overlay over a lazy mount whose process has died answers ENOTCONN for what is not in the upper directory. It must be mounted
  anew. Files of the upper directory that are open meanwhile are written to on and are the same files in the new mount.
- Never ``volatile``: fsync(2) must mean what it says. Never ``userxattr``: what marks the upper directory would be anybody's.

Sources: Documentation/filesystems/overlayfs, fs/overlayfs (``ovl_lower_uuid_ok``, ``ovl_allow_offline_changes``), mount(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct

from voltool import durable
from voltool.agent.lazymove.upper import PREFIX, copy_attributes, forget_origins
from voltool.beneath import opened_directory
from voltool.dumpfile import format as fmt
from voltool.errors import HostError, RefusedError, VoltoolError
from voltool.frozen import dataclass
from voltool.showing import shown
from voltool.volumes.mounts import mount_of, read_mounts
from voltool.volumes.removal import remove_tree

_KIND = "overlay"
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_RENAME_WHITEOUT = 4
_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61, "riscv64": 61, "s390x": 220, "ppc64le": 202}
#: Flags of the mount that the path lies on, which the overlay gets too.
_INHERITED = {
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "nosymfollow": 256,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
}
#: One page, with room for what the kernel adds.
_DATA_MAX = 4000
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Layers:
    """``lower``: what is below, never changed; ``upper`` takes what is written; ``work`` is the kernel's, empty, on the file
    system of ``upper``; ``path``: where it is mounted. All absolute."""

    lower: bytes
    upper: bytes
    work: bytes
    path: bytes


def check_upper(directory: bytes) -> None:
    """RefusedError or HostError unless an upper directory can lie in ``directory``. It tries: nothing of it stays."""
    if os.geteuid() != 0:
        raise HostError(
            "an overlay cannot be mounted", why="not root", remedy="connect as root, or voltool move without --lazy"
        )
    place = os.path.join(directory, b"overlay-trial-%d" % os.getpid())
    remove_tree(place)
    try:
        os.mkdir(place, 0o700)
        _try_attributes(place)
        _try_types(place)
        _try_mount(place)
    except OSError as error:
        raise _unfit(directory, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(VoltoolError):
            remove_tree(place)


def unfit(record: fmt.ObjectRecord) -> str:
    """Why an overlay cannot show this object as it is; empty: it can."""
    if stat.S_ISCHR(record.mode) and record.size == 0:
        return "a device 0:0 is what marks deleted names in an overlay"
    if record.flags & (fmt.FLAG_IMMUTABLE | fmt.FLAG_APPEND):
        return "immutable or append-only (chattr +i, +a), which an overlay does not keep to"
    if record.flags & fmt.FLAG_CASEFOLD:
        return "its names are without case (chattr +F)"
    if any(name.startswith(PREFIX) for name, _value in fmt.decode_xattrs(record.xattrs)):
        return "attributes trusted.overlay.*: part of another overlay"
    return ""


def prepare(layers: Layers) -> None:
    """Make upper and work directory; the root gets the attributes of what is below. Repeatable: what was written stays."""
    try:
        if not os.path.isdir(layers.upper):
            fresh = layers.upper + b".new"
            remove_tree(fresh)
            os.mkdir(fresh, 0o700)
            copy_attributes(layers.lower, fresh)
            durable.fsync_directory(fresh)
            os.rename(fresh, layers.upper)
        durable.make_directory(layers.work)
        durable.fsync_directory(os.path.dirname(layers.upper))
    except OSError as error:
        raise _unfit(layers.upper, error.strerror or str(error)) from error


def mount(layers: Layers) -> None:
    """Mount it, with the flags of the mount below. Only while no other overlay has this upper directory, but for one whose lower
    one is dead. Raises HostError; then nothing is mounted."""
    forget_origins(layers.upper)
    text = b"lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=on,index=off,metacopy=off,xino=off" % (
        _escaped(layers.lower, b"\\,:"),
        _escaped(layers.upper, b"\\,"),
        _escaped(layers.work, b"\\,"),
    )
    if len(text) > _DATA_MAX:
        raise HostError(
            "an overlay cannot be mounted", where=shown(layers.path), why="the names of its directories are too long"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _inherited_flags(layers.path)
    if libc.mount(b"voltool", layers.path, _KIND.encode(), ctypes.c_ulong(flags), text) != 0:
        code = ctypes.get_errno()
        raise HostError(
            "an overlay cannot be mounted",
            where=shown(layers.path),
            why="this kernel has none" if code == errno.ENODEV else os.strerror(code),
            remedy="look at the host's kernel log (dmesg); without one: voltool move without --lazy",
        )
    if not _has_redirects(layers.path):
        unmount(layers.path)
        raise _unfit(layers.upper, "it holds no trusted.overlay.* attributes")


def is_mounted(path: bytes) -> bool:
    """Whether an overlay of ours is what is mounted topmost at ``path``."""
    mounts = [mount for mount in read_mounts() if mount.point == path]
    return bool(mounts) and mounts[-1].kind == _KIND and mounts[-1].source == b"voltool"


def unmount(path: bytes) -> None:
    """Take it off; who has something open in it keeps it. Idempotent. Raises HostError."""
    libc = ctypes.CDLL(None, use_errno=True)
    while is_mounted(path):
        if libc.umount2(path, _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
            raise HostError("an overlay cannot be taken off", where=shown(path), why=os.strerror(ctypes.get_errno()))


def _inherited_flags(path: bytes) -> int:
    below = mount_of(path, read_mounts())
    return sum(_INHERITED.get(option, 0) for option in below.options) if below is not None else 0


def _escaped(path: bytes, special: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in special else bytes([byte]) for byte in path)


def _has_redirects(path: bytes) -> bool:
    mounts = [mount for mount in read_mounts() if mount.point == path]
    return bool(mounts) and "redirect_dir=on" in mounts[-1].super_options


def _try_attributes(place: bytes) -> None:
    os.setxattr(place, PREFIX + b"voltool", b"y")
    os.removexattr(place, PREFIX + b"voltool")
    with open(os.path.join(place, b"file"), "wb"):
        pass
    durable.rename_with_flags(os.path.join(place, b"file"), os.path.join(place, b"renamed"), _RENAME_WHITEOUT)


def _try_types(place: bytes) -> None:
    """The file system must tell a name's type with the name (XFS: ftype=1). Source: getdents64(2)."""
    number = _SYS_GETDENTS64.get(os.uname().machine)
    if number is None:
        return  # the trial mount has to do
    with opened_directory(place) as directory:
        data = ctypes.create_string_buffer(4096)
        length = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), directory, data, ctypes.c_long(4096))
        at = 0
        while at < length:
            size, kind = struct.unpack_from("=HB", data.raw, at + 16)
            if kind == 0:
                raise OSError(errno.EOPNOTSUPP, "it does not tell the type of a name with the name (d_type)")
            at += size


def _try_mount(place: bytes) -> None:
    names = [os.path.join(place, name) for name in (b"lower", b"upper", b"work", b"mount")]
    for name in names:
        os.mkdir(name, 0o700)
    layers = Layers(*names)
    try:
        mount(layers)
    finally:
        unmount(layers.path)


def _unfit(directory: bytes, why: str) -> RefusedError:
    return RefusedError(
        "this file system cannot hold the upper directory of an overlay",
        where=shown(directory),
        why=why,
        remedy="voltool move without --lazy, or a target on ext4, XFS or btrfs",
    )
