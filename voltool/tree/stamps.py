"""Home stamps: what lets this host see cheaply that an inode has not changed. Never portable. Ships to servers.

A stamp is what stat(2) says of an inode without its names. A home stamp record binds an inode number to an object number
and a stamp; a file of them is sorted by inode number and searched in place.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from itertools import chain
from typing import AbstractSet, Iterable, Iterator, NamedTuple, Optional, Set

#: mode, uid, gid, size (device number of a device), mtime s, ns, ctime s, ns, links. The first six stand as in an object
#: record of a regular file, so that they are copied there as they are.
STAMP = struct.Struct(">IIIQqIqII")
STAMP_SIZE = 48
assert STAMP.size == STAMP_SIZE

#: Parts of a stamp by position: the mode, the owners, the size, and what an object record shares with it.
MODE = slice(0, 4)
OWNERS = slice(4, 12)
SIZE = slice(12, 20)
SHARED = slice(0, 32)

#: inode, object number, stamp, flags, layout digest
HOME = struct.Struct(">QQ48sB8s")
HOME_SIZE = 73
assert HOME.size == HOME_SIZE
#: Of a home stamp record the object number alone, and with it the owners.
_NUMBER = struct.Struct(">8xQ57x")
_NUMBER_AND_OWNERS = struct.Struct(">8xQ4x8s45x")
#: Where in a home stamp record the flags are.
FLAGS_AT = 16 + STAMP_SIZE
assert _NUMBER.size == _NUMBER_AND_OWNERS.size == HOME_SIZE

#: The content under this stamp was seen whole and at rest: equal stamps mean equal content.
SETTLED = 0x01
#: It was read whole out of a clone that nobody can write to: who knows what differs from that very clone needs no stamp.
FROZEN = 0x02

NO_LAYOUT = b"\0" * 8
#: So many records are read, and passed over, at once.
_AT_A_TIME = 512
SECOND = 1_000_000_000
#: More than enough of them.
_TICKS = SECOND


class Stamp(NamedTuple):
    """A decoded stamp; times in seconds and nanoseconds since the epoch."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_s: int
    mtime_ns: int
    ctime_s: int
    ctime_ns: int
    links: int

    @property
    def ctime(self) -> int:
        """The ctime in nanoseconds."""
        return self.ctime_s * SECOND + self.ctime_ns


def encode_stamp(status: os.stat_result) -> bytes:
    """The stamp of what ``status`` describes."""
    kind = status.st_mode & 0o170000
    if kind == stat.S_IFREG:
        return encode_file_stamp(status)
    size = 0
    if kind == stat.S_IFLNK:
        size = status.st_size
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        size = status.st_rdev
    ctime_s, ctime_ns = divmod(status.st_ctime_ns, SECOND)
    mtime_s, mtime_ns = divmod(status.st_mtime_ns, SECOND)
    links = 0 if kind == stat.S_IFDIR else status.st_nlink
    return STAMP.pack(status.st_mode, status.st_uid, status.st_gid, size, mtime_s, mtime_ns, ctime_s, ctime_ns, links)


def encode_file_stamp(status: os.stat_result) -> bytes:
    """`encode_stamp` for what was a regular file when it was scanned; of anything else a stamp that no file has."""
    ctime_s, ctime_ns = divmod(status.st_ctime_ns, SECOND)
    mtime_s, mtime_ns = divmod(status.st_mtime_ns, SECOND)
    return STAMP.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size,
        mtime_s,
        mtime_ns,
        ctime_s,
        ctime_ns,
        status.st_nlink,
    )


def decode_stamp(data: bytes) -> Stamp:
    """The fields of a stamp."""
    return Stamp(*STAMP.unpack(data))


def is_frozen_before(home: bytes, clone_time_ns: int) -> bool:
    """Whether what was read whole out of a clone (`FROZEN`) has, wherever the same ctime is seen later, the attributes that it
    had in a clone made at ``clone_time_ns`` or after: a change since then has a later ctime. Not so within a tick (10 ms at
    the most) of the clone. Of the bytes this says nothing: what was on its way lands under the old ctime."""
    return bool(home[FLAGS_AT] & FROZEN) and decode_stamp(home[16:FLAGS_AT]).ctime < clone_time_ns - _TICKS


def encode_home(inode: int, number: int, stamp: bytes, flags: int, layout: bytes = NO_LAYOUT) -> bytes:
    """The bytes of a home stamp record."""
    return HOME.pack(inode, number, stamp, flags, layout)


class HomeStamps:
    """A sorted file of home stamp records, mapped into memory."""

    def __init__(self, path: bytes) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        self._map: Optional[mmap.mmap] = mmap.mmap(self._fd, 0, prot=mmap.PROT_READ) if size else None
        self.count = size // HOME_SIZE

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks():
            yield from _records(block)

    def _blocks(self) -> Iterator[bytes]:
        step = HOME_SIZE * _AT_A_TIME
        for start in range(0, self.count * HOME_SIZE, step):
            yield os.pread(self._fd, step, start)  # read, not mapped: what was passed over does not stay in memory

    def doubtful(self) -> Iterator[bytes]:
        """The records that are neither `SETTLED` nor `FROZEN`. The others are passed over many at a time."""
        for block in self._blocks():
            if 0 in block[FLAGS_AT::HOME_SIZE]:
                yield from (home for home in _records(block) if not home[FLAGS_AT])

    def owners(self, *, without: AbstractSet[int]) -> Set[bytes]:
        """All (uid, gid) packed but those of the objects ``without``."""
        found: Set[bytes] = set()
        for block in self._blocks():
            found.update(owner for number, owner in _NUMBER_AND_OWNERS.iter_unpack(block) if number not in without)
        return found

    def replaced(self, touched: AbstractSet[int], fresh: Iterable[bytes]) -> Iterator[bytes]:
        """Without the records of the objects ``touched``, with the ``fresh`` ones (sorted). In order, one or more at a time."""
        news = iter(fresh)
        new = next(news, None)
        replaced = b""
        for block in self._blocks():
            last = block[-HOME_SIZE : 8 - HOME_SIZE]
            if (new is None or new[:8] > last) and touched.isdisjoint(chain.from_iterable(_NUMBER.iter_unpack(block))):
                yield block
                continue
            for home in _records(block):
                while new is not None and new[:8] <= home[:8]:
                    replaced = new[:8]
                    yield new
                    new = next(news, None)
                if home[:8] != replaced and int.from_bytes(home[8:16], "big") not in touched:
                    yield home
        while new is not None:
            yield new
            new = next(news, None)

    def find(self, inode: int) -> Optional[bytes]:
        """The record of ``inode``, or None."""
        if self._map is None:
            return None
        wanted = inode.to_bytes(8, "big")
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            at = middle * HOME_SIZE
            if self._map[at : at + 8] < wanted:
                low = middle + 1
            else:
                high = middle
        record = self._map[low * HOME_SIZE : (low + 1) * HOME_SIZE]
        return record if low < self.count and record[:8] == wanted else None

    def close(self) -> None:
        """Unmap; idempotent."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.count = 0


def first_of_each(homes: Iterable[bytes]) -> Iterator[bytes]:
    """One record for each inode, of records that are sorted."""
    inode = b""
    for home in homes:
        if home[:8] != inode:
            inode = home[:8]
            yield home


def _records(block: bytes) -> Iterator[bytes]:
    return (block[at : at + HOME_SIZE] for at in range(0, len(block), HOME_SIZE))
