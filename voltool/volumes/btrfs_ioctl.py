"""The btrfs ioctls that the driver needs, without btrfs-progs: numbers, structs, one function each. Ships to servers.

Functions take descriptors and raise OSError. Knows nothing of volumes. Source: linux/btrfs.h, linux/btrfs_tree.h.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from typing import Iterator, List, Optional, Tuple

from voltool.frozen import dataclass
from voltool.inodes import READ, WRITE, ioctl_number
from voltool.volumes.traits import traits_of

_MAGIC = 0x94
#: descriptor, name (struct btrfs_ioctl_vol_args)
_VOL_ARGS = struct.Struct("=q4088s")
#: descriptor, transaction, flags, unused, name (struct btrfs_ioctl_vol_args_v2)
_VOL_ARGS_V2 = struct.Struct("=qQQ32x4040s")
#: tree id, name, parent id, directory, generation, flags, three UUIDs, four transactions, times, reserved
_SUBVOL_INFO = struct.Struct("=Q256sQQQQ16s16s16sQQQQ64x64x")
#: tree id, object id, name
_INO_LOOKUP = struct.Struct("=QQ4080s")
#: inode, size of the buffer, reserved, address of the buffer
_INO_PATHS = struct.Struct("=QQ32xQ")
#: pipe, clone sources (count, address), parent's tree id, flags, version, reserved
_SEND = struct.Struct("=qQQQQI28x")
#: tree, objects from and to, offsets from and to, transactions from and to, types from and to, items, buffer size
_SEARCH = struct.Struct("=QQQQQQQIII4x32xQ")
#: transaction, object, offset, type, length
_SEARCH_HEADER = struct.Struct("=QQQII")
#: directory, sequence, length of the name
_ROOT_REF = struct.Struct("<QQH")

_SNAP_CREATE_V2 = ioctl_number(WRITE, _MAGIC, 23, _VOL_ARGS_V2.size)
_SUBVOL_CREATE = ioctl_number(WRITE, _MAGIC, 14, _VOL_ARGS.size)
_SNAP_DESTROY = ioctl_number(WRITE, _MAGIC, 15, _VOL_ARGS.size)
_SUBVOL_GETFLAGS = ioctl_number(READ, _MAGIC, 25, 8)
_SUBVOL_SETFLAGS = ioctl_number(WRITE, _MAGIC, 26, 8)
_GET_SUBVOL_INFO = ioctl_number(READ, _MAGIC, 60, _SUBVOL_INFO.size)
_INO_LOOKUP_CODE = ioctl_number(READ | WRITE, _MAGIC, 18, _INO_LOOKUP.size)
_INO_PATHS_CODE = ioctl_number(READ | WRITE, _MAGIC, 35, _INO_PATHS.size)
_SEND_CODE = ioctl_number(WRITE, _MAGIC, 38, _SEND.size)
_TREE_SEARCH_V2 = ioctl_number(READ | WRITE, _MAGIC, 17, _SEARCH.size)

_EXTENT_DATA_KEY = 108
#: Enough for what lies in the tree itself, and for some hundred extents.
_EXTENTS_BUFFER = 16 << 10

_READ_ONLY = 1 << 1
_SEND_NO_FILE_DATA = 0x1
_ROOT_TREE = 1
_ROOT_REF_KEY = 156
_ALL = (1 << 64) - 1
#: The inode number of every subvolume's root.
SUBVOLUME_ROOT_INODE = 256
_SEARCH_BUFFER = 1 << 16


@dataclass(frozen=True)
class Subvolume:
    """Who a subvolume is. ``parent_uuid`` is what it is a snapshot of; ``generation`` is that of its last change."""

    tree: int
    uuid: str
    parent_uuid: str
    generation: int
    read_only: bool


def is_subvolume(path: bytes) -> bool:
    """Whether ``path`` (not followed if a link) is the root of a btrfs subvolume. Raises OSError."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_ino != SUBVOLUME_ROOT_INODE:
        return False
    return traits_of(path).kind == "btrfs"


def subvolume_info(descriptor: int) -> Subvolume:
    """The subvolume that the descriptor lies in (Linux 4.18)."""
    buffer = bytearray(_SUBVOL_INFO.size)
    fcntl.ioctl(descriptor, _GET_SUBVOL_INFO, buffer, True)  # noqa: FBT003 - fcntl takes it by position alone
    tree, _name, _parent, _directory, _generation, _flags, uuid, parent_uuid, _received, changed, *_rest = (
        _SUBVOL_INFO.unpack(buffer)
    )
    (flags,) = struct.unpack("=Q", fcntl.ioctl(descriptor, _SUBVOL_GETFLAGS, bytes(8)))
    return Subvolume(tree, uuid.hex(), parent_uuid.hex(), changed, bool(flags & _READ_ONLY))


def create_subvolume(directory: int, name: bytes) -> None:
    """Make an empty subvolume ``name`` in ``directory``."""
    _ioctl(directory, _SUBVOL_CREATE, bytearray(_VOL_ARGS.pack(0, name)))


def create_snapshot(directory: int, name: bytes, source: int) -> None:
    """Make a read-only snapshot of the subvolume ``source`` as ``name`` in ``directory``; atomic."""
    _ioctl(directory, _SNAP_CREATE_V2, bytearray(_VOL_ARGS_V2.pack(source, 0, _READ_ONLY, name)))


def create_writable_snapshot(directory: int, name: bytes, source: int) -> None:
    """Make a writable snapshot of the subvolume ``source`` as ``name`` in ``directory``; atomic."""
    _ioctl(directory, _SNAP_CREATE_V2, bytearray(_VOL_ARGS_V2.pack(source, 0, 0, name)))


def set_read_only(subvolume: int, *, read_only: bool) -> None:
    """The property ``ro`` of a subvolume. Files that somebody has open for writing can be written to all the same."""
    (flags,) = struct.unpack("=Q", fcntl.ioctl(subvolume, _SUBVOL_GETFLAGS, bytes(8)))
    wanted = flags | _READ_ONLY if read_only else flags & ~_READ_ONLY
    if wanted != flags:
        fcntl.ioctl(subvolume, _SUBVOL_SETFLAGS, struct.pack("=Q", wanted))


def destroy_subvolume(directory: int, name: bytes) -> None:
    """Delete the subvolume ``name`` in ``directory``; its space comes back in the background."""
    _ioctl(directory, _SNAP_DESTROY, bytearray(_VOL_ARGS.pack(0, name)))


def lookup_inode(descriptor: int, inode: int, tree: int = 0) -> bytes:
    """A path of ``inode`` in subvolume ``tree`` (0: the descriptor's), relative to its root; ENOENT: it is not there."""
    if inode == SUBVOLUME_ROOT_INODE:
        return b""
    buffer = bytearray(_INO_LOOKUP.pack(tree, inode, b""))
    _ioctl(descriptor, _INO_LOOKUP_CODE, buffer)
    name: bytes = _INO_LOOKUP.unpack(buffer)[2]
    return name.split(b"\0", 1)[0].rstrip(b"/")


def inode_paths(descriptor: int, inode: int) -> List[bytes]:
    """Paths (as many as fit) of ``inode`` in the descriptor's subvolume; empty where it has no name or is not there."""
    if inode == SUBVOLUME_ROOT_INODE:
        return [b""]
    container = ctypes.create_string_buffer(_SEARCH_BUFFER)
    arguments = bytearray(_INO_PATHS.pack(inode, len(container), ctypes.addressof(container)))
    try:
        _ioctl(descriptor, _INO_PATHS_CODE, arguments)
    except FileNotFoundError:
        return []
    data = container.raw
    (count,) = struct.unpack_from("=I", data, 8)
    # the offsets are relative to where they themselves begin
    offsets = struct.unpack_from(f"={count}Q", data, 16)
    return [data[16 + offset : data.index(b"\0", 16 + offset)].lstrip(b"/") for offset in offsets]


def file_extents(descriptor: int, inode: int) -> Optional[List[Tuple[int, bytes]]]:
    """Offset and bytes of each extent item of a regular file in the descriptor's subvolume; None: there are too many. Needs
    CAP_SYS_ADMIN. Source: struct btrfs_file_extent_item."""
    head = _SEARCH.pack(
        0, inode, inode, 0, _ALL, 0, _ALL, _EXTENT_DATA_KEY, _EXTENT_DATA_KEY, 0xFFFFFFFF, _EXTENTS_BUFFER
    )
    buffer = bytearray(head) + bytearray(_EXTENTS_BUFFER)
    _ioctl(descriptor, _TREE_SEARCH_V2, buffer)
    found = list(_items(buffer))
    used = sum(_SEARCH_HEADER.size + len(item) for _offset, item in found)
    # The kernel stops before what does not fit; less than the largest item is left over then.
    return None if used > _EXTENTS_BUFFER // 2 else found


def send_without_data(snapshot: int, parent_tree: int, pipe: int) -> None:
    """Write the send stream (version 1, no file data) from the subvolume ``parent_tree`` to ``snapshot`` into ``pipe``.

    Blocks until it is written; needs CAP_SYS_ADMIN. The immutable argument makes Python give up its lock meanwhile.
    """
    fcntl.ioctl(snapshot, _SEND_CODE, _SEND.pack(pipe, 0, 0, parent_tree, _SEND_NO_FILE_DATA, 0))


def nested_subvolumes(descriptor: int) -> List[bytes]:
    """The paths of subvolumes directly inside the descriptor's, relative to its root; needs CAP_SYS_ADMIN."""
    tree = subvolume_info(descriptor).tree
    found = []
    for _child, item in _search(descriptor, tree, _ROOT_REF_KEY):
        directory, _sequence, length = _ROOT_REF.unpack_from(item)
        name = item[_ROOT_REF.size : _ROOT_REF.size + length]
        try:
            parent = lookup_inode(descriptor, directory, tree)
        except FileNotFoundError:
            continue  # deleted while we looked
        found.append(parent + b"/" + name if parent else name)
    return sorted(found)


def _search(descriptor: int, objectid: int, kind: int) -> Iterator[Tuple[int, bytes]]:
    """Offset and bytes of every item of one object and type in the tree of roots."""
    start = 0
    while True:
        head = _SEARCH.pack(
            _ROOT_TREE, objectid, objectid, start, _ALL, 0, _ALL, kind, kind, 0xFFFFFFFF, _SEARCH_BUFFER
        )
        buffer = bytearray(head) + bytearray(_SEARCH_BUFFER)
        _ioctl(descriptor, _TREE_SEARCH_V2, buffer)
        found = list(_items(buffer))
        if not found:
            return
        yield from found
        start = found[-1][0] + 1


def _items(buffer: bytearray) -> Iterator[Tuple[int, bytes]]:
    """Offset and bytes of each item that a search has put into the buffer."""
    (items,) = struct.unpack_from("=I", buffer, 64)
    position = _SEARCH.size
    for _item in range(items):
        _transaction, _object, offset, _type, length = _SEARCH_HEADER.unpack_from(buffer, position)
        position += _SEARCH_HEADER.size
        yield offset, bytes(buffer[position : position + length])
        position += length


def _ioctl(descriptor: int, code: int, argument: bytearray) -> None:
    fcntl.ioctl(descriptor, code, argument, True)  # noqa: FBT003 - fcntl takes it by position alone
