"""A walk whose directories are listed by several processes: of a large tree it is mostly stat(2), one after the other, and of an
image that nobody has looked at before each of them is waited for. Ships to servers.

What is out of the ordinary about a directory (an error, something mounted in it, more names than are held at once) is left to
the walk itself, which lists it again; so it is decided in one place. A worker reads a directory's stamp before it lists it,
as the walk does, so what a quiet tree proves is the same.
"""

from __future__ import annotations

import marshal
import os
import stat
from typing import List, Optional, Tuple

from voltool.beneath import open_beneath
from voltool.tree.pool import OrderedPool, Shared
from voltool.tree.stamps import encode_stamp
from voltool.tree.walk import (
    NAME,
    NAMES_AT_ONCE,
    OPEN_DIRECTORY,
    SCAN,
    SELF,
    Walker,
    encode_directory_attributes,
    quiet_stamp,
    readable_bytes,
)

#: Directories that one process lists before others are started, and that are to be known then: a small tree is done by that time.
ALONE = 64
#: Directories in one task.
_TASK = 16
_MOST_WORKERS = 4

#: stamp, SELF record, NAME records, directories (name, inode), bytes of files, of large files with holes (inode, bytes).
_Listing = Tuple[int, bytes, List[bytes], List[Tuple[bytes, int]], int, List[Tuple[int, int]]]


class SharedWalk(Walker):
    """As `Walker`."""

    def _drain(self) -> None:
        workers = min(_MOST_WORKERS, len(os.sched_getaffinity(0)))
        if workers < 2 or self._origins is not None or self._mounts or self._known is not None:
            super()._drain()
            return
        listed = 0
        while self._stack and (listed < ALONE or len(self._stack) < ALONE):
            self._list(self._stack.pop())
            listed += 1
        if self._stack:
            with OrderedPool(self._list_batch, workers) as pool:
                self._share(pool)

    def _share(self, pool: OrderedPool) -> None:
        table = self._result.table
        while self._stack or pool.in_flight:
            while self._stack and pool.has_room:
                batch, self._stack = self._stack[-_TASK:], self._stack[:-_TASK]
                pool.submit(marshal.dumps([(index, table.path(index), table.inodes[index]) for index in batch]))
            for result in pool.results(wait=True):
                for index, listing in marshal.loads(result):  # noqa: S302 - from our own forked child through a private pipe
                    self._take(index, listing)
            self._tick(self._result.entries, self._result.file_bytes)

    def _take(self, index: int, listing: Optional[_Listing]) -> None:
        if listing is None:
            self._list(index)
            return
        stamp, own, records, directories, size, sparse = listing
        result = self._result
        result.table.stamps[index] = stamp
        result.spool.add(own)
        for name, inode in directories:
            self._found_directory(index, name, inode)
        result.entries += len(records)
        result.file_bytes += size
        result.sparse.update(sparse)
        result.spool.add_many(records)

    # --------------------------------------------------------------------------------------------------- in the workers

    def _list_batch(self, task: bytes, _shared: Shared) -> bytes:
        batch = marshal.loads(task)  # noqa: S302 - from our own parent through a private pipe
        return marshal.dumps([(index, self._list_plain(index, path, inode)) for index, path, inode in batch])

    def _list_plain(self, index: int, path: bytes, inode: int) -> Optional[_Listing]:
        """What is in a directory; None where the walk has to look for itself."""
        try:
            descriptor = open_beneath(self._root_fd, path, OPEN_DIRECTORY)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if status.st_ino != inode or status.st_dev != self._device:
                return None
            quiet = quiet_stamp(status)
            own = SCAN.pack(inode, SELF, encode_stamp(status), index) + encode_directory_attributes(descriptor)
            return self._names_of(index, path, descriptor, (quiet, own))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _names_of(self, index: int, path: bytes, descriptor: int, head: Tuple[int, bytes]) -> Optional[_Listing]:
        excluder = self._excluder if self._excluder.active else None
        records: List[bytes] = []
        directories: List[Tuple[bytes, int]] = []
        sparse: List[Tuple[int, int]] = []
        size, pack, device = 0, SCAN.pack, self._device
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if excluder and excluder.matches(path, name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if status.st_dev != device or len(records) >= NAMES_AT_ONCE:
                    return None
                kind = status.st_mode & 0o170000
                if kind == stat.S_IFREG:
                    length = readable_bytes(status)
                    size += length
                    if length != status.st_size:
                        sparse.append((status.st_ino, length))
                elif kind == stat.S_IFDIR:
                    directories.append((name, status.st_ino))
                records.append(pack(status.st_ino, NAME, encode_stamp(status), index) + name)
        return (*head, records, directories, size, sparse)
