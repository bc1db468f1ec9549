"""The walk: every name and stamp of a tree, into a spool sorted by inode. Ships to servers.

Works through directory descriptors, never follows a link, stays on one file system. Of a live tree, directories that
changed while they were walked are listed again until they are quiet: a file that moves into a directory already listed
would be missed otherwise, and a complete manifest would delete it.

What holds in the end: when the last check finds every directory as it was listed, the listings are the tree as it was at
the moment between the last listing and that check. Directories that never became quiet are *fuzzy* and named as problems:
whatever existed all the time and is in no listing is in one of them, or below. They are looked at once more and what is
found there is added (`latecomers`); what is missing even then is kept from a base, as far as it may have moved since the
walk began. Only what has no base and moves ahead of that look, too, is not there, and the problems say that names may be
missing. Knows nothing of object numbers or dumps.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile.format import CHUNK_SIZE, encode_xattrs
from voltool.inodes import get_flags, list_xattrs
from voltool.model import FileProblem, Problem
from voltool.origins import Origins, original
from voltool.spool import SortedSpool
from voltool.tree.dirtable import ROOT, DirTable
from voltool.tree.excluding import Excluder, is_no_part
from voltool.tree.latecomers import latecomers
from voltool.tree.stamps import STAMP_SIZE, decode_stamp, encode_stamp

#: inode, kind, stamp, directory index; then a name, or of SELF the directory's attributes
SCAN = struct.Struct(">QB48sI")
SCAN_SIZE = 61
assert SCAN.size == SCAN_SIZE
STAMP_AT = 9
DIRECTORY_AT = STAMP_AT + STAMP_SIZE
#: SELF sorts before the names of the same inode.
SELF, NAME = 0, 1
_DIR_ATTRIBUTES = struct.Struct(">II")

#: Kernel times lag the clock by up to a tick (4 ms at 250 Hz, 10 ms at 100 Hz); a change younger than this may share its
#: stamp with the next one.
TICK_NS = 20_000_000
#: How often changed directories are listed again before they are called fuzzy.
ROUNDS = 5
#: Inode numbers of what is mounted inside the volume belong to another file system; these stand for them.
FOREIGN_INODE = 1 << 63
#: Names of one directory that are held in memory before they go to the spool.
NAMES_AT_ONCE = 8192
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FS_ENCODING = sys.getfilesystemencoding()
_NEVER_QUIET = "names came and went in this directory all the time while it was listed: some may be missing"
#: XFS shows each ACL a second time under this name; other file systems do not have it.
_SHADOW = "trusted.SGI_ACL_"


@dataclass
class WalkResult:
    """What a walk found. ``spool`` holds scan records; ``fuzzy`` are inodes of directories that never became quiet or
    could not be listed; ``restless``: some never became quiet; ``began_ns``: what is missing then was somewhere else before;
    ``sparse``: the allocated bytes of large files with holes, by inode."""

    table: DirTable
    spool: SortedSpool
    entries: int = 0
    file_bytes: int = 0
    fuzzy: Set[int] = field(default_factory=set)
    restless: bool = False
    began_ns: int = field(default_factory=time.time_ns)
    problems: List[FileProblem] = field(default_factory=list)
    skipped_mounts: List[bytes] = field(default_factory=list)
    sparse: Dict[int, int] = field(default_factory=dict)

    def listings(self) -> Iterator[bytes]:
        """The records of all listings that were not superseded, in the spool's order."""
        live = self.table.live
        for record in self.spool:
            if live[int.from_bytes(record[DIRECTORY_AT : DIRECTORY_AT + 4], "big")]:
                yield record

    def never_quiet(self, index: int) -> None:
        """A directory that changed faster than it could be listed."""
        inode = self.table.inodes[index]
        if inode not in self.fuzzy:
            self.fuzzy.add(inode)
            self.problems.append(FileProblem(Problem.UNSTABLE, self.table.path(index) or b".", _NEVER_QUIET))
        self.restless = True

    def add_file(self, status: os.stat_result) -> None:
        """Count what reading a regular file will give."""
        size = readable_bytes(status)
        if size != status.st_size:
            self.sparse[status.st_ino] = size
        self.file_bytes += size


def readable_bytes(status: os.stat_result) -> int:
    """The bytes that reading a regular file will give: of a large one no holes."""
    size = status.st_size
    return status.st_blocks * 512 if size > CHUNK_SIZE and status.st_blocks * 512 < size else size


class DirAttributes(NamedTuple):
    """What a SELF record says beside the stamp."""

    flags: int
    project: int
    xattrs: bytes


def decode_self(record: bytes) -> DirAttributes:
    """The attributes in a SELF record."""
    flags, project = _DIR_ATTRIBUTES.unpack_from(record, SCAN_SIZE)
    return DirAttributes(flags, project, record[SCAN_SIZE + _DIR_ATTRIBUTES.size :])


def encode_directory_attributes(descriptor: int) -> bytes:
    """What a SELF record says of an open directory beside its stamp. Raises OSError."""
    flags, project = get_flags(descriptor)
    return _DIR_ATTRIBUTES.pack(flags, project) + read_xattrs(descriptor)


def read_xattrs(descriptor: int) -> bytes:
    """The xattr block of an open inode. Raises OSError."""
    names = [name for name in list_xattrs(descriptor) if not name.startswith(_SHADOW)]
    if not names:
        return b""
    return encode_xattrs([(os.fsencode(name), os.getxattr(descriptor, name)) for name in names])


class Walker:
    """One walk below ``root_fd``. ``live``: nothing is frozen. ``tick`` is called now and then with the entries so far. With
    ``origins`` everything is recorded with the volume's inode numbers and stamps, not with the clone's own."""

    def __init__(
        self,
        root_fd: int,
        spool: SortedSpool,
        *,
        live: bool,
        excludes: Sequence[bytes] = (),
        mounts: FrozenSet[bytes] = frozenset(),
        origins: Optional[Origins] = None,
        tick: Callable[[int, int], None],
    ) -> None:
        self._root_fd = root_fd
        self._device = os.fstat(root_fd).st_dev
        self._devices: Dict[int, int] = {}
        self._live = live
        self._excluder = Excluder(excludes)
        self._mounts = mounts
        self._origins = origins
        self._tick = tick
        self._result = WalkResult(DirTable(), spool)
        self._known: Optional[dict[int, int]] = None
        self._stack: List[int] = []

    def walk(self) -> WalkResult:
        """Walk until quiet; raises OSError only for the root itself."""
        self._result.table.add(ROOT, b"", original(self._origins, os.fstat(self._root_fd)).st_ino)
        if self._origins is not None:
            self._result.skipped_mounts += self._origins.skipped
            self._result.began_ns = self._origins.began_ns
        self._stack = [ROOT]
        self._drain()
        if self._live:
            self._settle()
        return self._result

    def _drain(self) -> None:
        count = 0
        while self._stack:
            self._list(self._stack.pop())
            count += 1
            if count % 256 == 0:
                self._tick(self._result.entries, self._result.file_bytes)

    def _list(self, index: int) -> None:
        table = self._result.table
        path = table.path(index)
        try:
            descriptor = open_beneath(self._root_fd, path, OPEN_DIRECTORY) if path else os.dup(self._root_fd)
        except OSError as error:
            self._unlistable(index, path, error)
            return
        try:
            status = original(self._origins, os.fstat(descriptor))
            if status.st_ino != table.inodes[index] or status.st_dev != self._device:
                table.live[index] = (
                    0  # replaced since its parent was listed; the parent has changed, and will be listed again
                )
                return
            table.stamps[index] = quiet_stamp(status)
            if self._origins is not None and self._origins.fuzzy(status.st_ino):
                self._result.never_quiet(index)
            self._emit_self(index, status, descriptor)
            self._emit_names(index, path, descriptor)
        except OSError as error:
            self._unlistable(index, path, error)
        finally:
            os.close(descriptor)

    def _unlistable(self, index: int, path: bytes, error: OSError) -> None:
        result = self._result
        if isinstance(error, FileNotFoundError) and self._live:
            result.table.live[index] = 0
            return
        result.fuzzy.add(result.table.inodes[index])
        result.problems.append(
            FileProblem(Problem.UNREADABLE, path, f"the directory cannot be listed: {error.strerror}")
        )

    def _emit_self(self, index: int, status: os.stat_result, descriptor: int) -> None:
        record = SCAN.pack(status.st_ino, SELF, encode_stamp(status), index)
        self._result.spool.add(record + encode_directory_attributes(descriptor))

    def _emit_names(self, index: int, path: bytes, descriptor: int) -> None:
        result = self._result
        excluder = self._excluder if self._excluder.active else None
        records: List[bytes] = []
        pack, device = SCAN.pack, self._device
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = entry.name.encode(_FS_ENCODING, "surrogateescape")
                if (not path and is_no_part(entry)) or (excluder and excluder.matches(path, name)):
                    continue
                try:
                    status = original(self._origins, entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue
                kind, inode = status.st_mode & 0o170000, status.st_ino
                if self._mounts and _join(path, name) in self._mounts:
                    self._foreign(index, path, name, status)
                    continue
                if status.st_dev != device:
                    if kind == stat.S_IFDIR:
                        self._foreign(index, path, name, status)
                        continue
                    inode = self._synthetic(status)
                if kind == stat.S_IFREG:
                    result.add_file(status)
                elif kind == stat.S_IFDIR:
                    self._found_directory(index, name, inode)
                records.append(pack(inode, NAME, encode_stamp(status), index) + name)
                if len(records) >= NAMES_AT_ONCE:
                    result.entries += len(records)
                    result.spool.add_many(records)
                    records = []
        result.entries += len(records)
        result.spool.add_many(records)

    def _foreign(self, index: int, path: bytes, name: bytes, status: os.stat_result) -> None:
        """What is mounted here: a directory is dumped empty, without what is in it; a file mounted over a file not at all,
        since its inode number belongs to another file system, or to another file of this one."""
        if not stat.S_ISDIR(status.st_mode):
            self._result.skipped_mounts.append(_join(path, name))
            return
        table = self._result.table
        inode = FOREIGN_INODE | len(table)
        own = table.add(index, name, inode)
        stamp = encode_stamp(status)
        self._result.spool.add(SCAN.pack(inode, SELF, stamp, own) + _DIR_ATTRIBUTES.pack(0, 0))
        self._result.spool.add(SCAN.pack(inode, NAME, stamp, index) + name)
        self._result.entries += 1
        self._result.skipped_mounts.append(_join(path, name))
        table.stamps[own] = -1

    def _synthetic(self, status: os.stat_result) -> int:
        """An inode number for a file of another device than its directory: an overlay takes its files from several, each
        with numbers of its own."""
        device = self._devices.setdefault(status.st_dev, len(self._devices) + 1)
        return FOREIGN_INODE | (device & 0x7FFF) << 48 | status.st_ino & 0xFFFF_FFFF_FFFF

    def _found_directory(self, parent: int, name: bytes, inode: int) -> None:
        table = self._result.table
        if self._known is None:
            self._stack.append(table.add(parent, name, inode))
            return
        index = self._known.get(inode)
        if index is None or not table.live[index]:
            index = table.add(parent, name, inode)
            self._stack.append(index)
        elif (table.parent(index), table.name(index)) != (parent, name):
            index = table.move(index, parent, name)
            self._stack.append(index)
        table.confirm(index)
        self._known[inode] = index

    def _settle(self) -> None:
        for attempt in range(ROUNDS):
            changed = self._changed()
            if not changed:
                return
            time.sleep(TICK_NS / 1e9 * (attempt + 1))
            self._known = self._result.table.by_inode()
            for index in changed:
                if self._result.table.live[index]:
                    self._list_again(index)
            self._drain()
            self._result.table.bury_orphans()
        busy = self._changed()
        if busy:
            self._take_latecomers(busy)
        for index in {*busy, *self._changed()}:
            self._result.never_quiet(index)

    def _take_latecomers(self, busy: List[int]) -> None:
        result = self._result
        self._known = result.table.by_inode()
        for record in latecomers(result.listings, busy, self._look, result.spool.directory):
            stamp = decode_stamp(record[STAMP_AT:DIRECTORY_AT])
            if stat.S_ISDIR(stamp.mode):
                self._found_directory(*scan_name(record), int.from_bytes(record[:8], "big"))
            elif stat.S_ISREG(stamp.mode):
                result.file_bytes += stamp.size
            result.spool.add(record)
            result.entries += 1
        self._drain()

    def _look(self, index: int) -> Iterator[bytes]:
        """NAME records of what a directory has now; what is mounted there is in its listing."""
        path = self._result.table.path(index)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            descriptor = open_beneath(self._root_fd, path, OPEN_DIRECTORY) if path else os.dup(self._root_fd)
            stack.callback(os.close, descriptor)
            for entry in stack.enter_context(os.scandir(descriptor)):
                name = os.fsencode(entry.name)
                if (not path and is_no_part(entry)) or self._excluder.matches(path, name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev == self._device and _join(path, name) not in self._mounts:
                        yield SCAN.pack(status.st_ino, NAME, encode_stamp(status), index) + name

    def _list_again(self, index: int) -> None:
        table = self._result.table
        new = table.replace(index)
        assert self._known is not None
        self._known[table.inodes[new]] = new
        for child in range(len(table)):
            if table.live[child] and child not in (ROOT, new) and table.parent(child) == index:
                table.adopt(child, new)
        self._list(new)

    def _changed(self) -> List[int]:
        table = self._result.table
        changed = []
        for index in range(len(table)):
            if (
                not table.live[index]
                or table.inodes[index] & FOREIGN_INODE
                or table.inodes[index] in self._result.fuzzy
            ):
                continue
            try:
                status = self._stat(table.path(index))
            except OSError:
                changed.append(index)
                continue
            if quiet_stamp(status) != table.stamps[index] or status.st_ino != table.inodes[index]:
                changed.append(index)
        return changed

    def _stat(self, path: bytes) -> os.stat_result:
        if not path:
            return os.fstat(self._root_fd)
        descriptor = open_beneath(self._root_fd, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.fstat(descriptor)
        finally:
            os.close(descriptor)


def quiet_stamp(status: os.stat_result) -> int:
    """The directory's ctime, or -2 when it is so young that another change could share it."""
    if time.time_ns() - status.st_ctime_ns < TICK_NS:
        return -2 - (time.monotonic_ns() & 0xFFFFFF)
    return status.st_ctime_ns


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def scan_name(record: bytes) -> Tuple[int, bytes]:
    """Directory index and name of a NAME record."""
    return int.from_bytes(record[DIRECTORY_AT : DIRECTORY_AT + 4], "big"), record[SCAN_SIZE:]
