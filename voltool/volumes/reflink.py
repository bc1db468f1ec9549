"""The driver for file systems that share data between files (XFS, btrfs and others with FICLONE): a clone is a tree of
reflinked files. Ships to servers. See contract.py for what it promises, reflink_passes.py for how a clone is made.

In ``<area>/clones``: the tree ``<label>`` and its index ``<label>.index``. While the index is called ``<label>.half`` the
clone is being made or dropped, and does not exist: one rename makes it whole. ``prepared`` is such a half clone that is kept:
the next clone goes on from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from typing import Dict, Iterator, List, Optional

from voltool import durable
from voltool.beneath import open_beneath, opened_directory
from voltool.errors import HostError, RefusedError, SpaceError, VoltoolError
from voltool.model import Consistency, VolumeRecord
from voltool.origins import Origins
from voltool.showing import shown
from voltool.spool import SortedSpool
from voltool.volumes import reflink_copy as copy
from voltool.volumes.contract import MOST_TIMED as MOST
from voltool.volumes.contract import ByteRange, Changes, Clone, Telling
from voltool.volumes.extents import differing, mapped_extents
from voltool.volumes.labels import clone_path, clones_directory
from voltool.volumes.mounts import nested_mounts
from voltool.volumes.records import locate_area
from voltool.volumes.reflink_index import CloneIndex, source_inode, write_index
from voltool.volumes.reflink_passes import OlderClone, Pass, PassMaker
from voltool.volumes.removal import remove_tree
from voltool.volumes.traits import synchronize, traits_of

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_INDEX = ".index"
_HALF = ".half"
#: While it is made: a directory of links by the volume's inode numbers.
_LINKS = ".links"
#: No label of a clone begins with a dot.
_PREPARED = ".prepared"
PASSES = 5


class ReflinkDriver:
    """Clones of files that share their data. Keeps the indexes of the clones it was asked about open."""

    name = "reflink"
    compares = True

    def __init__(self) -> None:
        self._indexes: Dict[bytes, CloneIndex] = {}

    def adopt(self, path: bytes) -> None:
        """Check that files can be cloned from there to where clones will be, and that we may."""
        if os.geteuid() != 0:
            raise _needs_root(path)
        with _translated(path):
            os.close(os.open(path, _OPEN))
            if not traits_of(path).stable_inodes:
                raise _no_reflinks(path, "its inode numbers may change, so nothing could be told from a clone later")
            into = os.path.dirname(locate_area(path))
            if not copy.reflinks_work(path, into):
                raise _no_reflinks(path, "its file system has no FICLONE (XFS: it was made with reflink=0)")

    def prepare(self, volume: VolumeRecord) -> None:
        """Passes as for a clone, whose result the next clone takes over."""
        directory = self._begin(volume)
        with _translated(volume.path):
            self._take_over(directory, _PREPARED)
            self._make_whole(volume, directory, _PREPARED)

    def clone(self, volume: VolumeRecord, label: str) -> Clone:
        """Make a tree of clones of files, in passes."""
        path = clone_path(clones_directory(volume), label)
        directory = self._begin(volume)
        if os.path.lexists(path):
            raise RefusedError("the clone exists already", where=shown(path))
        with _translated(volume.path):
            self._take_over(directory, label)
            self._make_whole(volume, directory, label)
        clone = self.find(volume, label)
        if clone is None:
            raise HostError("the clone that was just made is not there", where=shown(path))
        return clone

    def find(self, volume: VolumeRecord, label: str) -> Optional[Clone]:
        """The clone, if its index is there and can be read."""
        path = clone_path(clones_directory(volume), label)
        try:
            about = CloneIndex(path + _INDEX.encode()).about
            if not os.path.isdir(path):
                return None
            return Clone(
                label,
                path,
                int(about["time_ns"]),
                live=False,
                consistency=Consistency(about["consistency"]),
                uuid=str(about["uuid"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def clones(self, volume: VolumeRecord) -> List[Clone]:
        """All whole clones, by label."""
        directory = clones_directory(volume)
        try:
            names = sorted(map(os.fsdecode, os.listdir(directory)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _translate(error, directory) from error
        labels = [name[: -len(_INDEX)] for name in names if name.endswith(_INDEX) and not name.startswith(".")]
        return [clone for clone in (self.find(volume, label) for label in labels) if clone is not None]

    def open(self, clone: Clone) -> int:
        """The root of the tree of clones."""
        with _translated(clone.path):
            return os.open(clone.path, _OPEN)

    def origins(self, clone: Clone) -> Optional[Origins]:
        """From the index."""
        return self._index(clone)

    def drop(self, volume: VolumeRecord, clone: Clone) -> None:
        """From the first step on it is half, and goes with the next clone at the latest."""
        directory = clones_directory(volume)
        if clone.live or clone.path != clone_path(directory, clone.label):
            raise RefusedError("this is not a clone of the volume", where=shown(clone.path))
        with _translated(clone.path):
            with contextlib.suppress(FileNotFoundError):
                os.rename(_path(directory, clone.label + _INDEX), _path(directory, clone.label + _HALF))
                durable.fsync_directory(directory)
            _destroy(directory, clone.label)

    def changes(self, volume: VolumeRecord, base: Clone, clone: Clone, most_timed: int = MOST) -> Optional[Changes]:  # noqa: ARG002
        """Not known: compare."""
        return None

    def changed_ranges(self, base: Clone, clone: Clone, path: bytes) -> Optional[List[ByteRange]]:
        """From where the two files lie on the device."""
        maps = []
        sources = []
        for side in (base, clone):
            index = self._index(side)
            try:
                with opened_directory(side.path) as root, _opened_file(root, path) as descriptor:
                    record = index.find(os.fstat(descriptor).st_ino)
                    maps.append(mapped_extents(descriptor))
            except OSError:
                return None  # it was not there, or something else
            sources.append(source_inode(record) if record is not None else 0)
        if not sources[0] or sources[0] != sources[1]:
            return None
        return [ByteRange(offset, length) for offset, length in differing(maps[0], maps[1])]

    def path_of(self, clone: Clone, inode: int) -> Optional[bytes]:  # noqa: ARG002 - the contract's
        """Unknown: only a walk finds it."""
        return None

    def same_bytes(self, base: Clone, clone: Clone) -> Telling:  # noqa: ARG002 - the contract's
        """Unknown."""
        return contextlib.nullcontext()

    # ------------------------------------------------------------------------------------------------------- making

    def _begin(self, volume: VolumeRecord) -> bytes:
        """The directory of clones, without what a dead run left."""
        directory = clones_directory(volume)
        if os.geteuid() != 0:
            raise _needs_root(volume.path)
        with _translated(volume.path):
            os.close(os.open(volume.path, _OPEN))
            durable.make_directory(directory)
            if not copy.reflinks_work(directory, directory):
                raise _no_reflinks(volume.path, "its file system has no FICLONE (XFS: it was made with reflink=0)")
            names = set(map(os.fsdecode, os.listdir(directory)))
            for name in names:
                if name.endswith(_HALF):
                    _destroy(directory, name[: -len(_HALF)])
            if _PREPARED + _INDEX not in names:
                _destroy(directory, _PREPARED)
        return directory

    @staticmethod
    def _take_over(directory: bytes, label: str) -> None:
        """What was prepared becomes the half clone ``label``."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(_path(directory, _PREPARED + _INDEX), _path(directory, label + _HALF))
            durable.fsync_directory(directory)
            if label != _PREPARED:
                os.rename(_path(directory, _PREPARED), _path(directory, label))

    def _make_whole(self, volume: VolumeRecord, directory: bytes, label: str) -> None:
        try:
            self._make(volume, directory, label)
            os.rename(_path(directory, label + _HALF), _path(directory, label + _INDEX))
            durable.fsync_directory(directory)
        except BaseException:
            with contextlib.suppress(VoltoolError, OSError):  # then it stays half, and goes with the next clone
                _destroy(directory, label)
            raise

    def _make(self, volume: VolumeRecord, directory: bytes, label: str) -> None:
        """Bring the half clone ``label``, which may be there, up to date."""
        half = _path(directory, label + _HALF)
        known = _read_half(half) if os.path.isdir(_path(directory, label)) else None
        if known is None:
            _destroy(directory, label)
            durable.write_file(half, b"")
            os.mkdir(_path(directory, label), 0o700)
        remove_tree(_path(directory, label + _LINKS))
        os.mkdir(_path(directory, label + _LINKS), 0o700)
        with contextlib.ExitStack() as stack:
            live, new, links = (
                stack.enter_context(opened_directory(path))
                for path in (volume.path, _path(directory, label), _path(directory, label + _LINKS))
            )
            root = volume.path.rstrip(b"/") + b"/"
            maker = PassMaker(
                live,
                new,
                links,
                lambda: stack.enter_context(SortedSpool(directory)),
                older=self._newest(volume, stack),
                mounts=frozenset(point[len(root) :] for point in nested_mounts(volume.path)),
            )
            _run_passes(maker, volume.path, half, known)
        os.rmdir(_path(directory, label + _LINKS))
        synchronize(directory)

    def _newest(self, volume: VolumeRecord, stack: contextlib.ExitStack) -> Optional[OlderClone]:
        clones = sorted(self.clones(volume), key=lambda clone: clone.time_ns)
        if not clones:
            return None
        return OlderClone(stack.enter_context(opened_directory(clones[-1].path)), self._index(clones[-1]))

    def _index(self, clone: Clone) -> CloneIndex:
        index = self._indexes.get(clone.path)
        if index is None or index.about["uuid"] != clone.uuid:
            with _translated(clone.path):
                try:
                    index = self._indexes[clone.path] = CloneIndex(clone.path + _INDEX.encode())
                except ValueError as error:
                    raise HostError(
                        "the index of a clone is damaged",
                        where=shown(clone.path),
                        why=str(error),
                        remedy="drop the clone; the next dump makes another",
                    ) from error
        return index


def _run_passes(maker: PassMaker, volume: bytes, half: bytes, known: Optional[CloneIndex]) -> None:
    """Passes until one changes nothing, or no fewer than the one before; the index of the last at ``half``."""
    before: Optional[Pass] = None
    began_ns = time.time_ns()
    for number in range(1, PASSES + 1):
        if number > 1:
            time.sleep(copy.TICK_NS / 1e9)  # what changed a moment ago can be told from a change to come only then
        synchronize(volume)
        done = maker.run(known)
        known = index = _write_half(half, done, began_ns, Consistency.SNAPSHOT if done.quiet else Consistency.LIVE)
        if not done.changes or (number > 2 and before is not None and done.changes >= before.changes):
            break
        if before is not None:
            before.spool.close()
        before = done
    if done.changes:
        maker.catch_up(done, index)
        _write_half(half, done, began_ns, Consistency.LIVE)


def _write_half(half: bytes, done: Pass, began_ns: int, consistency: Consistency) -> CloneIndex:
    about = {
        "time_ns": done.begun_ns,
        "began_ns": began_ns,
        "uuid": secrets.token_hex(16),
        "consistency": consistency.value,
        "skipped": [os.fsdecode(path) for path in done.skipped],
    }
    write_index(half + b".new", done.spool, done.fuzzy, about)
    os.rename(half + b".new", half)
    return CloneIndex(half)


def _read_half(path: bytes) -> Optional[CloneIndex]:
    try:
        return CloneIndex(path)
    except (OSError, ValueError):
        return None


def _destroy(directory: bytes, label: str) -> None:
    """Remove a half clone; its sign goes last. Idempotent."""
    for name in (_LINKS, "", _HALF + ".new"):
        remove_tree(_path(directory, label + name))
    durable.remove_file(_path(directory, label + _HALF))


def _path(directory: bytes, name: str) -> bytes:
    return os.path.join(directory, os.fsencode(name))


@contextlib.contextmanager
def _opened_file(root: int, path: bytes) -> Iterator[int]:
    """A regular file of a clone. Raises OSError for anything else: a device is not even opened."""
    place = open_beneath(root, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        descriptor = open_beneath(root, path, _READ)
    finally:
        os.close(place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error, path) from error


def _translate(error: OSError, path: bytes) -> VoltoolError:
    why = error.strerror or str(error)
    if error.filename is not None:
        why += f": {shown(os.fsencode(error.filename))}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SpaceError(
            "there is no room for a clone",
            where=shown(path),
            why=why,
            remedy="free space: a clone of files takes a directory tree of its own, and all data that changes while it is kept",
        )
    if error.errno == errno.ETXTBSY:
        return RefusedError(
            "the volume has an active swap file",
            where=shown(path),
            why=why,
            remedy="swapoff the file, or move it outside the volume",
        )
    if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
        return _needs_root(path)
    return HostError(
        "the volume cannot be cloned", where=shown(path), why=why, remedy="check the path; dmesg may say more"
    )


def _needs_root(path: bytes) -> HostError:
    return HostError(
        "cloning files with their owners needs root",
        where=shown(path),
        why=f"voltool runs there as user {os.geteuid()}",
        remedy="log in as root, or set become = true for the host and allow sudo; --driver directory works without",
    )


def _no_reflinks(path: bytes, why: str) -> RefusedError:
    return RefusedError(
        "files cannot be cloned here",
        where=shown(path),
        why=why,
        remedy="--driver directory; or put the volume on XFS (mkfs.xfs -m reflink=1) or btrfs",
    )
