"""Moves the flat directories into their parents, children first, and gives each its attributes right after.

Each directory lies at a flat path of constant length until it is moved, so no path is ever resolved through another
directory of the tree, and depth is no limit. It can be repeated after a crash: a directory that has left its flat place
is in its parent. Part of what is shipped to servers.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Iterator, List, NamedTuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.apply.attributes import SEALS, Attributes
from voltool.tree.apply.files import flat_directory, flat_path, translate
from voltool.tree.apply.losses import Losses

_DEEPEST_FIRST = 0xFFFFFFFF
_KEY = struct.Struct(">IQQB")
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_HOLD = {
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EILSEQ,
    errno.EMLINK,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOTDIR,
}


class Placed(NamedTuple):
    """A directory and where it belongs."""

    parent: int
    name: bytes
    record: ObjectRecord


class DirectorySpool:
    """All directories but the root, to be read deepest first and grouped by parent; flat memory."""

    def __init__(self, temporary: bytes) -> None:
        self._spool = SortedSpool(temporary, run_bytes=8 << 20)
        self.root: bytes | None = None

    def add(self, depth: int, parent: int, name: bytes, record: bytes) -> None:
        """Add one directory with its final record."""
        number = int.from_bytes(record[:8], "big")
        if number == ROOT_OBJECT:
            self.root = record
            return
        self._spool.add(_KEY.pack(_DEEPEST_FIRST - depth, parent, number, len(name)) + name + record)

    def __iter__(self) -> Iterator[Placed]:
        for data in self._spool:
            _depth, parent, _number, length = _KEY.unpack_from(data)
            start = _KEY.size
            yield Placed(parent, data[start : start + length], fmt.decode_object(data[start + length :]))

    def close(self) -> None:
        """Free it; idempotent."""
        self._spool.close()


class Assembler:
    """Puts the directories of a spool together below ``staging``; see the module."""

    def __init__(self, staging: int, attributes: Attributes, losses: Losses) -> None:
        self._staging = staging
        self._attributes = attributes
        self._losses = losses
        self._parent = 0
        self._parent_fd = -1
        #: Top directories whose seals must wait until they are published.
        self.unsealed: List[Placed] = []

    def run(self, directories: DirectorySpool) -> None:
        """Assemble everything but the root, which stays at its flat path. Raises VoltoolError."""
        try:
            for placed in directories:
                self._place(placed)
        except OSError as error:
            raise translate(error, "a directory") from error
        finally:
            self._forget_parent()

    def _place(self, placed: Placed) -> None:
        parent = self._open_parent(placed.parent)
        if parent < 0:
            return  # an assembly that was interrupted has moved the parent, after all its children
        try:
            os.rename(flat_path(placed.record.number), placed.name, src_dir_fd=self._staging, dst_dir_fd=parent)
        except FileNotFoundError:
            pass  # it has been moved; its attributes may still be missing
        except OSError as error:
            if error.errno not in _CANNOT_HOLD:
                raise
            self._losses.object(placed.record.number, f"the target cannot hold a directory: {error.strerror}")
            return
        try:
            descriptor = os.open(placed.name, _OPEN, dir_fd=parent)
        except FileNotFoundError:
            raise fmt.damaged("a staged directory has vanished") from None
        try:
            self._finish(descriptor, placed)
        finally:
            os.close(descriptor)

    def _finish(self, descriptor: int, placed: Placed) -> None:
        if placed.record.flags & SEALS:
            inodes.set_flags(descriptor, 0, SEALS)
            if placed.parent == ROOT_OBJECT:
                self.unsealed.append(placed)
        self._attributes.finish(descriptor, placed.record, seal=placed.parent != ROOT_OBJECT)

    def _open_parent(self, parent: int) -> int:
        if parent != self._parent:
            self._forget_parent()
            self._parent = parent
            try:
                self._parent_fd = os.open(flat_directory(parent), _OPEN, dir_fd=self._staging)
            except FileNotFoundError:
                self._parent_fd = -1
        return self._parent_fd

    def _forget_parent(self) -> None:
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = 0, -1
