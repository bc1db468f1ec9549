"""The directories of one walk, in arrays rather than objects: parent, name, inode, whether the listing still counts.

A listing that is made anew gets a new index; the old one is dead. Ships to servers.
"""

from __future__ import annotations

from array import array
from typing import Dict, List

ROOT = 0
#: Paths kept joined: files of neighbouring inodes are often in a few directories in turn.
_KNOWN_PATHS = 8192


class DirTable:
    """Directories by index; index 0 is the root, with an empty name."""

    def __init__(self) -> None:
        self._parents = array("L")
        self._ends = array("Q")
        self._names = bytearray()
        self.inodes = array("Q")
        self.live = bytearray()
        self.stamps = array("q")
        self._confirmed = bytearray()
        self._paths: Dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self.inodes)

    def add(self, parent: int, name: bytes, inode: int) -> int:
        """A new directory; its index."""
        self._parents.append(parent)
        self._names += name
        self._ends.append(len(self._names))
        self.inodes.append(inode)
        self.live.append(1)
        self._confirmed.append(1)
        self.stamps.append(0)
        return len(self.inodes) - 1

    def replace(self, index: int) -> int:
        """The index under which ``index`` is listed anew; the old listing is dead, its children hang on the new one."""
        self.live[index] = 0
        new = self.add(self._parents[index], self.name(index), self.inodes[index])
        if self._parents[index] == index:
            self._parents[new] = new  # a root
        return new

    def parent(self, index: int) -> int:
        """The parent's index (the root's is the root)."""
        return self._parents[index]

    def adopt(self, index: int, parent: int) -> None:
        """Hang ``index`` on ``parent``, whose listing is being made anew; it is an orphan until `confirm`."""
        self._parents[index] = parent
        self._confirmed[index] = 0
        self._paths.clear()

    def confirm(self, index: int) -> None:
        """The new listing of its parent has it."""
        self._confirmed[index] = 1

    def orphaned(self, index: int) -> bool:
        """Whether no living listing has it. A root needs none."""
        if self._parents[index] == index:
            return False
        return not self._confirmed[index] or not self.live[self._parents[index]]

    def move(self, index: int, parent: int, name: bytes) -> int:
        """The directory was found elsewhere: its new index."""
        self.live[index] = 0
        return self.add(parent, name, self.inodes[index])

    def name(self, index: int) -> bytes:
        """The last part of its path."""
        start = self._ends[index - 1] if index else 0
        return bytes(self._names[start : self._ends[index]])

    def path(self, index: int) -> bytes:
        """Its path relative to the root; empty for the root."""
        known = self._paths.get(index)
        if known is not None:
            return known
        path = self._join(index)
        if len(self._paths) >= _KNOWN_PATHS:
            self._paths.clear()
        self._paths[index] = path
        return path

    def _join(self, index: int) -> bytes:
        parts: List[bytes] = []
        while index != ROOT and self.name(index):
            parts.append(self.name(index))
            index = self._parents[index]
        return b"/".join(reversed(parts))

    def changed_since(self, index: int, time_ns: int) -> bool:
        """Whether its listing was made of a directory that had changed after ``time_ns``; below -1: too young to tell."""
        return self.stamps[index] < -1 or self.stamps[index] >= time_ns

    def bury_orphans(self) -> None:
        """Directories whose listing was superseded and that were not found again are dead, and all below them."""
        again = True
        while again:
            again = False
            for index in range(1, len(self)):
                if self.live[index] and self.orphaned(index):
                    self.live[index] = 0
                    again = True

    def by_inode(self) -> Dict[int, int]:
        """Live index by inode number."""
        return {self.inodes[index]: index for index in range(len(self)) if self.live[index]}
