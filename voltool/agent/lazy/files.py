"""What the mount of a lazy replica answers: names and attributes from the manifest, bytes from the store, or fetched. libfuse's
threads call it.

What is missing and cannot be had is EIO and a line of the log, never zeros. Nothing that is shown ever changes, so the kernel may
keep it. Ships to servers.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import struct
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from voltool import inodes
from voltool.agent.lazy.demand import Demand
from voltool.agent.lazy.index import TreeIndex, next_data, next_zero
from voltool.agent.lazy.store import Store
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.errors import VoltoolError
from voltool.showing import shown

_FSXATTR = struct.Struct("=IIIII8x")
_SECTOR = 512
#: Directories whose position is remembered by path.
_PATHS = 4096
#: The same complaint is not logged again so soon, seconds; and so many are remembered.
_QUIET = 60.0
_REMEMBERED = 1000
_UTF8 = ("utf-8", "surrogateescape")


class _Handle:
    """What is open. ``descriptor``: of the file in the store, -1: not yet; ``whole``: all of it is there."""

    __slots__ = ("descriptor", "entries", "position", "record", "whole")

    def __init__(self, position: int, record: ObjectRecord) -> None:
        self.position = position
        self.record = record
        self.descriptor = -1
        self.whole = False
        self.entries: List[Tuple[str, Dict[str, int], int]] = []


class LazyFiles:
    """The file operations, called as mfusepy calls them. Methods raise OSError alone. ``tell`` gets a line for the log."""

    use_ns = True
    #: What is open is known by its handle: libfuse need not find out its path.
    flag_nopath = True
    flag_nullpath_ok = True

    def __init__(self, store: Store, demand: Demand, tell: Callable[[str], None]) -> None:
        self._store = store
        self._index: TreeIndex = store.index
        self._demand = demand
        self._tell_log = tell
        self._handles: Dict[int, _Handle] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._directories: Dict[str, int] = {"": self._index.root}
        self._told: Dict[str, float] = {}

    # ----------------------------------------------------------------------------------------------------- attributes

    def stat_into(self, path: Optional[str], handle: Optional[int], status: Any) -> None:
        """stat(2), into libfuse's structure (`fuse.Binding`). All times are mtime's; a directory has one link, as on btrfs."""
        if handle and handle in self._handles:
            record, position = self._handles[handle].record, self._handles[handle].position
        else:
            position = self._resolve(path or "/")
            record = self._index.record(position)
        self._fill_in(position, record, status)

    def _fill_in(self, position: int, record: ObjectRecord, status: Any) -> None:
        kind = stat.S_IFMT(record.mode)
        status.st_mode = record.mode
        status.st_ino = record.number
        status.st_nlink = 1 if kind == stat.S_IFDIR else self._index.links(position)
        status.st_uid = self._store.owners.user(record.uid)
        status.st_gid = self._store.owners.group(record.gid)
        status.st_blksize = fmt.BLOCK_SIZE
        if kind == stat.S_IFREG:
            status.st_size = record.size
            status.st_blocks = -(-self._allocated(position, record) // _SECTOR)
        else:
            status.st_blocks = 0
            status.st_size = len(record.target) if kind == stat.S_IFLNK else 0
        status.st_rdev = 0 if kind in {stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR} else record.size
        for moment in (status.st_atimespec, status.st_mtimespec, status.st_ctimespec):
            moment.tv_sec, moment.tv_nsec = record.mtime_s, record.mtime_ns

    def getattr(self, path: Optional[str], _handle: Optional[int] = None) -> Dict[str, int]:
        """Only that there is one is looked at: `stat_into` is called."""
        raise OSError(errno.ENOSYS, path)

    def _allocated(self, position: int, record: ObjectRecord) -> int:
        if record.size <= fmt.CHUNK_SIZE:
            return record.size
        return min(sum(count for _first, count, _base in self._index.runs(position)) * fmt.CHUNK_SIZE, record.size)

    def readlink(self, path: str) -> str:
        """The target of a symlink."""
        record = self._index.record(self._resolve(path))
        if record.state & fmt.STATE_UNKNOWN:
            raise OSError(errno.EIO, path)
        return record.target.decode(*_UTF8)

    def listxattr(self, path: str) -> List[str]:
        """The names of all extended attributes; the kernel leaves out what the caller may not see."""
        self._refuse_without_xattrs(path)
        record = self._index.record(self._resolve(path))
        return [name.decode(*_UTF8) for name, _value in fmt.decode_xattrs(record.xattrs)] if record.xattrs else []

    def getxattr(self, path: str, name: str) -> bytes:
        """One extended attribute; of ACLs with the numbers that their users and groups have here."""
        self._refuse_without_xattrs(path)
        record = self._index.record(self._resolve(path))
        if record.xattrs:
            wanted = name.encode(*_UTF8)
            for found, value in fmt.decode_xattrs(record.xattrs):
                if found == wanted:
                    return self._store.owners.xattr(found, value)
        raise OSError(errno.ENODATA, name)

    def _refuse_without_xattrs(self, path: str) -> None:
        """Where the whole tree has none, the kernel need not ask again: ``ls -l`` wants some of every file."""
        if not self._index.has_xattrs:
            raise OSError(errno.ENOSYS, path)

    def ioctl(
        self, _path: Optional[str], command: int, _argument: int, fh: int, _flags: int, data: Optional[int]
    ) -> int:
        """FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR: what lsattr shows."""
        import ctypes

        handle = self._handles.get(fh)
        if data and handle is not None:
            request = command & 0xFFFFFFFF
            if request == inodes.FS_IOC_GETFLAGS:
                ctypes.memmove(data, struct.pack("=I", handle.record.flags), 4)
                return 0
            if request == inodes.FS_IOC_FSGETXATTR:
                ctypes.memmove(data, _FSXATTR.pack(0, 0, 0, handle.record.project, 0), _FSXATTR.size)
                return 0
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def statfs(self, _path: str) -> Dict[str, int]:
        """That of the file system which it is filled on."""
        found = os.fstatvfs(self._store.staging.descriptor)
        names = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax")
        return {f"f_{name}": getattr(found, f"f_{name}") for name in names}

    # ---------------------------------------------------------------------------------------------------- directories

    def opendir(self, path: str) -> int:
        """All names of a directory."""
        position = self._resolve(path)
        handle = _Handle(position, self._index.record(position))
        index = self._index
        handle.entries = [
            (
                name.decode(*_UTF8),
                {"st_mode": index.mode(child), "st_ino": index.number(child), "position": child},
                0,
            )
            for name, child in index.children(position)
        ]
        return self._remember(handle)

    def readdir(self, _path: Optional[str], fh: int) -> Iterator[Tuple[str, Dict[str, int], int]]:
        """Name, type and inode number of each."""
        for name in (".", ".."):
            yield name, {"st_mode": stat.S_IFDIR}, 0
        yield from self._handles[fh].entries

    def entries_into(self, fh: int, offset: int, status: Any) -> Iterator[Tuple[bytes, int]]:
        """The names of a directory from ``offset`` on, each with the offset of what follows it; ``status`` has what stat(2) says
        of it meanwhile. Of ``.`` and ``..`` only the type is looked at."""
        handle = self._handles[fh]
        for number, name in enumerate((b".", b"..")):
            if offset <= number:
                self._fill_in(handle.position, handle.record, status)
                yield name, number + 1
        index = self._index
        for number, (text, found, _offset) in enumerate(handle.entries[max(0, offset - 2) :], max(3, offset + 1)):
            position = found["position"]
            self._fill_in(position, index.record(position), status)
            yield text.encode(*_UTF8), number

    def releasedir(self, _path: Optional[str], fh: int) -> int:
        """Close."""
        self._handles.pop(fh, None)
        return 0

    # ---------------------------------------------------------------------------------------------------------- files

    def open(self, path: str, flags: int) -> int:
        """A regular file, for reading."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, path)
        position = self._resolve(path)
        handle = _Handle(position, self._index.record(position))
        if self._store.is_present(position):
            self._take_local(handle)
        return self._remember(handle)

    def read(self, _path: Optional[str], size: int, offset: int, fh: int) -> bytes:
        """Bytes whose hash is right; EIO for others."""
        handle = self._handles[fh]
        if handle.whole:
            return os.pread(handle.descriptor, size, offset)
        if self._store.is_present(handle.position) and self._take_local(handle):
            return os.pread(handle.descriptor, size, offset)
        record = handle.record
        size = min(size, record.size - offset)
        if size <= 0:
            return b""
        with self._errors(handle.position):
            if record.size <= fmt.CHUNK_SIZE:
                data = self._demand.small(handle.position, record)
                if data is None:
                    return self._local(handle, size, offset)
                return data[offset : offset + size]
            return self._large(handle, size, offset)

    def release(self, _path: Optional[str], fh: int) -> int:
        """Close."""
        handle = self._handles.pop(fh, None)
        if handle is not None and handle.descriptor >= 0:
            os.close(handle.descriptor)
        return 0

    def lseek(self, _path: Optional[str], offset: int, whence: int, fh: int) -> int:
        """SEEK_DATA and SEEK_HOLE: of what is whole as it lies here, else to the chunk (1 MiB)."""
        handle = self._handles[fh]
        size = handle.record.size
        if not 0 <= offset < size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if handle.whole or (self._store.is_present(handle.position) and self._take_local(handle)):
            return os.lseek(handle.descriptor, offset, whence)
        if whence == os.SEEK_DATA:
            return self._next_data(handle, offset)
        if size <= fmt.CHUNK_SIZE:
            return size
        hole = next_zero(self._index, handle.position, offset // fmt.CHUNK_SIZE)
        return min(max(offset, hole * fmt.CHUNK_SIZE), size)

    def _next_data(self, handle: _Handle, offset: int) -> int:
        if handle.record.size <= fmt.CHUNK_SIZE:
            return offset
        found = next_data(self._index, handle.position, offset // fmt.CHUNK_SIZE)
        if found is None:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return max(offset, found * fmt.CHUNK_SIZE)

    # ------------------------------------------------------------------------------------------------------- the rest

    def switch(self) -> None:
        """Everything is in the store: what is open goes on from there."""
        for handle in list(self._handles.values()):
            if not handle.whole and stat.S_ISREG(handle.record.mode):
                with contextlib.suppress(OSError):
                    self._take_local(handle)

    def _take_local(self, handle: _Handle) -> bool:
        """Read the file of the store from now on; False where it is not there after all (or not for us): fetch."""
        with self._lock:
            if handle.descriptor < 0:
                try:
                    handle.descriptor = self._store.open(handle.position)
                except (FileNotFoundError, PermissionError):
                    return False
            handle.whole = self._store.is_present(handle.position)
        return True

    def _large(self, handle: _Handle, size: int, offset: int) -> bytes:
        parts = []
        end = offset + size
        for index in range(offset // fmt.CHUNK_SIZE, (end - 1) // fmt.CHUNK_SIZE + 1):
            start = index * fmt.CHUNK_SIZE
            low, high = max(offset, start) - start, min(end, start + fmt.CHUNK_SIZE) - start
            chunk = self._index.chunk(handle.position, index)
            if chunk is None:
                parts.append(bytes(high - low))
                continue
            data = None
            if not self._store.has_chunk(handle.position, chunk.id):
                data = self._demand.chunk(handle.position, handle.record, index, chunk)
            parts.append(self._local(handle, high - low, start + low) if data is None else data[low:high])
        return b"".join(parts)

    def _local(self, handle: _Handle, size: int, offset: int) -> bytes:
        """Bytes that are in the store."""
        if not self._take_local(handle):
            raise VoltoolError("what was fetched cannot be read", why="the file in the store cannot be opened")
        data = os.pread(handle.descriptor, size, offset)
        if len(data) != size:
            raise VoltoolError("the file in the store is shorter than it should be")
        return data

    def _resolve(self, path: str) -> int:
        """The position of what is at a path."""
        above, _slash, name = path.rpartition("/")
        directory = self._directories.get(above)
        if directory is None:
            directory = self._directory(above)
        if not name:
            return directory
        found = self._index.child(directory, name.encode(*_UTF8))
        if found < 0:
            raise OSError(errno.ENOENT, path)
        return found

    def _directory(self, path: str) -> int:
        position = self._index.root
        for name in path.split("/")[1:]:
            position = self._index.child(position, name.encode(*_UTF8))
            if position < 0:
                raise OSError(errno.ENOENT, path)
        if len(self._directories) >= _PATHS:
            self._directories = {"": self._index.root}
        self._directories[path] = position
        return position

    def _remember(self, handle: _Handle) -> int:
        number = next(self._numbers)
        self._handles[number] = handle
        return number

    @contextlib.contextmanager
    def _errors(self, position: int) -> Iterator[None]:
        """What cannot be had is an I/O error for whoever reads, and told to the administrator by name."""
        try:
            yield
        except VoltoolError as error:
            self._tell(f"{shown(self._index.path(position))} cannot be read: {error}")
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    def _tell(self, message: str) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._told.get(message, -_QUIET) < _QUIET:
                return
            if len(self._told) >= _REMEMBERED:
                self._told = {}
            self._told[message] = now
        self._tell_log(message)
