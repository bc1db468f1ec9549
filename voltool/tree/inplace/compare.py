"""Whether one object that stands is what the dump has: type, content, attributes. Ships to servers.

Content is compared by reading it: a stamp says nothing here, since nobody knows what the tree went through. Not compared is
what the dump's manifest does not have: access times, where holes lie, labels that the host's own policy gives.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.tree.apply.attributes import OURS_TO_REMOVE, SECOND, SHADOWS
from voltool.tree.apply.owners import Owners
from voltool.tree.inplace.ground import Ground, Seen

_CHUNK = fmt.CHUNK_SIZE


class Verdict(NamedTuple):
    """``seen``: as it was when it was compared; ``content``, ``attributes``: whether they are as they should be."""

    seen: Seen
    content: bool
    attributes: bool


class Comparer:
    """Compares objects of one tree. ``light``: contents are not read, only their sizes compared."""

    def __init__(self, ground: Ground, owners: Owners, *, light: bool = False) -> None:
        self._ground = ground
        self._owners = owners
        self._light = light
        self._flags = inodes.FlagReader()
        self.bytes_read = 0

    def file(self, path: bytes, record: ObjectRecord, seen: Seen) -> Verdict:
        """A regular file. One that cannot be read, or that somebody is writing to, counts as different."""
        if seen.size != record.size:
            return Verdict(seen, content=False, attributes=False)
        try:
            descriptor = self._ground.open(path)
        except OSError:
            return Verdict(seen, content=False, attributes=False)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                return Verdict(seen, content=False, attributes=False)
            same = before.st_size == record.size and (self._light or self._has_content(descriptor, record))
            attributes = same and self._opened_equal(descriptor, before, record)
            after = os.fstat(descriptor)
        except OSError:
            return Verdict(seen, content=False, attributes=False)
        finally:
            os.close(descriptor)
        quiet = Seen.of(before) == Seen.of(after)
        return Verdict(Seen.of(after), same and quiet, attributes)

    def directory(self, descriptor: int, record: ObjectRecord) -> bool:
        """Whether an open directory has all attributes of ``record``. Raises OSError."""
        return self._opened_equal(descriptor, os.fstat(descriptor), record)

    def special(self, path: bytes, record: ObjectRecord, seen: Seen) -> Verdict:
        """A symlink, device, fifo or socket: equal in everything or not."""
        try:
            directory, name = self._ground.parent(path)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            equal = Seen.of(status) == seen and self._status_equal(status, record)
            if stat.S_ISLNK(record.mode):
                equal = equal and os.readlink(name, dir_fd=directory) == record.target
            elif not stat.S_ISFIFO(record.mode) and not stat.S_ISSOCK(record.mode):
                equal = equal and status.st_rdev == record.size
            equal = equal and self._xattrs_equal(_xattrs_at(directory, name), record)
        except OSError:
            equal = False
        return Verdict(seen, equal, equal)

    # ---------------------------------------------------------------------------------------------------- attributes

    def _opened_equal(self, descriptor: int, status: os.stat_result, record: ObjectRecord) -> bool:
        if not self._status_equal(status, record):
            return False
        flags, project = self._flags.read(descriptor, status.st_dev)
        if (flags, project) != (record.flags, record.project):
            return False
        found = {os.fsencode(name): os.getxattr(descriptor, name) for name in inodes.list_xattrs(descriptor)}
        return self._xattrs_equal(found, record)

    def _status_equal(self, status: os.stat_result, record: ObjectRecord) -> bool:
        mtime_ns = record.mtime_s * SECOND + record.mtime_ns
        modes = stat.S_ISLNK(record.mode) or stat.S_IMODE(status.st_mode) == stat.S_IMODE(record.mode)
        owners = (self._owners.user(record.uid), self._owners.group(record.gid))
        return modes and (status.st_uid, status.st_gid) == owners and status.st_mtime_ns == mtime_ns

    def _xattrs_equal(self, found: Dict[bytes, bytes], record: ObjectRecord) -> bool:
        wanted = {name: self._owners.xattr(name, value) for name, value in fmt.decode_xattrs(record.xattrs)}
        wanted = {name: value for name, value in wanted.items() if not name.startswith(SHADOWS)}
        for name, value in found.items():
            if name.startswith(SHADOWS):
                continue
            if name not in wanted and not name.startswith(OURS_TO_REMOVE):
                continue
            if wanted.pop(name, None) != value:
                return False
        return not wanted

    # ------------------------------------------------------------------------------------------------------- content

    def _has_content(self, descriptor: int, record: ObjectRecord) -> bool:
        if record.size <= _CHUNK:
            data = os.pread(descriptor, record.size + 1, 0)
            self.bytes_read += len(data)
            return fmt.hash_small(data) == record.content
        return fmt.content_hash(record.size, self.chunks(descriptor, record.size)) == record.content

    def chunks(self, descriptor: int, size: int) -> Iterator[Tuple[bytes, int]]:
        """The chunk hashes of an open file; holes are not read."""
        count = -(-size // _CHUNK)
        index = 0
        while index < count:
            data_at = next_data(descriptor, index * _CHUNK)
            first = count if data_at is None else min(data_at // _CHUNK, count)
            if first > index:
                yield fmt.ZERO_CHUNK, first - index
                index = first
                continue
            yield self._chunk(descriptor, index * _CHUNK, min(_CHUNK, size - index * _CHUNK)), 1
            index += 1

    def _chunk(self, descriptor: int, offset: int, length: int) -> bytes:
        data = os.pread(descriptor, length, offset)
        while len(data) < length:
            more = os.pread(descriptor, length - len(data), offset + len(data))
            if not more:
                break  # somebody has cut it off: it is no longer what was asked about, and its stamp says so
            data += more
        self.bytes_read += len(data)
        view = memoryview(data)
        return fmt.ZERO_CHUNK if fmt.is_zero(view) else fmt.chunk_hash(fmt.block_hashes(view))


def next_data(descriptor: int, offset: int) -> Optional[int]:
    """Where the next byte that is not in a hole lies; None where there is none. Source: lseek(2)."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno == errno.EINVAL:
            return offset  # the file system does not tell
        raise


def _xattrs_at(directory: int, name: bytes) -> Dict[bytes, bytes]:
    """The xattrs of what cannot be opened; none where its file system has none."""
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    return {os.fsencode(key): os.getxattr(path, key, follow_symlinks=False) for key in names}
