"""The tree that stands: reached by descriptors beneath its root, on its own file system and mount alone. Ships to servers.

Its users may change it at any moment, and may be hostile: no link is followed, no mount point is crossed, and what was seen
of an object is compared again right before anything is done to it (`Seen`). Source: proc_pid_fdinfo(5) for ``mnt_id``.
"""

from __future__ import annotations

import collections
import errno
import os
import stat
import struct
from typing import NamedTuple, Optional

from voltool.beneath import open_beneath

#: inode, mode, links, size (of a device its number), modification and change time in nanoseconds
_SEEN = struct.Struct(">QIIQqq")
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
#: Directories kept open.
CACHED = 64


class Seen(NamedTuple):
    """What an object was when it was compared."""

    inode: int
    mode: int
    links: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Seen:
        """From what lstat(2) says."""
        size = status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else status.st_size
        return cls(status.st_ino, status.st_mode, status.st_nlink, size, status.st_mtime_ns, status.st_ctime_ns)

    def is_still(self, status: Optional[os.stat_result]) -> bool:
        """Whether this is what is there now. The change time of what has several names changes with each that is replaced."""
        if status is None:
            return False
        now = Seen.of(status)
        if self.links > 1 or stat.S_ISDIR(self.mode):
            return (now.inode, stat.S_IFMT(now.mode)) == (self.inode, stat.S_IFMT(self.mode)) and (
                stat.S_ISDIR(self.mode) or (now.size, now.mtime_ns) == (self.size, self.mtime_ns)
            )
        return now == self

    def encode(self) -> bytes:
        """As bytes of a constant length."""
        return _SEEN.pack(*self)


def decode_seen(data: bytes) -> Optional[Seen]:
    """What `Seen.encode` made; None for an empty text: nothing was there."""
    return Seen(*_SEEN.unpack(data)) if data else None


class Ground:
    """The tree below the open directory ``root``, which stays the caller's. A few directories are kept open; `close` it."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._device = os.fstat(root).st_dev
        self._mount = _mount_of(root)
        self._open: collections.OrderedDict[bytes, int] = collections.OrderedDict()

    def directory(self, path: bytes) -> int:
        """A descriptor of the directory at ``path`` (``b""``: the root); OSError, EXDEV for what is mounted.

        It stays ours, and is good until another directory is asked for: whoever needs it for longer takes a copy.
        """
        if not path:
            return self.root
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        descriptor = open_beneath(self.root, path, _OPEN_DIRECTORY)
        if self.is_foreign(descriptor):
            os.close(descriptor)
            raise OSError(errno.EXDEV, "another file system is mounted there", path)
        if len(self._open) >= CACHED:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = descriptor
        return descriptor

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory that ``path`` lies in, and its name there. Raises OSError."""
        above, name = os.path.split(path)
        return self.directory(above), name

    def status(self, path: bytes) -> Optional[os.stat_result]:
        """lstat(2); None where nothing is."""
        try:
            directory, name = self.parent(path)
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: bytes) -> int:
        """Open a file or directory for reading; the caller closes it. OSError, EXDEV for what is mounted."""
        directory, name = self.parent(path)
        try:
            descriptor = os.open(name, _OPEN | os.O_NOATIME, dir_fd=directory)
        except PermissionError:
            descriptor = os.open(name, _OPEN, dir_fd=directory)
        if self.is_foreign(descriptor):
            os.close(descriptor)
            raise OSError(errno.EXDEV, "another file system is mounted there", path)
        return descriptor

    def open_root(self) -> int:
        """The root, opened once more; the caller closes it."""
        return os.dup(self.root)

    def is_foreign(self, descriptor: int) -> bool:
        """Whether an open file or directory is mounted where it is, or is a directory of another file system (a subvolume;
        of files overlayfs gives other device numbers)."""
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode) and status.st_dev != self._device:
            return True
        return _mount_of(descriptor) != self._mount

    def forget(self) -> None:
        """Close the directories that are kept open: their names may mean others from here on."""
        while self._open:
            os.close(self._open.popitem()[1])

    close = forget


def _mount_of(descriptor: int) -> int:
    """The number of the mount that it was opened through."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(errno.ENOSYS, "/proc does not tell of mounts")
