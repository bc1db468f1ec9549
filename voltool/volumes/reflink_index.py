"""The sidecar of a reflink clone: which inode of the volume each inode of the clone was, and its stamp. Ships to servers.

One file: head, the clone's inode numbers sorted, one record for each, what is known of the whole clone as JSON. It belongs
to one host and is never sent, so numbers are in the machine's own order. Knows nothing of how a clone is made.
"""

from __future__ import annotations

import bisect
import errno
import functools
import json
import mmap
import os
import re
import stat
import struct
from typing import Any, Container, Dict, FrozenSet, Iterator, Optional, Tuple

from voltool.spool import SortedSpool

_MAGIC = b"VTCLONE1"
#: magic, records, bytes of JSON
_HEAD = struct.Struct("=8sQQ")
#: The volume's inode number, mode, uid, gid, links, size (of a device its number), mtime ns, ctime ns.
SOURCE = struct.Struct("=QIIIIQqq")
SOURCE_SIZE = 48
assert SOURCE.size == SOURCE_SIZE
#: A source, flags, padding.
RECORD_SIZE = 56
_KEY = struct.Struct("=Q")

#: Seen at rest: nobody had it open for writing, and its stamp tells of every later change.
SETTLED = 0x01
#: A directory that was changed faster than it could be listed.
FUZZY = 0x02


def pack_source(status: os.stat_result, inode: Optional[int] = None) -> bytes:
    """The identity and stamp of an inode of the volume; ``inode`` instead of its own number."""
    mode = status.st_mode
    kind = stat.S_IFMT(mode)
    size = links = 0
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        size = status.st_rdev
    elif kind in (stat.S_IFREG, stat.S_IFLNK):
        size = status.st_size
    if kind != stat.S_IFDIR:
        links = status.st_nlink
    return SOURCE.pack(
        status.st_ino if inode is None else inode,
        mode,
        status.st_uid,
        status.st_gid,
        links,
        size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def source_inode(record: bytes) -> int:
    """The volume's inode number in a record."""
    number: int = _KEY.unpack_from(record)[0]
    return number


def add_record(spool: SortedSpool, inode: int, source: bytes, flags: int) -> None:
    """Note that ``inode`` of the clone was ``source``; once for each of its names. Flags that not all notes have are none."""
    spool.add(inode.to_bytes(8, "big") + source + bytes((flags,)) + bytes(7))


def write_index(path: bytes, spool: SortedSpool, fuzzy: Container[int], about: Dict[str, Any]) -> None:
    """Write the file, durably but not its name. An inode that was noted with two sources is not settled; ``fuzzy`` are
    inodes of the clone."""
    text = json.dumps(about).encode()
    with open(path, "wb", buffering=1 << 20) as file:
        file.write(bytes(_HEAD.size))
        count = 0
        for inode, _record in _distinct(spool, fuzzy):
            file.write(_KEY.pack(inode))
            count += 1
        file.writelines(record for _inode, record in _distinct(spool, fuzzy))
        file.write(text)
        file.seek(0)
        file.write(_HEAD.pack(_MAGIC, count, len(text)))
        file.flush()
        os.fsync(file.fileno())


def _distinct(spool: SortedSpool, fuzzy: Container[int]) -> Iterator[Tuple[int, bytes]]:
    current, record = b"", b""
    for entry in spool:
        if entry[:8] != current:
            if current:
                yield _finished(current, record, fuzzy)
            current, record = entry[:8], entry[8:]
        elif entry[8 : 8 + SOURCE_SIZE] == record[:SOURCE_SIZE]:
            record = record[:SOURCE_SIZE] + bytes((record[SOURCE_SIZE] & entry[8 + SOURCE_SIZE],)) + bytes(7)
        else:
            record = record[:SOURCE_SIZE] + bytes(8)
    if current:
        yield _finished(current, record, fuzzy)


def _finished(key: bytes, record: bytes, fuzzy: Container[int]) -> Tuple[int, bytes]:
    inode = int.from_bytes(key, "big")
    return inode, record[:SOURCE_SIZE] + bytes((FUZZY,)) + bytes(7) if inode in fuzzy else record


class CloneIndex:
    """The file, mapped into memory. Raises OSError or ValueError for one that is not as it was written."""

    def __init__(self, path: bytes) -> None:
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        magic, self.count, length = _HEAD.unpack_from(self._map)
        self._records = _HEAD.size + 8 * self.count
        if magic != _MAGIC or len(self._map) != self._records + RECORD_SIZE * self.count + length:
            raise ValueError("not the index of a clone")
        self._keys = memoryview(self._map)[_HEAD.size : self._records].cast("Q")
        self.about: Dict[str, Any] = json.loads(self._map[self._records + RECORD_SIZE * self.count :])
        #: What was mounted inside the volume and is not in the clone.
        self.skipped: Tuple[bytes, ...] = tuple(os.fsencode(path) for path in self.about["skipped"])
        #: See `Origins`.
        self.began_ns: int = self.about.get("began_ns", 0)  # an older voltool's does not say

    def find(self, inode: int) -> Optional[bytes]:
        """The record of an inode of the clone: its source, then a byte of flags."""
        at = bisect.bisect_left(self._keys, inode)
        if at == self.count or self._keys[at] != inode:
            return None
        start = self._records + RECORD_SIZE * at
        return self._map[start : start + RECORD_SIZE]

    def status(self, status: os.stat_result) -> os.stat_result:
        """What stat(2) said of the volume's inode, given that of the clone's. Raises OSError for a foreign one."""
        record = self.find(status.st_ino)
        if record is None:
            raise OSError(errno.ESTALE, "it was not in the clone when that was made")
        inode, mode, uid, gid, links, size, mtime, ctime = SOURCE.unpack_from(record)
        device = size if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0
        # Of a file that grew between the look at it and its clone, the clone's own size counts: it is not settled.
        length = status.st_size
        seconds = (status.st_atime_ns // 10**9, mtime // 10**9, ctime // 10**9)
        return os.stat_result(
            (mode, inode, status.st_dev, links or status.st_nlink, uid, gid, length, *seconds),
            {
                "st_atime_ns": status.st_atime_ns,
                "st_mtime_ns": mtime,
                "st_ctime_ns": ctime,
                "st_blocks": status.st_blocks,
                "st_blksize": status.st_blksize,
                "st_rdev": device,
            },
        )

    def is_kept(self, inode: int, source: bytes) -> bool:
        """Whether that inode of the clone is a clone of this very source, which was at rest."""
        record = self.find(inode)
        return record is not None and record[:SOURCE_SIZE] == source and bool(record[SOURCE_SIZE] & SETTLED)

    def settled(self, source: int) -> bool:
        """See `Origins`."""
        return source not in self._restless

    def fuzzy(self, source: int) -> bool:
        """See `Origins`."""
        return source in self._fuzzy

    @functools.cached_property
    def _restless(self) -> FrozenSet[int]:
        return self._sources_with(b"[^\\x01\\x03]")

    @functools.cached_property
    def _fuzzy(self) -> FrozenSet[int]:
        return self._sources_with(b"[\\x02\\x03]")

    def _sources_with(self, flags: bytes) -> FrozenSet[int]:
        """The volume's inodes whose flags match a class of bytes: few, in a clone of millions."""
        end = self._records + RECORD_SIZE * self.count
        found = re.finditer(flags, self._map[self._records + SOURCE_SIZE : end : RECORD_SIZE], re.DOTALL)
        return frozenset(_KEY.unpack_from(self._map, self._records + RECORD_SIZE * match.start())[0] for match in found)
