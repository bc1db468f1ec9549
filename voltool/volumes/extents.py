"""Which bytes of two files that share extents may differ, without reading them: FIEMAP. Ships to servers.

Where both files map the same bytes to the same place on the device, they are equal: a shared extent is never written in
place. Whatever is not certain (inline, unwritten, not yet allocated, compressed extents) counts as different. Source:
Documentation/filesystems/fiemap.rst; compressed extents of btrfs show their start for each part: fs/btrfs/fiemap.c.
"""

from __future__ import annotations

import fcntl
import struct
from typing import List, NamedTuple, Sequence, Tuple

from voltool.inodes import READ, WRITE, ioctl_number

#: start, length, flags, mapped extents, room for extents, reserved (struct fiemap)
_HEAD = struct.Struct("=QQIIII")
#: logical, physical, length, reserved, flags, reserved (struct fiemap_extent)
_EXTENT = struct.Struct("=QQQ16xI12x")
_FS_IOC_FIEMAP = ioctl_number(READ | WRITE, ord("f"), 11, _HEAD.size)
_SYNC = 0x1
_LAST = 0x1
#: Last, merged, shared: flags of an extent whose place can be believed.
_CERTAIN = _LAST | 0x1000 | 0x2000
_AT_ONCE = 512


class MappedExtent(NamedTuple):
    """``length`` bytes at ``offset``; ``shift`` is their place on the device less ``offset``, None: not certain."""

    offset: int
    length: int
    shift: object


def mapped_extents(descriptor: int) -> List[MappedExtent]:
    """All extents of an open file, in order; what was written is written out first. Raises OSError."""
    found: List[MappedExtent] = []
    start = 0
    while True:
        buffer = bytearray(_HEAD.size + _AT_ONCE * _EXTENT.size)
        _HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _SYNC, 0, _AT_ONCE, 0)
        fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, buffer)
        count = _HEAD.unpack_from(buffer)[3]
        for index in range(count):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
            found.append(MappedExtent(logical, length, None if flags & ~_CERTAIN else physical - logical))
            start = logical + length
            if flags & _LAST:
                return found
        if not count:
            return found


def differing(old: Sequence[MappedExtent], new: Sequence[MappedExtent]) -> List[Tuple[int, int]]:
    """The (offset, length) of what may differ, sorted and disjoint. Pure."""
    edges = sorted({edge for part in (*old, *new) for edge in (part.offset, part.offset + part.length)})
    ranges: List[Tuple[int, int]] = []
    at = [0, 0]
    for start, end in zip(edges, edges[1:]):
        here: List[object] = []
        for side, extents in enumerate((old, new)):
            while at[side] < len(extents) and extents[at[side]].offset + extents[at[side]].length <= start:
                at[side] += 1
            inside = at[side] < len(extents) and extents[at[side]].offset <= start
            here.append(extents[at[side]].shift if inside else "hole")
        if here[0] == here[1] and here[0] is not None:
            continue
        if ranges and sum(ranges[-1]) == start:
            ranges[-1] = (ranges[-1][0], end - ranges[-1][0])
        else:
            ranges.append((start, end - start))
    return ranges
