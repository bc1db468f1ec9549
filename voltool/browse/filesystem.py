"""What a mount answers: attributes, names, bytes, extended attributes, by path. libfuse's threads call it.

An error of ours becomes an errno and a line of the log. What cannot be verified is EIO, never zeros and never a guess. Knows
points in time and trees; libfuse is known to `fuse` alone, through which this is called.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import itertools
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from voltool.browse.opened import OpenPoints
from voltool.browse.points import LATEST, Points
from voltool.browse.tree import Named, Tree, is_unreadable
from voltool.dumpfile import format as fmt
from voltool.dumpfile.content import Content
from voltool.errors import VoltoolError
from voltool.events import Notice, Reporter
from voltool.model import ROOT_OBJECT, StoredDump

#: linux/fs.h
_GETFLAGS, _FSGETXATTR = 0x80086601, 0x801C581F
_FSXATTR = struct.Struct("=IIIII8x")
_SECTOR = 512
#: Of an inode number, so many bits are for the object.
_OBJECT_BITS = 40
#: The same complaint is not logged again so soon, seconds.
_QUIET = 60.0

Attributes = dict[str, int]


@dataclass(frozen=True)
class _Place:
    """A path that has been resolved: something in a dump's tree, or, without a dump, of the mount's own."""

    dump: StoredDump | None
    parts: tuple[bytes, ...]


@dataclass
class _Handle:
    """What is open: a directory's names, or a file's bytes; ``dump`` is held meanwhile."""

    dump: StoredDump | None
    entries: list[tuple[bytes, int, int]]
    record: fmt.ObjectRecord | None = None
    content: Content | None = None


class VolumeFiles:
    """The file operations, called as mfusepy calls them. Methods raise OSError alone."""

    use_ns = True

    def __init__(self, points: Points, opened: OpenPoints, reporter: Reporter) -> None:
        self._points = points
        self._opened = opened
        self._reporter = reporter
        self._handles: dict[int, _Handle] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._told: dict[str, float] = {}
        self._began_ns = time.time_ns()

    # ----------------------------------------------------------------------------------------------------- operations

    def getattr(self, path: str, _fh: int | None = None) -> Attributes:
        """stat(2)."""
        with self._errors(path):
            place = self._resolve(path)
            if place.dump is None:
                return self._own_attributes(place)
            with self._opened.use(place.dump) as tree:
                found = attributes(tree, self._record(tree, place))
            return found | {"st_ino": self._inode(place.dump, found["st_ino"])}

    def readlink(self, path: str) -> str:
        """The target of a symlink."""
        with self._errors(path):
            place = self._resolve(path)
            if place.dump is None:
                return os.fsdecode(next(reversed(self._points.folders())))
            with self._opened.use(place.dump) as tree:
                record = self._record(tree, place)
                if is_unreadable(record):
                    raise OSError(errno.EIO, path)
                return record.target.decode("utf-8", "surrogateescape")

    def opendir(self, path: str) -> int:
        """All names of a directory, as they are now."""
        with self._errors(path):
            place = self._resolve(path)
            if place.dump is None:
                return self._remember(_Handle(None, self._own_entries()))
            tree = self._opened.hold(place.dump)
            try:
                record = self._record(tree, place)
                entries = [self._entry(place.dump, named) for named in tree.children(record.number)]
                return self._remember(_Handle(place.dump, entries, record))
            except BaseException:
                self._opened.release(place.dump)
                raise

    def readdir(self, _path: str | None, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        """Name, type and inode number of each."""
        for name in (".", ".."):
            yield name, {"st_mode": stat.S_IFDIR}, 0
        for raw, mode, number in self._handles[fh].entries:
            yield raw.decode("utf-8", "surrogateescape"), {"st_mode": mode, "st_ino": number}, 0

    def open(self, path: str, flags: int) -> int:
        """A regular file, for reading."""
        with self._errors(path):
            if flags & os.O_ACCMODE != os.O_RDONLY:
                raise OSError(errno.EROFS, path)
            place = self._resolve(path)
            if place.dump is None:
                raise OSError(errno.EISDIR, path)
            tree = self._opened.hold(place.dump)
            try:
                record = self._record(tree, place)
                return self._remember(_Handle(place.dump, [], record, _known_content(tree, record)))
            except BaseException:
                self._opened.release(place.dump)
                raise

    def read(self, path: str | None, size: int, offset: int, fh: int) -> bytes:
        """Bytes whose hash is right; EIO for others."""
        handle = self._handles[fh]
        with self._errors(path, handle):
            assert handle.content is not None
            return handle.content.read(offset, size)

    def lseek(self, path: str | None, offset: int, whence: int, fh: int) -> int:
        """SEEK_DATA and SEEK_HOLE, to the chunk (1 MiB)."""
        handle = self._handles[fh]
        with self._errors(path, handle):
            assert handle.content is not None
            return seek(handle.content, offset, whence)

    def release(self, _path: str | None, fh: int) -> int:
        """Close."""
        with self._lock:
            handle = self._handles.pop(fh)
        if handle.dump is not None:
            self._opened.release(handle.dump)
        return 0

    releasedir = release

    def listxattr(self, path: str) -> list[str]:
        """The names of all extended attributes; the kernel leaves out what the caller may not see."""
        return [name.decode("utf-8", "surrogateescape") for name in self._xattrs(path)]

    def getxattr(self, path: str, name: str) -> bytes:
        """One extended attribute."""
        value = self._xattrs(path).get(name.encode("utf-8", "surrogateescape"))
        if value is None:
            raise OSError(errno.ENODATA, name)
        return value

    def _xattrs(self, path: str) -> dict[bytes, bytes]:
        with self._errors(path):
            place = self._resolve(path)
            if place.dump is None:
                return {}
            with self._opened.use(place.dump) as tree:
                return tree.xattrs(self._record(tree, place))

    def ioctl(self, path: str | None, command: int, _argument: int, fh: int, _flags: int, data: int | None) -> int:
        """FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR: what lsattr shows."""
        import ctypes

        record = self._handles[fh].record
        with self._errors(path, self._handles[fh]):
            if data and record is not None and command & 0xFFFFFFFF == _GETFLAGS:
                ctypes.memmove(data, struct.pack("=I", record.flags), 4)
                return 0
            if data and record is not None and command & 0xFFFFFFFF == _FSGETXATTR:
                ctypes.memmove(data, _FSXATTR.pack(0, 0, 0, record.project, 0), _FSXATTR.size)
                return 0
            raise OSError(errno.ENOTTY, path)

    def statfs(self, _path: str) -> dict[str, int]:
        """No room, and long names: df shows it as full."""
        return {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": 255}

    # -------------------------------------------------------------------------------------------------------- the rest

    def _resolve(self, path: str) -> _Place:
        parts = tuple(part for part in path.encode("utf-8", "surrogateescape").split(b"/") if part)
        if self._points.single is not None:
            return _Place(self._points.single, parts)
        if not parts:
            return _Place(None, ())
        if parts == (LATEST,) and self._points.folders():
            return _Place(None, parts)
        dump = self._points.find(parts[0])
        if dump is None:
            raise OSError(errno.ENOENT, path)
        return _Place(dump, parts[1:])

    @staticmethod
    def _record(tree: Tree, place: _Place) -> fmt.ObjectRecord:
        record = tree.lookup(place.parts)
        if record is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return record

    def _own_attributes(self, place: _Place) -> Attributes:
        folders = self._points.folders()
        times = [dump.header.clone_time_ns for dump in folders.values()] or [self._began_ns]
        link = bool(place.parts)
        return {
            "st_mode": stat.S_IFLNK | 0o777 if link else stat.S_IFDIR | 0o555,
            "st_ino": 2 if link else 1,
            "st_nlink": 1,
            "st_uid": os.geteuid(),
            "st_gid": os.getegid(),
            "st_size": len(next(reversed(folders))) if link else 0,
            **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), max(times)),
        }

    def _own_entries(self) -> list[tuple[bytes, int, int]]:
        folders = [
            (name, stat.S_IFDIR, self._inode(dump, ROOT_OBJECT)) for name, dump in self._points.folders().items()
        ]
        return [*folders, (LATEST, stat.S_IFLNK, 2)] if folders else []

    def _entry(self, dump: StoredDump, named: Named) -> tuple[bytes, int, int]:
        return named.name, stat.S_IFMT(named.record.mode), self._inode(dump, named.record.number)

    def _inode(self, dump: StoredDump, number: int) -> int:
        """The object's number; where several points in time are shown, with the point's own above it: who sees one inode number
        twice takes both for one file, and diff(1) would not even look."""
        if self._points.single is not None:
            return number
        with self._lock:
            place = self._places.setdefault(dump.header.dump_id, len(self._places) + 1)
        return number | place << _OBJECT_BITS

    def _remember(self, handle: _Handle) -> int:
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
        return number

    @contextlib.contextmanager
    def _errors(self, path: str | None, handle: _Handle | None = None) -> Iterator[None]:
        """What is wrong with a dump is an I/O error for whoever reads, and told to the administrator."""
        try:
            yield
        except VoltoolError as error:
            what = path if path is not None else f"object {handle.record.number if handle and handle.record else 0}"
            self._tell(f"{what!a}: {error}")
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from None

    def _tell(self, message: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._told = {text: at for text, at in self._told.items() if now - at < _QUIET}
            if message in self._told:
                return
            self._told[message] = now
        self._reporter.report(Notice("error", message))


def attributes(tree: Tree, record: fmt.ObjectRecord) -> Attributes:
    """stat(2) of an object. No directory counts its subdirectories: it has one link, as on btrfs. All times are mtime's."""
    regular = stat.S_ISREG(record.mode)
    directory = stat.S_ISDIR(record.mode)
    size = record.size if regular else len(record.target)
    moment = record.mtime_s * 10**9 + record.mtime_ns
    return {
        "st_mode": record.mode,
        "st_ino": record.number,
        "st_nlink": 1 if directory else tree.links(record.number),
        "st_uid": tree.owners.user(record.uid),
        "st_gid": tree.owners.group(record.gid),
        "st_rdev": 0 if regular or directory else record.size,
        "st_size": size,
        "st_blocks": -(-tree.allocated(record) // _SECTOR) if regular else 0,
        "st_blksize": fmt.BLOCK_SIZE,
        "st_atime": moment,
        "st_mtime": moment,
        "st_ctime": moment,
    }


def seek(content: Content, offset: int, whence: int) -> int:
    """Where the next chunk with data, or of zeros only, begins; OSError(ENXIO) where there is none."""
    size = content.record.size
    if not 0 <= offset < size:
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
    chunks = content.data_chunks()
    number = offset // fmt.CHUNK_SIZE
    at = bisect.bisect_left(chunks, number)
    if whence == os.SEEK_DATA:
        if at == len(chunks):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return max(offset, chunks[at] * fmt.CHUNK_SIZE)
    if whence != os.SEEK_HOLE:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    while at < len(chunks) and chunks[at] == number:
        at += 1
        number += 1
    return min(max(offset, number * fmt.CHUNK_SIZE), size)


def _known_content(tree: Tree, record: fmt.ObjectRecord) -> Content:
    content = tree.content(record)
    if not content.is_known:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return content
