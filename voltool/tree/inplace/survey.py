"""The walk of a tree that stands, in step with the manifest of what it is to be. Ships to servers.

For each name of the manifest it is noted what stands there; names that the manifest does not have are noted for deletion, stay,
or cannot be touched. Nothing is changed, nothing is read but directories. What is noted goes to spools: memory stays flat.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.inodes import ZFS_CONTROL_INODE, get_flags
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.apply.attributes import SEALS
from voltool.tree.inplace.ground import Ground, Seen, decode_seen
from voltool.tree.inplace.scope import OWN, Scope
from voltool.tree.state import BaseState

#: number, length of what was seen (0: nothing was there), then that and the path
_NAME = struct.Struct(">QB")
#: the deepest first
_DEPTH = struct.Struct(">IB")
_DEEPEST = 0xFFFFFFFF
_MOUNTED = "something is mounted there"


class Standing(NamedTuple):
    """One name of the manifest and what stands there."""

    number: int
    seen: Optional[Seen]
    path: bytes


class Doomed(NamedTuple):
    """What is to be deleted, if it is still what was seen."""

    seen: Seen
    path: bytes


class Left(NamedTuple):
    """What is not touched, and why; ``lacks``: so the result is not what the dump has."""

    path: bytes
    why: str
    lacks: bool


class Survey:
    """`run` it once. ``files``, ``directories``: what the manifest names (`standing`); ``ways``: what stands in their way,
    ``extras``: what the dump does not have, both to be deleted (`doomed`), deepest first. ``conflicts``: why nothing can be
    done; ``kept`` counts what the dump does not have and stays. ``protected``: directories that cannot go with the rest."""

    def __init__(self, ground: Ground, state: BaseState, scope: Scope, scratch: bytes) -> None:
        self._ground = ground
        self._state = state
        self._scope = scope
        self.files = SortedSpool(scratch)
        self.directories = SortedSpool(scratch)
        self.ways = SortedSpool(scratch)
        self.extras = SortedSpool(scratch)
        self.conflicts: List[Left] = []
        self.left: List[Left] = []
        self.protected: Set[bytes] = set()
        self.kept = 0
        self._is_directory = Bitmap()
        self._doubtful = Bitmap()
        self._visited = Bitmap()

    def close(self) -> None:
        """Free the spools; idempotent."""
        for spool in (self.files, self.directories, self.ways, self.extras):
            spool.close()

    def run(self) -> None:
        """Walk. Raises IntegrityError for a manifest that is no tree, OSError."""
        for record in self._state.objects:
            if stat.S_ISDIR(int.from_bytes(record[8:12], "big")):
                number = int.from_bytes(record[:8], "big")
                self._is_directory.add(number)
                if record[fmt.STATE_OFFSET] & (fmt.STATE_FUZZY | fmt.STATE_UNKNOWN):
                    self._doubtful.add(number)
        if ROOT_OBJECT not in self._is_directory:
            raise fmt.damaged("it has no root directory")
        if self._scope.inside(b""):
            self._note(self.directories, ROOT_OBJECT, Seen.of(os.fstat(self._ground.root)), b"")
        waiting: List[Tuple[bytes, int, bool]] = [(b"", ROOT_OBJECT, True)]
        while waiting:
            path, number, stands = waiting.pop()
            if not self._visited.add(number):
                raise fmt.damaged("a directory has more than one name")
            waiting += self._directory(path, number, stands=stands)

    # ---------------------------------------------------------------------------------------------------- one directory

    def _directory(self, path: bytes, number: int, *, stands: bool) -> List[Tuple[bytes, int, bool]]:
        wanted = self._entries(number, root=not path)
        if not stands:
            return [below for name, child in wanted.items() for below in self._missing(path, name, child)]
        try:
            # One of our own: the ground closes directories that it has kept open for a while, and others are opened meanwhile.
            descriptor = os.dup(self._ground.directory(path))
        except OSError as error:
            self._leave(path, _MOUNTED if error.errno == errno.EXDEV else os.strerror(error.errno or 0), wanted)
            return []
        try:
            return self._opened(path, number, descriptor, wanted)
        finally:
            os.close(descriptor)

    def _opened(
        self, path: bytes, number: int, descriptor: int, wanted: Dict[bytes, int]
    ) -> List[Tuple[bytes, int, bool]]:
        if not self._scope.inside(path) and get_flags(descriptor)[0] & SEALS:
            self.conflicts.append(
                Left(path, "it is immutable or append-only, and no part of what is restored", lacks=True)
            )
        below: List[Tuple[bytes, int, bool]] = []
        inodes: Set[int] = set()
        for name, child in wanted.items():
            below += self._name(path, descriptor, name, child, inodes)
        self._others(path, number, descriptor, wanted, inodes)
        return below

    def _leave(self, path: bytes, why: str, wanted: Dict[bytes, int]) -> None:
        self.left.append(Left(path, why, lacks=bool(wanted) or why != _MOUNTED))

    def _entries(self, number: int, *, root: bool) -> Dict[bytes, int]:
        wanted: Dict[bytes, int] = {}
        for record in self._state.entries.group(number):
            _directory, name, child = fmt.decode_entry(record)
            if name in wanted or (root and name == OWN):
                raise fmt.damaged("a directory has a name twice, or one that is voltool's")
            wanted[name] = child
        return wanted

    def _missing(self, path: bytes, name: bytes, child: int) -> Iterator[Tuple[bytes, int, bool]]:
        below = _join(path, name)
        is_directory = child in self._is_directory
        self._note(self.directories if is_directory else self.files, child, None, below)
        if is_directory:
            yield below, child, False

    def _name(
        self, path: bytes, descriptor: int, name: bytes, child: int, inodes: Set[int]
    ) -> Iterator[Tuple[bytes, int, bool]]:
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            yield from self._missing(path, name, child)
            return
        below, seen = _join(path, name), Seen.of(status)
        if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
            inodes.add(status.st_ino)
        is_directory = child in self._is_directory
        if not is_directory:
            if stat.S_ISDIR(status.st_mode):
                self._in_the_way(below)
            self._note(self.files, child, None if stat.S_ISDIR(status.st_mode) else seen, below)
        elif stat.S_ISDIR(status.st_mode):
            if self._scope.inside(below) and self._is_ours(below):
                self._note(self.directories, child, seen, below)
            yield below, child, True
        else:
            if not self._scope.inside(below):
                self.conflicts.append(Left(below, "it is no directory, and not selected itself", lacks=True))
            self._note(self.directories, child, seen, below)
            yield below, child, False

    def _is_ours(self, path: bytes) -> bool:
        try:
            self._ground.directory(path)
        except OSError:
            return False  # named when its content's turn comes
        return True

    def _in_the_way(self, path: bytes) -> None:
        """A directory stands where the dump has something else."""
        if not self._scope.delete:
            try:
                empty = not os.listdir(self._ground.directory(path))
            except OSError as error:
                self.conflicts.append(Left(path, error.strerror or str(error), lacks=True))
                return
            if not empty:
                why = "a directory with content stands where the dump has something else"
                self.conflicts.append(Left(path, why, lacks=True))
                return
        protected = len(self.left)
        self._doom(path, self.ways)
        self.conflicts += [left._replace(lacks=True) for left in self.left[protected:]]

    # ------------------------------------------------------------------------------------------- what the dump has not

    def _others(self, path: bytes, number: int, descriptor: int, wanted: Dict[bytes, int], inodes: Set[int]) -> None:
        if not self._scope.inside(path):
            return
        for name, status in _listing(descriptor):
            if name in wanted or (not path and (name == OWN or status.st_ino == ZFS_CONTROL_INODE)):
                continue
            if status.st_ino in inodes and (stat.S_ISDIR(status.st_mode) or status.st_nlink == 1):
                continue  # a wanted name in another spelling (casefold)
            if not self._scope.delete or self._scope.keeps(path, name):
                self.kept += 1
            elif number in self._doubtful:
                why = "its directory could not be listed reliably when it was dumped"
                self.left.append(Left(_join(path, name), why, lacks=False))
            else:
                self._doom(_join(path, name), self.extras)

    def _doom(self, top: bytes, spool: SortedSpool) -> None:
        """Note a name and all below it for deletion, but for what is mounted, excluded or voltool's."""
        waiting = [top]
        while waiting:
            path = waiting.pop()
            status = self._ground.status(path)
            if status is None:
                continue
            if stat.S_ISDIR(status.st_mode):
                try:
                    names = sorted(map(os.fsencode, os.listdir(self._ground.directory(path))))
                except OSError as error:
                    self._protect(path, top, _MOUNTED if error.errno == errno.EXDEV else error.strerror or str(error))
                    continue
                for name in names:
                    if self._scope.keeps(path, name):
                        self._protect(_join(path, name), top, "it is excluded from dumps, or voltool's")
                    else:
                        waiting.append(_join(path, name))
            spool.add(_DEPTH.pack(_DEEPEST - path.count(b"/"), 0) + Seen.of(status).encode() + path)

    def _protect(self, path: bytes, top: bytes, why: str) -> None:
        self.left.append(Left(path, why, lacks=False))
        while len(path) > len(top):
            path = os.path.dirname(path)
            self.protected.add(path)

    def _note(self, spool: SortedSpool, number: int, seen: Optional[Seen], path: bytes) -> None:
        text = b"" if seen is None else seen.encode()
        spool.add(_NAME.pack(number, len(text)) + text + path)


def standing(spool: SortedSpool) -> Iterator[List[Standing]]:
    """The names of each object together, in order of objects."""
    group: List[Standing] = []
    for record in spool:
        number, length = _NAME.unpack_from(record)
        start = _NAME.size
        one = Standing(number, decode_seen(record[start : start + length]), record[start + length :])
        if group and group[0].number != number:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def doomed(spool: SortedSpool) -> Iterator[Doomed]:
    """What is to be deleted, the deepest first."""
    start = _DEPTH.size
    length = len(Seen(0, 0, 0, 0, 0, 0).encode())
    for record in spool:
        seen = decode_seen(record[start : start + length])
        assert seen is not None
        yield Doomed(seen, record[start + length :])


def _listing(descriptor: int) -> Iterator[Tuple[bytes, os.stat_result]]:
    for name in sorted(map(os.fsencode, os.listdir(descriptor))):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
