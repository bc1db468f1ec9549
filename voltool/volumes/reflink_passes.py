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
from dataclasses import dataclass, field
from typing import Callable, FrozenSet, Iterator, List, NamedTuple, Optional, Set, Tuple

from voltool.spool import SortedSpool
from voltool.volumes import reflink_copy as copy
from voltool.volumes.reflink_index import SETTLED, CloneIndex, add_record, pack_source, source_inode
from voltool.volumes.reflink_place import Place, names_now, open_directory, open_live, opened, status_at
from voltool.volumes.removal import remove_at

_OWN = ".voltool"
#: Inode numbers of what is mounted inside the volume belong to another file system; these stand for them.
_FOREIGN = 1 << 63


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
        self._drain()
        return self._pass

    def _drain(self) -> None:
        while self._stack:
            self._directory(self._stack.pop())
        for name in names_now(self._links):
            copy.unlink(self._links, name)

    def catch_up(self, done: Pass, index: CloneIndex) -> None:
        """After the last pass ``done``, if that was not quiet (``index`` is its own): directories that changed since they were
        listed are fuzzy, and what they have now that is nowhere in the clone is added: in each pass it moved ahead of it."""
        self._known = index
        for path, inode in list(self._changed_since(index)):
            done.fuzzy.add(inode)
            live = open_live(self._live, path)
            if live is not None:
                place = Place(live, open_directory(self._new, path), -1, fresh=False)
                try:
                    self._add_newcomers(place, path, inode)
                finally:
                    place.close()
        self._drain()

    def _changed_since(self, index: CloneIndex) -> Iterator[Tuple[bytes, int]]:
        stack = [b""]
        while stack:
            path = stack.pop()
            with opened(self._new, path) as new:
                inode = os.fstat(new).st_ino
                with os.scandir(new) as entries:
                    names = [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
            stack += [_join(path, name) for name in names]
            record = index.find(inode)
            if record is None or not (source_inode(record) & _FOREIGN or self._is_still(path, record)):
                yield path, inode

    def _add_newcomers(self, place: Place, path: bytes, inode: int) -> None:
        with os.scandir(place.live) as entries:
            for entry in entries:
                own = not path and entry.name == _OWN
                if own or entry.inode() in self._seen or status_at(place.new, entry.name) is not None:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    self._name(place, _join(path, os.fsencode(entry.name)), entry.name, found, inode)
        if place.touched:
            copy.dress_directory(place.live, place.new, os.fstat(place.live))

    def _is_still(self, path: bytes, record: bytes) -> bool:
        live = open_live(self._live, path)
        if live is None:
            return False
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
            with opened(self._new, parent) as directory:
                seals = copy.unseal(directory)
                remove_at(directory, name)
                copy.seal(directory, seals)
            return
        try:
            self._compare(place, step.path)
        finally:
            place.close()

    def _enter(self, step: _Step) -> Optional[Place]:
        """The directory on all sides; None where it is gone or was met elsewhere in this pass: it moved."""
        live = open_live(self._live, step.path)
        if live is None:
            return None
        status = os.fstat(live)
        if status.st_ino in self._seen or status.st_dev != self._device:
            os.close(live)
            return None
        self._seen.add(status.st_ino)
        older = -1
        try:
            new = open_directory(self._new, step.path)
            if self._older is not None:
                with contextlib.suppress(OSError):
                    older = open_directory(self._older.root, step.path)
        except OSError:
            os.close(live)
            raise
        return Place(live, new, older, fresh=step.fresh)

    def _compare(self, place: Place, path: bytes) -> None:
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

    def _remove_extra(self, place: Place) -> None:
        """Names that the volume has not. Most directories have none, and then their number tells."""
        present = names_now(place.new)
        if len(present) == len(place.names):
            return
        wanted = set(place.names)
        for name in present:
            if hash(name) not in wanted:
                self._pass.changes += 1
                place.touch()
                remove_at(place.new, os.fsencode(name))

    # -------------------------------------------------------------------------------------------------------- names

    def _name(self, place: Place, path: bytes, name: str, status: os.stat_result, parent: int) -> bool:
        """Bring one name of the clone up to date; whether it has it now."""
        is_directory = stat.S_ISDIR(status.st_mode)
        if (status.st_dev != self._device and is_directory) or (self._mounts and path in self._mounts):
            self._pass.skipped.append(path)
            if is_directory:
                self._foreign(place, name, status)
            return is_directory
        old = None if place.fresh else status_at(place.new, name)
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

    def _keep(self, place: Place, name: str, status: os.stat_result, old: int, source: bytes) -> bool:
        """Whether the name can stay as it is: as cloned, at rest, and the same inode as its other names."""
        if self._known is None or not self._known.is_kept(old, source):
            return False
        if status.st_nlink > 1 and self._register(place, name, status.st_ino) != old:
            return False
        add_record(self._pass.spool, old, source, SETTLED)
        return True

    def _register(self, place: Place, name: str, source: int) -> int:
        """Let other names of the volume's inode ``source`` find its clone; the clone's inode that they will find."""
        try:
            copy.link(place.new, name, self._links, str(source))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EMLINK):
                raise
        found = status_at(self._links, str(source)) or os.stat(name, dir_fd=place.new, follow_symlinks=False)
        return found.st_ino

    def _make_directory(self, place: Place, name: str, old: Optional[os.stat_result]) -> None:
        place.touch()
        if old is not None:
            remove_at(place.new, os.fsencode(name))
        os.mkdir(name, 0o700, dir_fd=place.new)

    def _foreign(self, place: Place, name: str, status: os.stat_result) -> None:
        """What is mounted there is no part of the volume: an empty directory."""
        old = None if place.fresh else status_at(place.new, name)
        if old is None or not stat.S_ISDIR(old.st_mode):
            self._make_directory(place, name, old)
            old = os.stat(name, dir_fd=place.new)
        add_record(self._pass.spool, old.st_ino, pack_source(status, _FOREIGN | len(self._pass.skipped)), 0)

    def _make(self, place: Place, name: str, status: os.stat_result, source: bytes) -> Optional[copy.Made]:
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

    def _link(self, place: Place, name: str, status: os.stat_result, source: bytes) -> bool:
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

    def _from_older(self, place: Place, name: str, source: bytes) -> Optional[copy.Made]:
        """A link to an older clone's clone of the same object, if that is unchanged since."""
        if place.older < 0 or self._older is None:
            return None
        old = status_at(place.older, name)
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


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
