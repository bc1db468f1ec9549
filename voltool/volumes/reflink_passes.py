"""A reflink clone is made in passes over the live tree: each compares all of it and makes anew what is not as cloned. Ships to
servers.

What a pass found at rest and as cloned is not touched, so the last pass costs one look at each name. A pass that changes
nothing proves that all of the tree stood as cloned at the moment when it began: each object was cloned before and was the
same after that. Hard links stay hard links: a directory of links by the volume's inode numbers says which clone an inode has.
Knows nothing of labels, records or durability: see reflink.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from array import array
from dataclasses import dataclass, field
from typing import Callable, FrozenSet, Iterator, List, NamedTuple, Optional, Set

from voltool.beneath import open_beneath
from voltool.spool import SortedSpool
from voltool.volumes import reflink_copy as copy
from voltool.volumes.reflink_index import SETTLED, CloneIndex, add_record, pack_source, source_inode
from voltool.volumes.removal import remove_at

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OWN = ".voltool"
#: Inode numbers of what is mounted inside the volume belong to another file system; these stand for them.
_FOREIGN = 1 << 63
#: What opening a directory by its path says when another object has taken its place.
_REPLACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EAGAIN})


@dataclass(frozen=True)
class OlderClone:
    """A whole clone from before: its root, open, and its index."""

    root: int
    index: CloneIndex


@dataclass
class Pass:
    """What one pass did. ``changes`` counts what was not as in the clone, ``restless`` what was made anew only since it is
    never at rest. ``fuzzy`` are inodes of the clone. ``spool`` holds the index's records."""

    spool: SortedSpool
    begun_ns: int
    changes: int = 0
    restless: int = 0
    fuzzy: Set[int] = field(default_factory=set)
    skipped: List[bytes] = field(default_factory=list)

    @property
    def quiet(self) -> bool:
        """Whether it found everything at rest and as cloned."""
        return not (self.changes or self.restless or self.fuzzy)


class _Step(NamedTuple):
    """A directory to be compared; ``fresh``: its clone is empty; ``parent``: the clone's inode of the one it is in."""

    path: bytes
    fresh: bool
    parent: int


class _Place:
    """One directory, open in the volume (``live``), the clone (``new``) and perhaps an older clone (else -1)."""

    def __init__(self, live: int, new: int, older: int, *, fresh: bool) -> None:
        self.live = live
        self.new = new
        self.older = older
        self.fresh = fresh
        self.touched = fresh
        #: Hashes of the names that the clone has by now: a directory may have millions.
        self.names = array("q")

    def touch(self) -> None:
        """The clone's directory is about to change."""
        if not self.touched:
            copy.unseal(self.new)
            self.touched = True

    def close(self) -> None:
        for descriptor in (self.live, self.new, self.older):
            if descriptor >= 0:
                os.close(descriptor)


class PassMaker:
    """Makes passes. ``live``, ``new`` and ``links`` are open directories: the volume, its clone, one for links by inode."""

    def __init__(
        self,
        live: int,
        new: int,
        links: int,
        make_spool: Callable[[], SortedSpool],
        *,
        older: Optional[OlderClone],
        mounts: FrozenSet[bytes],
    ) -> None:
        self._live = live
        self._new = new
        self._links = links
        self._make_spool = make_spool
        self._older = older
        self._mounts = mounts
        self._device = os.fstat(live).st_dev
        self._known: Optional[CloneIndex] = None
        self._seen: Set[int] = set()
        self._stack: List[_Step] = []

    def run(self, known: Optional[CloneIndex]) -> Pass:
        """One pass; ``known`` is the index of the last one, None for the first. Raises OSError."""
        self._known = known
        self._seen = set()
        self._pass = Pass(self._make_spool(), time.time_ns())
        self._stack = [_Step(b"", known is None, 0)]
        while self._stack:
            self._directory(self._stack.pop())
        for name in self._names(self._links):
            copy.unlink(self._links, name)
        return self._pass

    def find_fuzzy(self, index: CloneIndex) -> Set[int]:
        """The clone's inodes of directories that changed since they were listed in the pass that ``index`` is of."""
        fuzzy: Set[int] = set()
        stack = [b""]
        while stack:
            path = stack.pop()
            new = self._open(self._new, path)
            try:
                inode = os.fstat(new).st_ino
                with os.scandir(new) as entries:
                    names = [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
            finally:
                os.close(new)
            record = index.find(inode)
            if record is not None and source_inode(record) & _FOREIGN:
                continue
            if record is None or not self._is_still(path, record):
                fuzzy.add(inode)
            stack += [_join(path, name) for name in names]
        return fuzzy

    def _is_still(self, path: bytes, record: bytes) -> bool:
        try:
            live = self._open(self._live, path)
        except OSError as error:
            if error.errno in _REPLACED:
                return False
            raise
        try:
            return record.startswith(pack_source(os.fstat(live)))
        finally:
            os.close(live)

    # -------------------------------------------------------------------------------------------------- directories

    def _directory(self, step: _Step) -> None:
        place = self._enter(step)
        if place is None:
            self._pass.changes += 1
            self._pass.fuzzy.add(step.parent)
            parent, _slash, name = step.path.rpartition(b"/")
            with self._opened(self._new, parent) as directory:
                seals = copy.unseal(directory)
                remove_at(directory, name)
                copy.seal(directory, seals)
            return
        try:
            self._compare(place, step.path)
        finally:
            place.close()

    def _enter(self, step: _Step) -> Optional[_Place]:
        """The directory on all sides; None where it is gone or was met elsewhere in this pass: it moved."""
        try:
            live = self._open(self._live, step.path)
        except OSError as error:
            if error.errno in _REPLACED and step.path:
                return None
            raise
        status = os.fstat(live)
        if status.st_ino in self._seen or status.st_dev != self._device:
            os.close(live)
            return None
        self._seen.add(status.st_ino)
        older = -1
        try:
            new = self._open(self._new, step.path)
            if self._older is not None:
                with contextlib.suppress(OSError):
                    older = self._open(self._older.root, step.path)
        except OSError:
            os.close(live)
            raise
        return _Place(live, new, older, fresh=step.fresh)

    def _compare(self, place: _Place, path: bytes) -> None:
        moment = time.time_ns()
        status = os.fstat(place.live)
        inode = os.fstat(place.new).st_ino
        source = pack_source(status)
        settled = moment - status.st_ctime_ns > copy.TICK_NS
        kept = self._known is not None and self._known.is_kept(inode, source)
        if not kept:
            self._count(inode, source, settled=settled)
        with os.scandir(place.live) as entries:
            for entry in entries:
                if not path and entry.name == _OWN:
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if self._name(place, _join(path, os.fsencode(entry.name)), entry.name, found, inode):
                    place.names.append(hash(entry.name))
        if not place.fresh:
            self._remove_extra(place)
        if not kept or place.touched:
            copy.dress_directory(place.live, place.new, status)
        add_record(self._pass.spool, inode, source, SETTLED if settled else 0)

    def _remove_extra(self, place: _Place) -> None:
        """Names that the volume has not. Most directories have none, and then their number tells."""
        present = self._names(place.new)
        if len(present) == len(place.names):
            return
        wanted = set(place.names)
        for name in present:
            if hash(name) not in wanted:
                self._pass.changes += 1
                place.touch()
                remove_at(place.new, os.fsencode(name))

    # -------------------------------------------------------------------------------------------------------- names

    def _name(self, place: _Place, path: bytes, name: str, status: os.stat_result, parent: int) -> bool:
        """Bring one name of the clone up to date; whether it has it now."""
        is_directory = stat.S_ISDIR(status.st_mode)
        if (status.st_dev != self._device and is_directory) or (self._mounts and path in self._mounts):
            self._pass.skipped.append(path)
            if is_directory:
                self._foreign(place, name, status)
            return is_directory
        old = None if place.fresh else self._status(place.new, name)
        if is_directory:
            fresh = old is None or not stat.S_ISDIR(old.st_mode)
            if fresh:
                self._make_directory(place, name, old)
            self._stack.append(_Step(path, fresh, parent))
            return True
        source = pack_source(status)
        if old is not None and self._keep(place, name, status, old.st_ino, source):
            return True
        place.touch()
        if old is not None:
            remove_at(place.new, os.fsencode(name))
        before = old.st_ino if old is not None else 0
        if self._link(place, name, status, source):
            if not self._was(before, source):
                self._pass.changes += 1
            return True
        made = self._make(place, name, status, source)
        if made is None:
            self._pass.changes += 1
            return False
        self._count(before, made.source, settled=made.settled)
        return True

    def _keep(self, place: _Place, name: str, status: os.stat_result, old: int, source: bytes) -> bool:
        """Whether the name can stay as it is: as cloned, at rest, and the same inode as its other names."""
        if self._known is None or not self._known.is_kept(old, source):
            return False
        if status.st_nlink > 1 and self._register(place, name, status.st_ino) != old:
            return False
        add_record(self._pass.spool, old, source, SETTLED)
        return True

    def _register(self, place: _Place, name: str, source: int) -> int:
        """Let other names of the volume's inode ``source`` find its clone; the clone's inode that they will find."""
        try:
            copy.link(place.new, name, self._links, str(source))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EMLINK):
                raise
        found = self._status(self._links, str(source)) or os.stat(name, dir_fd=place.new, follow_symlinks=False)
        return found.st_ino

    def _make_directory(self, place: _Place, name: str, old: Optional[os.stat_result]) -> None:
        place.touch()
        if old is not None:
            remove_at(place.new, os.fsencode(name))
        os.mkdir(name, 0o700, dir_fd=place.new)

    def _foreign(self, place: _Place, name: str, status: os.stat_result) -> None:
        """What is mounted there is no part of the volume: an empty directory."""
        old = None if place.fresh else self._status(place.new, name)
        if old is None or not stat.S_ISDIR(old.st_mode):
            self._make_directory(place, name, old)
            old = os.stat(name, dir_fd=place.new)
        add_record(self._pass.spool, old.st_ino, pack_source(status, _FOREIGN | len(self._pass.skipped)), 0)

    def _make(self, place: _Place, name: str, status: os.stat_result, source: bytes) -> Optional[copy.Made]:
        """The clone of one object that is no directory; None where it vanished."""
        made = self._from_older(place, name, source)
        try:
            if made is None and stat.S_ISREG(status.st_mode):
                made = copy.make_file(place.live, place.new, name)
            elif made is None:
                made = copy.make_special(place.live, place.new, name)
        except FileNotFoundError:
            remove_at(place.new, os.fsencode(name))
            return None
        add_record(self._pass.spool, made.inode, made.source, SETTLED if made.settled else 0)
        if status.st_nlink > 1:
            self._register(place, name, status.st_ino)
        return made

    def _link(self, place: _Place, name: str, status: os.stat_result, source: bytes) -> bool:
        """Another name of what was cloned in this pass already; False where this is the first."""
        if status.st_nlink < 2:
            return False
        try:
            copy.link(self._links, str(status.st_ino), place.new, name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EMLINK):
                return False
            raise
        # Whether it is settled says the note of its first name; if that was of another stamp, neither is.
        add_record(self._pass.spool, os.stat(name, dir_fd=place.new, follow_symlinks=False).st_ino, source, SETTLED)
        return True

    def _from_older(self, place: _Place, name: str, source: bytes) -> Optional[copy.Made]:
        """A link to an older clone's clone of the same object, if that is unchanged since."""
        if place.older < 0 or self._older is None:
            return None
        old = self._status(place.older, name)
        if old is None or not self._older.index.is_kept(old.st_ino, source):
            return None
        try:
            os.link(name, name, src_dir_fd=place.older, dst_dir_fd=place.new, follow_symlinks=False)
        except OSError as error:
            # It is sealed, or has all the links it can have.
            if error.errno in (errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOENT):
                return None
            raise
        return copy.Made(old.st_ino, source, settled=True)

    def _count(self, old: int, source: bytes, *, settled: bool) -> None:
        """What was made anew is a change, unless its stamp is as before and it was restless before and now."""
        if self._was(old, source) and not settled:
            self._pass.restless += 1
        else:
            self._pass.changes += 1

    def _was(self, old: int, source: bytes) -> bool:
        """Whether the clone's inode ``old`` was cloned from this very source in the last pass."""
        record = self._known.find(old) if self._known is not None and old else None
        return record is not None and record.startswith(source)

    # -------------------------------------------------------------------------------------------------- descriptors

    @staticmethod
    def _status(directory: int, name: str) -> Optional[os.stat_result]:
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    @staticmethod
    def _open(root: int, path: bytes) -> int:
        return open_beneath(root, path, _OPEN) if path else os.open(".", _OPEN, dir_fd=root)

    def _names(self, directory: int) -> List[str]:
        """What is in an open directory now: btrfs shows what was there when it was opened, so it is opened again."""
        with self._opened(directory, b"") as again:
            return os.listdir(again)

    @contextlib.contextmanager
    def _opened(self, root: int, path: bytes) -> Iterator[int]:
        descriptor = self._open(root, path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
