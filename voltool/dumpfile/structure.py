"""Whether the records of a complete manifest make a tree: what a hostile or damaged dump must not get past.

Fed with final records as they stream by; memory is a few bits an object and 16 bytes a directory. Knows nothing of
files on disk. Part of what is shipped to servers.
"""

from __future__ import annotations

import stat
from array import array
from bisect import bisect_left

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.model import ROOT_OBJECT

#: The file types that a tree can hold, besides directories.
_LEAVES = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
_TYPE = 0o170000
_ON_THE_WAY = (1 << 64) - 1


class StructureCheck:
    """First every `object` in order of numbers, then every `entry` in order, then `finish`. All raise IntegrityError.

    A tree: the root is a directory and has no name; every other directory has exactly one, every other object at least
    one; every entry's directory and child exist; every directory is reached from the root.
    """

    def __init__(self, where: str = "") -> None:
        self._where = where
        self._objects = Bitmap()
        self._named = Bitmap()
        self._directory_numbers = array("Q")
        self._parents = array("Q")
        self._directories = Bitmap()
        self._count = 0
        self._reached = 0
        self._last_number = 0
        self._directory = 0

    def object(self, number: int, mode: int) -> None:
        """The next object, final and not a tombstone."""
        if number <= self._last_number:
            raise fmt.damaged("its object records are not in order", self._where)
        self._last_number = number
        kind = mode & _TYPE
        if kind == stat.S_IFDIR:
            self._directories.add(number)
            self._directory_numbers.append(number)
            self._parents.append(0)
        elif kind not in _LEAVES:
            raise fmt.damaged(f"an object has the unknown type {kind:#o}", self._where)
        self._objects.add(number)
        self._count += 1

    def entry(self, directory: int, child: int) -> None:
        """The next entry, not a tombstone."""
        if directory != self._directory:
            if directory not in self._directories:
                raise fmt.damaged("a name lies in something that is no directory", self._where)
            self._directory = directory
        if child not in self._objects:
            raise fmt.damaged("a name belongs to an object that is not there", self._where)
        if child not in self._named:
            self._named.add(child)
            self._reached += 1
            if child not in self._directories:
                return
        if child in self._directories:
            self._set_parent(child, directory)

    def _set_parent(self, child: int, directory: int) -> None:
        at = bisect_left(self._directory_numbers, child)
        if self._parents[at] or child == ROOT_OBJECT:
            raise fmt.damaged("a directory has two names, or the root has one", self._where)
        self._parents[at] = directory

    def finish(self) -> None:
        """Everything has been given."""
        if ROOT_OBJECT not in self._directories:
            raise fmt.damaged("it has no root directory", self._where)
        if self._reached != self._count - 1:
            raise fmt.damaged("an object has no name", self._where)
        for at in range(len(self._parents)):
            self._reach_root(at)

    def _reach_root(self, at: int) -> None:
        """Walk up to the root and point everything on the way at it, so that all walks together are linear."""
        way = []
        while self._directory_numbers[at] != ROOT_OBJECT and self._parents[at] != ROOT_OBJECT:
            parent = self._parents[at]
            if parent == _ON_THE_WAY:
                raise fmt.damaged("directories lie in each other in a circle", self._where)
            way.append(at)
            self._parents[at] = _ON_THE_WAY
            at = bisect_left(self._directory_numbers, parent)
        for seen in way:
            self._parents[seen] = ROOT_OBJECT
