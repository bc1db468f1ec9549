"""Which inode is which object, and which may have changed. Ships to servers.

Merges a walk (sorted by inode) with the base's home stamps (sorted by inode). Where the base has no home stamps, objects
are matched by path and all count as changed: they will be read, hashed, and sent only where the hash differs. What is
unchanged here is never read. Does no reading of files itself.
"""

from __future__ import annotations

import itertools
import stat
import struct
from array import array
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.format import CHUNK_SIZE, decode_entry, encode_entry
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.dirtable import DirTable
from voltool.tree.stamps import HOME_SIZE, MODE, NO_LAYOUT, OWNERS, SETTLED, SHARED, SIZE, STAMP_SIZE
from voltool.tree.state import BaseState
from voltool.tree.vouched import Vouched
from voltool.tree.walk import DIRECTORY_AT, SCAN_SIZE, SELF, STAMP_AT, TICK_NS, WalkResult

#: object number, inode, stamp, the base's layout digest, directory index; then the name (of a directory: its attributes)
WORK = struct.Struct(">QQ48s8sI")
WORK_SIZE = 76
assert WORK.size == WORK_SIZE
#: Where in a work record the mode stands, and what an object record takes over as it is.
WORK_MODE = slice(16 + MODE.start, 16 + MODE.stop)
WORK_SHARED = slice(16 + SHARED.start, 16 + SHARED.stop)

_HOME_STAMP = slice(16, 16 + STAMP_SIZE)
_HOME_FLAGS = 16 + STAMP_SIZE
_CACHED_DIRECTORIES = 256


class Work(NamedTuple):
    """An object that must be described or read anew."""

    number: int
    inode: int
    stamp: bytes
    layout: bytes
    directory: int
    tail: bytes


def decode_work(record: bytes) -> Work:
    """The fields of a work record."""
    number, inode, stamp, layout, directory = WORK.unpack_from(record)
    return Work(number, inode, stamp, layout, directory, record[WORK_SIZE:])


@dataclass(frozen=True)
class Rest:
    """What was not looked at, and is as in the base: every object but the ``touched`` ones, every entry but those of
    ``directories``; ``names`` are these entries, ``large`` the base's block files."""

    touched: FrozenSet[int]
    directories: FrozenSet[int]
    names: int
    large: Tuple[bytes, ...]


@dataclass
class Classified:
    """``changed``: work records by object number; ``entries``: the complete entry records; ``stamps``: home stamps of
    what is unchanged; ``alive``: all objects that exist; ``owners``: (uid, gid) packed.

    With a ``rest``, ``entries``, ``stamps`` and ``alive`` are without what is as in the base."""

    table: DirTable
    changed: SortedSpool
    entries: SortedSpool
    stamps: SortedSpool
    alive: Bitmap = field(default_factory=Bitmap)
    owners: Set[bytes] = field(default_factory=set)
    fuzzy: Set[int] = field(default_factory=set)
    next_number: int = ROOT_OBJECT + 1
    changed_files: int = 0
    changed_bytes: int = 0
    rest: Optional[Rest] = None

    @property
    def names(self) -> int:
        """How many entries there are."""
        return self.entries.count + (self.rest.names if self.rest is not None else 0)

    def is_gone(self, number: int) -> bool:
        """Whether an object of the base exists no more."""
        return number not in self.alive and (self.rest is None or number in self.rest.touched)


class Group(NamedTuple):
    """All records of one inode."""

    inode: bytes
    own: Optional[bytes]
    names: List[bytes]


def inode_groups(result: WalkResult) -> Iterator[Group]:
    """The walk's records by inode, without those of listings that were superseded."""
    current = b""
    own: Optional[bytes] = None
    names: List[bytes] = []
    for record in result.listings():
        inode = record[:8]
        if inode != current:
            if own is not None or names:
                yield Group(current, own, names)
            current, own, names = inode, None, []
        if record[8] == SELF:
            own = record
        else:
            names.append(record)
    if own is not None or names:
        yield Group(current, own, names)


class Classifier:
    """One classification. ``unchanged_counts``: False for a level 0 dump, which reads everything but keeps numbers."""

    def __init__(
        self,
        walk: WalkResult,
        base: Optional[BaseState],
        make_spool: Callable[[], SortedSpool],
        *,
        unchanged_counts: bool,
        vouched: Optional[Vouched] = None,
    ) -> None:
        self._walk = walk
        self._vouched = vouched
        self._base = base
        self._stamps = base.stamps if base else None
        self._make_spool = make_spool
        self._unchanged_counts = unchanged_counts
        self._numbers = array("Q", bytes(8 * len(walk.table)))
        self._names: OrderedDict[int, Dict[bytes, int]] = OrderedDict()
        self.result = Classified(walk.table, make_spool(), make_spool(), make_spool())
        if base:
            self.result.next_number = base.next_number

    def classify(self) -> Classified:
        """Do it."""
        self._number_directories()
        homes = iter(self._stamps) if self._stamps else iter(())
        home = next(homes, None)
        for group in inode_groups(self._walk):
            inode = group.inode
            while home is not None and home[:8] < inode:
                home = next(homes, None)
            self._take(group, home if home is not None and home[:8] == inode else None)
        if self._base and self._unchanged_counts and self._walk.fuzzy:
            self._keep_names(self._base)
        return self.result

    # ------------------------------------------------------------------------------------------------- directories

    def _number_directories(self) -> None:
        table = self._walk.table
        for index in range(len(table)):
            if table.live[index]:
                self._directory_number(index)

    def _directory_number(self, index: int) -> int:
        chain = []
        while not self._numbers[index] and not self._is_root(index):
            chain.append(index)
            index = self._walk.table.parent(index)
        if not self._numbers[index]:
            self._numbers[index] = ROOT_OBJECT
            self.result.alive.add(ROOT_OBJECT)
        for child in reversed(chain):
            self._numbers[child] = self._find_directory(child)
        return self._numbers[chain[0]] if chain else self._numbers[index]

    def _find_directory(self, index: int) -> int:
        table = self._walk.table
        if self._is_root(index):
            return ROOT_OBJECT
        if self._stamps is not None:
            home = self._stamps.find(table.inodes[index])
            if home is not None and _is_directory(home[_HOME_STAMP]):
                return self._claim(int.from_bytes(home[8:16], "big"))
            return self._new_number()
        return self._match(self._numbers[table.parent(index)], table.name(index), stat.S_IFDIR)

    def _is_root(self, index: int) -> bool:
        return index == 0 or not self._walk.table.name(index)

    # -------------------------------------------------------------------------------------------------- all inodes

    def _take(self, group: Group, home: Optional[bytes]) -> None:
        sample = group.own or group.names[0]
        stamp = sample[STAMP_AT:DIRECTORY_AT]
        mode = int.from_bytes(stamp[MODE], "big")
        if stat.S_ISDIR(mode):
            number = self._take_directory(group)
            if not number:
                return
        else:
            number = self._number_of(group, home, mode)
            self._add_names(group.names, number)
        result = self.result
        result.owners.add(stamp[OWNERS])
        if (
            home is not None
            and self._unchanged_counts
            and home[_HOME_STAMP] == stamp
            and int.from_bytes(home[8:16], "big") == number
            and int.from_bytes(group.inode, "big") not in self._walk.fuzzy
        ):
            known = home if home[_HOME_FLAGS] & SETTLED else self._vouched and self._vouched.same(home, mode)
            if known:
                result.stamps.add(known)
                return
        layout = home[HOME_SIZE - 8 :] if home is not None else NO_LAYOUT
        self._add_work(number, group, stamp, layout, mode)

    def _add_work(self, number: int, group: Group, stamp: bytes, layout: bytes, mode: int) -> None:
        result = self.result
        inode = int.from_bytes(group.inode, "big")
        if stat.S_ISDIR(mode):
            tail = group.own[SCAN_SIZE:] if group.own else b""
            directory = int.from_bytes((group.own or group.names[0])[DIRECTORY_AT:SCAN_SIZE], "big")
            if inode in self._walk.fuzzy:
                result.fuzzy.add(number)
        else:
            tail = group.names[0][SCAN_SIZE:]
            directory = int.from_bytes(group.names[0][DIRECTORY_AT:SCAN_SIZE], "big")
        if stat.S_ISREG(mode):
            result.changed_files += 1
            size = int.from_bytes(stamp[SIZE], "big")
            result.changed_bytes += self._walk.sparse.get(inode, size) if size > CHUNK_SIZE else size
        result.changed.add(WORK.pack(number, inode, stamp, layout, directory) + tail)

    def _take_directory(self, group: Group) -> int:
        if group.own is None and int.from_bytes(group.inode, "big") not in self._walk.fuzzy:
            return 0  # vanished, or replaced, before it could be listed
        table = self._walk.table
        if group.own is not None:
            index = int.from_bytes(group.own[DIRECTORY_AT:SCAN_SIZE], "big")
        else:
            index = self._fuzzy_index(int.from_bytes(group.inode, "big"))
        number = self._numbers[index]
        if self._is_root(index):
            return number
        wanted = (table.parent(index), table.name(index))
        names = [n for n in group.names if _place(n) == wanted] or group.names
        self._add_names(names[:1], number)
        return number

    def _fuzzy_index(self, inode: int) -> int:
        table = self._walk.table
        return next(index for index in range(len(table)) if table.live[index] and table.inodes[index] == inode)

    def _add_names(self, names: List[bytes], number: int) -> None:
        numbers = self._numbers
        tail = b"\0" + number.to_bytes(8, "big")
        add = self.result.entries.add
        for record in names:
            directory = numbers[int.from_bytes(record[DIRECTORY_AT:SCAN_SIZE], "big")]
            add(directory.to_bytes(8, "big") + record[SCAN_SIZE:] + tail)

    def _number_of(self, group: Group, home: Optional[bytes], mode: int) -> int:
        if home is not None:
            old_mode = int.from_bytes(home[_HOME_STAMP][MODE], "big")
            if stat.S_IFMT(old_mode) == stat.S_IFMT(mode):
                return self._claim(int.from_bytes(home[8:16], "big"))
            return self._new_number()
        if self._base is not None and self._stamps is None:
            directory, name = _place(group.names[0])
            return self._match(self._numbers[directory], name, stat.S_IFMT(mode))
        return self._new_number()

    # ----------------------------------------------------------------------------------------------------- numbers

    def _new_number(self) -> int:
        number = self.result.next_number
        self.result.next_number += 1
        self.result.alive.add(number)
        return number

    def _claim(self, number: int) -> int:
        """``number``, unless another inode has it already (a copied home, a broken hard link): then a new one."""
        return number if self.result.alive.add(number) else self._new_number()

    def _match(self, directory: int, name: bytes, kind: int) -> int:
        """The base's object of that path, if it is of that kind."""
        if self._base is None:
            return self._new_number()
        number = self._base_names(self._base, directory).get(name)
        if number is None:
            return self._new_number()
        record = self._base.object(number)
        if record is None or stat.S_IFMT(int.from_bytes(record[8:12], "big")) != kind:
            return self._new_number()
        return self._claim(number)

    def _base_names(self, base: BaseState, directory: int) -> Dict[bytes, int]:
        names = self._names.get(directory)
        if names is None:
            names = {}
            for record in base.entries.group(directory):
                _directory, name, child = decode_entry(record)
                names[name] = child
            self._names[directory] = names
            if len(self._names) > _CACHED_DIRECTORIES:
                self._names.popitem(last=False)
        else:
            self._names.move_to_end(directory)
        return names

    # ------------------------------------------------------------------------------------------- fuzzy directories

    def _keep_names(self, base: BaseState) -> None:
        """Missing is not deleted: names that a fuzzy directory lacks are kept from the base, with all below; and objects that
        may have moved ahead of the walk, and are nowhere now, where they were."""
        fuzzy, indices = set(), []
        for index in range(len(self._walk.table)):
            if self._walk.table.live[index] and self._walk.table.inodes[index] in self._walk.fuzzy:
                fuzzy.add(index)
                indices.append(index)
            elif self._may_have_left(index):
                indices.append(index)
        for index, present in self._names_in(indices):
            directory = self._numbers[index]
            missing = [(name, child) for name, child in _children(base, directory) if name not in present]
            if index not in fuzzy:
                missing = [(name, child) for name, child in missing if child not in self.result.alive]
            self._keep(base, [(directory, name, child) for name, child in missing])

    def _may_have_left(self, index: int) -> bool:
        """Whether something that is in no listing was perhaps in this directory when the walk began: then the directory changed
        since. What had left it before was not moving ahead of the walk from there, and counts as deleted."""
        walk = self._walk
        return (
            walk.restless and bool(walk.table.live[index]) and walk.table.changed_since(index, walk.began_ns - TICK_NS)
        )

    def _keep(self, base: BaseState, pending: List[Tuple[int, bytes, int]]) -> None:
        while pending:
            directory, name, child = pending.pop()
            if not self.result.alive.add(child):
                if not _is_directory_object(base, child):
                    self.result.entries.add(encode_entry(directory, name, child))  # another name of it
                continue  # a directory is elsewhere now
            self.result.entries.add(encode_entry(directory, name, child))
            pending.extend((child, below, grandchild) for below, grandchild in _children(base, child))

    def _names_in(self, indices: List[int]) -> Iterator[Tuple[int, Set[bytes]]]:
        """The names of each of these directories, one directory at a time."""
        wanted = {index.to_bytes(4, "big") for index in indices}
        names = self._make_spool()
        for record in self._walk.spool:
            if record[8] != SELF and record[DIRECTORY_AT:SCAN_SIZE] in wanted:
                names.add(record[DIRECTORY_AT:])
        groups = itertools.groupby(names, lambda record: int.from_bytes(record[:4], "big"))
        group = next(groups, None)
        for index in indices:
            present: Set[bytes] = set()
            if group is not None and group[0] == index:
                present = {record[4:] for record in group[1]}
                group = next(groups, None)
            yield index, present
        names.close()


def _is_directory_object(base: BaseState, number: int) -> bool:
    record = base.object(number)
    return record is None or stat.S_ISDIR(int.from_bytes(record[8:12], "big"))


def _children(base: BaseState, directory: int) -> List[Tuple[bytes, int]]:
    return [decode_entry(record)[1:] for record in base.entries.group(directory)]


def _place(record: bytes) -> Tuple[int, bytes]:
    return int.from_bytes(record[DIRECTORY_AT:SCAN_SIZE], "big"), record[SCAN_SIZE:]


def _is_directory(stamp: bytes) -> bool:
    return stat.S_ISDIR(int.from_bytes(stamp[MODE], "big"))
