"""Object records of what has no content to read: directories, symlinks, devices, fifos, sockets. Ships to servers."""

from __future__ import annotations

import os
import stat
import time
from typing import NamedTuple, Optional, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import encode_xattrs
from voltool.origins import Origins, original
from voltool.tree.classify import Work
from voltool.tree.dirtable import DirTable
from voltool.tree.opening import is_settled_in_clone
from voltool.tree.stamps import decode_stamp, encode_stamp
from voltool.tree.walk import OPEN_DIRECTORY, SCAN_SIZE, TICK_NS, decode_self


class Described(NamedTuple):
    """A final object record, the stamp it belongs to, whether that is settled; ``record`` None: it vanished."""

    record: Optional[bytes]
    stamp: bytes
    settled: bool
    why: str = ""


class Describer:
    """Describes objects of one tree; caches one directory's descriptor."""

    def __init__(
        self, root_fd: int, table: DirTable, *, live: bool, clone_time_ns: int, origins: Optional[Origins] = None
    ) -> None:
        self._root_fd = root_fd
        self._table = table
        self._live = live
        self._clone_time_ns = clone_time_ns
        self._origins = origins
        self._cached: Tuple[int, int] = (-1, -1)

    def directory(self, work: Work, *, fuzzy: bool) -> Described:
        """A directory, from what the walk read through its descriptor."""
        stamp = decode_stamp(work.stamp)
        flags, project, xattrs = decode_self(bytes(SCAN_SIZE) + work.tail) if work.tail else (0, 0, b"")
        state = fmt.STATE_FUZZY if fuzzy else 0
        record = fmt.encode_object(
            fmt.ObjectRecord(
                work.number,
                stamp.mode,
                stamp.uid,
                stamp.gid,
                0,
                stamp.mtime_s,
                stamp.mtime_ns,
                flags,
                project,
                state,
                fmt.NO_HASH,
                b"",
                xattrs,
            )
        )
        return Described(record, work.stamp, not fuzzy and self._settled(work.inode, stamp.ctime))

    def special(self, work: Work) -> Described:
        """A symlink, device, fifo or socket, looked at again by its name."""
        try:
            directory = self._directory(work.directory)
            status = original(self._origins, os.stat(work.tail, dir_fd=directory, follow_symlinks=False))
            if stat.S_IFMT(status.st_mode) != stat.S_IFMT(decode_stamp(work.stamp).mode):
                return Described(None, work.stamp, settled=False)
            target = os.readlink(work.tail, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else b""
            xattrs = _xattrs_by_name(directory, work.tail)
        except FileNotFoundError:
            return Described(None, work.stamp, settled=False)
        except OSError as error:
            return Described(None, work.stamp, settled=False, why=error.strerror or str(error))
        stamp = encode_stamp(status)
        fields = decode_stamp(stamp)
        size = 0 if stat.S_ISLNK(status.st_mode) else fields.size
        record = fmt.encode_object(
            fmt.ObjectRecord(
                work.number,
                fields.mode,
                fields.uid,
                fields.gid,
                size,
                fields.mtime_s,
                fields.mtime_ns,
                0,
                0,
                0,
                fmt.NO_HASH,
                os.fsencode(target),
                xattrs,
            )
        )
        return Described(record, stamp, stamp == work.stamp and self._settled(status.st_ino, status.st_ctime_ns))

    def _settled(self, inode: int, ctime_ns: int) -> bool:
        if self._live:
            return time.time_ns() - ctime_ns > TICK_NS
        return is_settled_in_clone(self._origins, self._clone_time_ns, inode, ctime_ns)

    def _directory(self, index: int) -> int:
        if self._cached[0] != index:
            self.close()
            path = self._table.path(index)
            self._cached = (index, open_beneath(self._root_fd, path, OPEN_DIRECTORY) if path else os.dup(self._root_fd))
        return self._cached[1]

    def close(self) -> None:
        """Close the cached descriptor; idempotent."""
        if self._cached[1] >= 0:
            os.close(self._cached[1])
        self._cached = (-1, -1)


def _xattrs_by_name(directory: int, name: bytes) -> bytes:
    """llistxattr(2) has no descriptor form for what cannot be opened; /proc gives the directory a path."""
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return b""  # no /proc, or a file system without xattrs on such objects
    return encode_xattrs([(os.fsencode(n), os.getxattr(path, n, follow_symlinks=False)) for n in names])
