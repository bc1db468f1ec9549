"""How much a dump would have to read, for several bases at once: one walk, compared with each one's home stamps. Ships to
servers.

Nothing is read but names and stamps. What a stamp says is an upper bound: of a large file only what differs is dumped, and a
file that was touched may turn out to be what it was.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence

from voltool.tree.classify import inode_groups
from voltool.tree.stamps import MODE, SIZE, STAMP_SIZE, HomeStamps
from voltool.tree.walk import DIRECTORY_AT, STAMP_AT, WalkResult

_HOME_STAMP = slice(16, 16 + STAMP_SIZE)


@dataclass
class Difference:
    """Against one base: objects that are new or not as they were, files among them, their bytes."""

    objects: int = 0
    files: int = 0
    bytes: int = 0


def differences(walk: WalkResult, bases: Sequence[Optional[HomeStamps]]) -> List[Difference]:
    """One for each base; against None everything is new."""
    found = [Difference() for _base in bases]
    homes = [_Ahead(base) for base in bases]
    for group in inode_groups(walk):
        sample = group.own or group.names[0]
        stamp = sample[STAMP_AT:DIRECTORY_AT]
        size = -1
        if stat.S_ISREG(int.from_bytes(stamp[MODE], "big")):
            size = int.from_bytes(stamp[SIZE], "big")
            size = walk.sparse.get(int.from_bytes(group.inode, "big"), size)
        for one, home in zip(found, homes):
            if home.stamp_of(group.inode) == stamp:
                continue
            one.objects += 1
            if size >= 0:
                one.files += 1
                one.bytes += size
    return found


class _Ahead:
    """The stamps of a base, asked for by ascending inode number."""

    def __init__(self, base: Optional[HomeStamps]) -> None:
        self._homes: Iterator[bytes] = iter(base) if base is not None else iter(())
        self._next = next(self._homes, None)

    def stamp_of(self, inode: bytes) -> Optional[bytes]:
        """What the base has of the inode; None where it has nothing."""
        while self._next is not None and self._next[:8] < inode:
            self._next = next(self._homes, None)
        if self._next is None or self._next[:8] != inode:
            return None
        return self._next[_HOME_STAMP]
