"""A btrfs volume for tests, and a full reading of a tree: what `changes` is judged by."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from voltool.inodes import get_flags
from voltool.model import Epoch, VolumeRecord
from voltool.volumes import records
from voltool.volumes.btrfs_ioctl import create_subvolume
from voltool.volumes.zfs_command import create_dataset, dataset_at

UUID = "0123456789abcdef0123456789abcdef"


class Inode(NamedTuple):
    """Everything of one inode that a dump would keep, and the names in it if it is a directory."""

    mode: int
    links: int
    owner: tuple[int, int]
    device: int
    size: int
    mtime_ns: int
    flags: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes


def record_for(path: Path, driver: str, uuid: str = UUID) -> VolumeRecord:
    return VolumeRecord(
        uuid=uuid, name="vol", path=os.fsencode(path), driver=driver, epoch=Epoch(1, "token", "host"), sequence=0
    )


def make_volume(directory: Path, driver: str, state: Path, *, subvolume: bool = False) -> VolumeRecord:
    """An empty volume ``vol`` in ``directory``, registered."""
    if driver == "btrfs" or subvolume:
        descriptor = os.open(directory, os.O_RDONLY)
        create_subvolume(descriptor, b"vol")
        os.close(descriptor)
    elif driver == "zfs":
        create_dataset(f"{dataset_at(bytes(directory))}/vol", bytes(directory / "vol"))
    else:
        (directory / "vol").mkdir()
    record = record_for(directory / "vol", driver)
    records.create(os.fsencode(state), record)
    return record


def read_tree(root: bytes) -> dict[int, tuple[Inode, bytes]]:
    """Every inode below ``root``, with one of its paths."""
    found: dict[int, tuple[Inode, bytes]] = {}
    stack = [b""]
    while stack:
        relative = stack.pop()
        path = os.path.join(root, relative) if relative else root
        status = os.lstat(path)
        names = sorted(os.listdir(path)) if stat.S_ISDIR(status.st_mode) else []
        if not relative:
            names = [name for name in names if name != b".voltool"]
        found[status.st_ino] = (_read(path, status, names), relative)
        stack += [os.path.join(relative, name) for name in names]
    return found


def _read(path: bytes, status: os.stat_result, names: list[bytes]) -> Inode:
    content, flags = b"", (0, 0)
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISDIR(status.st_mode):
        content = b"/".join(name + b"=%d" % os.lstat(os.path.join(path, name)).st_ino for name in names)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        flags = get_flags(descriptor)
        if stat.S_ISREG(status.st_mode):
            with open(descriptor, "rb", closefd=False) as file:
                content = hashlib.sha256(file.read()).digest()
        os.close(descriptor)
    xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(_xattr_names(path)))
    return Inode(
        status.st_mode,
        0 if stat.S_ISDIR(status.st_mode) else status.st_nlink,
        (status.st_uid, status.st_gid),
        status.st_rdev,
        0 if stat.S_ISDIR(status.st_mode) else status.st_size,
        status.st_mtime_ns,
        flags,
        xattrs,
        content,
    )


def _xattr_names(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)
