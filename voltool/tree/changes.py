"""Classification without a walk: from the inodes that the file system says have changed. Ships to servers.

Works on frozen images only. Everything that is not listed is as the base has it; names of listed directories come from the
image, never from the file system's list. Whatever does not add up (an inode nobody knows, a path that is not there) gives
None, and the caller walks the tree instead: slower, never wrong.
"""

from __future__ import annotations

import os
import stat
from typing import AbstractSet, Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.classify import WORK, Classified, Rest
from voltool.tree.dirtable import ROOT, DirTable
from voltool.tree.excluding import OWN_DIRECTORY
from voltool.tree.stamps import FLAGS_AT, HOME_SIZE, MODE, NO_LAYOUT, OWNERS, SETTLED, encode_stamp, is_frozen_before
from voltool.tree.state import BaseState
from voltool.tree.walk import OPEN_DIRECTORY, encode_directory_attributes

#: Above this many doubtful entries in the base a walk is as quick as looking each up.
MAX_DOUBTFUL = 20_000


class Retimed(NamedTuple):
    """Of which listed inodes the file system says no more than that their times were set: their bytes and names are the base's,
    their attributes where their ctime is. ``since_ns``: the host's clock just before the base's clone was made."""

    inodes: AbstractSet[int] = frozenset()
    since_ns: int = 0


NOT_RETIMED = Retimed()


class _DoesNotFit(Exception):  # noqa: N818 - a signal within this module
    """The list of changes and the image do not fit together."""


def classify_changes(
    root_fd: int,
    inodes: Iterable[Tuple[int, bytes]],
    base: BaseState,
    make_spool: Callable[[], SortedSpool],
    resolve: Callable[[int], Optional[bytes]],
    retimed: Retimed = NOT_RETIMED,
) -> Optional[Classified]:
    """What changed against ``base``, given the inodes listed (with a path each); None where it does not add up.

    ``resolve`` gives a current path of an inode: what could not be read for the base as its clone has it is read again, listed or
    not. What was only young then is not: its stamp means nothing, but whatever came after the clone is listed.
    """
    try:
        return _Classification(root_fd, base, make_spool, resolve, retimed).run(dict(inodes))
    except (_DoesNotFit, OSError):
        return None


class _Classification:
    def __init__(
        self,
        root_fd: int,
        base: BaseState,
        make_spool: Callable[[], SortedSpool],
        resolve: Callable[[int], Optional[bytes]],
        retimed: Retimed,
    ) -> None:
        assert base.stamps is not None
        self._root_fd = root_fd
        self._base = base
        self._stamps = base.stamps
        self._resolve = resolve
        self._retimed = retimed
        self._table = DirTable()
        self._table.add(ROOT, b"", 0)
        self._indexes: Dict[bytes, int] = {b"": ROOT}
        self._numbers: Dict[int, int] = {}
        self._listed: Set[int] = set()
        self._found: Set[int] = set()
        self._removed: Set[int] = set()
        self._result = Classified(self._table, make_spool(), make_spool(), make_spool())
        self._result.next_number = base.next_number

    def run(self, inodes: Dict[int, bytes]) -> Classified:
        self._add_doubtful(inodes)
        statuses: List[Tuple[int, bytes, os.stat_result]] = []
        for inode, path in sorted(inodes.items()):
            status = self._stat(path)
            if status.st_ino != inode:
                raise _DoesNotFit
            if inode in self._retimed.inodes and self._is_as_it_was(inode, encode_stamp(status)):
                continue
            self._number(inode, path, status.st_mode)
            statuses.append((inode, path, status))
        for inode, path, status in statuses:
            if stat.S_ISDIR(status.st_mode):
                self._list(inode, path)
            self._add_work(inode, path, status)
        self._find_removed()
        self._leave_rest()
        return self._result

    def _add_doubtful(self, inodes: Dict[int, bytes]) -> None:
        count = 0
        for home in self._stamps.doubtful():
            inode = int.from_bytes(home[:8], "big")
            if inode in inodes:
                continue
            count += 1
            if count > MAX_DOUBTFUL:
                raise _DoesNotFit
            path = self._resolve(inode)
            if path is not None:
                inodes[inode] = path

    def _is_as_it_was(self, inode: int, stamp: bytes) -> bool:
        """Whether nothing but the access time of one that was retimed has changed."""
        home = self._stamps.find(inode)
        if home is None or home[16:FLAGS_AT] != stamp:
            return False
        return bool(home[FLAGS_AT] & SETTLED) or is_frozen_before(home, self._retimed.since_ns)

    def _stat(self, path: bytes) -> os.stat_result:
        if not path:
            return os.fstat(self._root_fd)
        descriptor = open_beneath(self._root_fd, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _number(self, inode: int, path: bytes, mode: int) -> None:
        home = self._stamps.find(inode)
        if not path:
            self._numbers[inode] = ROOT_OBJECT
        elif home is not None and _same_type(home, mode):
            self._numbers[inode] = int.from_bytes(home[8:16], "big")
        else:
            if home is not None:
                self._removed.add(int.from_bytes(home[8:16], "big"))
            self._numbers[inode] = self._result.next_number
            self._result.next_number += 1

    def _list(self, inode: int, path: bytes) -> None:
        number = self._numbers[inode]
        self._listed.add(number)
        descriptor = open_beneath(self._root_fd, path, OPEN_DIRECTORY) if path else os.dup(self._root_fd)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if not path and entry.name == OWN_DIRECTORY:
                        continue
                    child = self._child(entry.inode())
                    self._found.add(child)
                    self._result.entries.add(fmt.encode_entry(number, os.fsencode(entry.name), child))
        finally:
            os.close(descriptor)

    def _child(self, inode: int) -> int:
        number = self._numbers.get(inode)
        if number is not None:
            return number
        home = self._stamps.find(inode)
        if home is None:
            raise _DoesNotFit
        return int.from_bytes(home[8:16], "big")

    def _add_work(self, inode: int, path: bytes, status: os.stat_result) -> None:
        home = self._stamps.find(inode)
        layout = home[HOME_SIZE - 8 :] if home is not None else NO_LAYOUT
        stamp = encode_stamp(status)
        result = self._result
        result.owners.add(stamp[OWNERS])
        result.alive.add(self._numbers[inode])
        if stat.S_ISDIR(status.st_mode):
            directory, tail = self._index(path), self._attributes(path)
        else:
            parent, _slash, tail = path.rpartition(b"/")
            directory = self._index(parent)
        if stat.S_ISREG(status.st_mode):
            result.changed_files += 1
            sparse = status.st_size > fmt.CHUNK_SIZE
            result.changed_bytes += min(status.st_size, status.st_blocks * 512) if sparse else status.st_size
        result.changed.add(WORK.pack(self._numbers[inode], inode, stamp, layout, directory) + tail)

    def _index(self, path: bytes) -> int:
        if path not in self._indexes:
            self._indexes[path] = self._table.add(ROOT, path, 0)
        return self._indexes[path]

    def _attributes(self, path: bytes) -> bytes:
        descriptor = open_beneath(self._root_fd, path, OPEN_DIRECTORY) if path else os.dup(self._root_fd)
        try:
            return encode_directory_attributes(descriptor)
        finally:
            os.close(descriptor)

    def _find_removed(self) -> None:
        """What the listed directories had in the base and is nowhere now, with all below it."""
        changed = set(self._numbers.values())
        pending = [child for number in self._listed | self._removed for child in self._base_children(number)]
        while pending:
            child = pending.pop()
            if child in changed or child in self._found or child in self._removed:
                continue
            self._removed.add(child)
            pending.extend(self._base_children(child))

    def _base_children(self, number: int) -> List[int]:
        return [fmt.decode_entry(record)[2] for record in self._base.entries.group(number)]

    def _leave_rest(self) -> None:
        """What is neither listed nor gone is not looked at: nothing is kept of it but what tells it from the rest."""
        base, stamps = self._base, self._stamps
        if base.objects.count() != stamps.count:
            raise _DoesNotFit  # an object without a home stamp (no stamp is without its object): it could not be read last time
        touched = frozenset(self._removed.union(self._numbers.values()))
        gone = {number: len(self._base_children(number)) for number in self._removed}
        directories = frozenset(self._listed.union(number for number, children in gone.items() if children))
        names = base.entries.count() - sum(len(self._base_children(number)) for number in directories)
        self._result.rest = Rest(touched, directories, names, tuple(base.large()))
        self._result.owners |= stamps.owners(without=touched)


def _same_type(home: bytes, mode: int) -> bool:
    return stat.S_IFMT(int.from_bytes(home[16:][MODE], "big")) == stat.S_IFMT(mode)
