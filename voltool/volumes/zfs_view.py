"""How a ZFS snapshot is looked into. Ships to servers. Knows nothing of volumes or clones.

Through ``.zfs/snapshot``, where the kernel mounts it when it is entered. Where there is none (zfs-fuse; ``snapdir=disabled``) a
dataset below the snapshot's own, of the snapshot's name, shows it. It is mounted read-only at
``/run/voltool/zfs/<dataset>@<snapshot>``, with a percent sign, which no name has, for each slash.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Callable, Dict

from voltool.errors import HostError, RefusedError
from voltool.inodes import ZFS_CONTROL_INODE
from voltool.showing import shown
from voltool.volumes import zfs_command as zfs
from voltool.volumes.lock import mounting
from voltool.volumes.mounts import is_mount_point, mount_of, read_mounts
from voltool.volumes.records import check_own_directory

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTROL = b".zfs"
_SHOWN_AT = b"/run/voltool/zfs"


def place_of(root: bytes, snapshot: str) -> bytes:
    """Where the snapshot of the dataset that is mounted at ``root`` can be read."""
    control = os.path.join(root, _CONTROL)
    mount = mount_of(root, read_mounts())
    with contextlib.suppress(OSError):
        if mount is not None and mount.kind == zfs.OPENZFS and os.stat(control).st_ino == ZFS_CONTROL_INODE:
            return os.path.join(control, b"snapshot", os.fsencode(snapshot.partition("@")[2]))
    return os.path.join(_SHOWN_AT, flat_name(snapshot))


def flat_name(snapshot: str) -> bytes:
    """A snapshot's full name as the name of a directory."""
    return os.fsencode(snapshot.replace("/", "%"))


def open_place(place: bytes) -> int:
    """The root of the snapshot at ``place``, which is mounted for that where it is not. Raises OSError, VoltoolError."""
    if os.path.dirname(place) == _SHOWN_AT:
        _show(os.fsdecode(os.path.basename(place)).replace("%", "/"), place)
    root = os.open(place, _OPEN)
    if _is_control_directory(place, os.fstat(root).st_dev):
        os.close(root)
        raise OSError(errno.ENOENT, "the kernel did not mount the snapshot")
    return root


def hide(snapshot: str, call: Callable[..., str]) -> None:
    """Destroy the dataset that shows the snapshot, if there is one. Idempotent. Raises ZfsBusyError where somebody uses it."""
    reader, place = _reader_name(snapshot), os.path.join(_SHOWN_AT, flat_name(snapshot))
    if _origin(zfs.get([reader], "origin").get(reader, {})) != snapshot:
        return
    device = os.stat(place).st_dev if is_mount_point(place) else None
    try:
        call("destroy", reader)
    except zfs.ZfsBusyError:
        if device is None or is_mount_point(place) or not _cut_off(device):
            raise
        zfs.call_patiently("destroy", reader)
    with contextlib.suppress(OSError):
        os.rmdir(place)


def _cut_off(device: int) -> bool:
    """End what zfs-fuse still serves of a dataset that is unmounted here: other mount namespaces have copies of the mount, which
    nobody there knows of. False where that cannot be done. Source: Documentation/filesystems/fuse.rst (control filesystem)."""
    try:
        with open(f"/sys/fs/fuse/connections/{os.minor(device)}/abort", "wb") as file:
            file.write(b"1")
    except OSError:
        return False
    return True


def _reader_name(snapshot: str) -> str:
    """The dataset that shows a snapshot."""
    return snapshot.replace("@", "/")


def _origin(properties: Dict[str, zfs.Property]) -> str:
    return properties["origin"].value if "origin" in properties else ""


def _is_control_directory(path: bytes, device: int) -> bool:
    """Whether a snapshot's place in `.zfs` is still on the volume's own file system: nothing was mounted there."""
    control = os.path.dirname(os.path.dirname(path))
    return os.path.basename(control) == _CONTROL and os.stat(control).st_dev == device


def _show(snapshot: str, place: bytes) -> None:
    """Mount the snapshot at ``place``, by means of a dataset. Idempotent."""
    reader = _reader_name(snapshot)
    properties = zfs.get([reader], "origin", "mountpoint").get(reader)
    if properties is None:
        _make_own(_SHOWN_AT)
        zfs.call("clone", "-o", "canmount=noauto", "-o", "mountpoint=" + os.fsdecode(place), snapshot, reader)
    elif _origin(properties) != snapshot:
        raise RefusedError(
            "a dataset of voltool's name is not voltool's",
            where=shown(os.fsencode(reader)),
            why="it does not show the snapshot of that name",
            remedy="rename or destroy it",
        )
    elif properties["mountpoint"].value != os.fsdecode(place):  # the volume's dataset was renamed
        _make_own(_SHOWN_AT)
        zfs.call_patiently("set", "mountpoint=" + os.fsdecode(place), reader)
    if not is_mount_point(place):
        _make_own(_SHOWN_AT)
        zfs.call_patiently("mount", reader)
    if zfs.dataset_at(place) != reader:
        raise HostError(
            "the snapshot cannot be looked into",
            where=shown(place),
            why="it was mounted, but not where this agent sees it",
            remedy="reach the host without a mount namespace of its own",
        )
    # Not by readonly=on: there zfs-fuse says of a file without extended attributes that there are no such things, and from
    # then on the kernel believes it of all. Nobody but root comes here before.
    mounting.remount(place, read_only=True)


def _make_own(directory: bytes) -> None:
    for path in (os.path.dirname(directory), directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        check_own_directory(path)
