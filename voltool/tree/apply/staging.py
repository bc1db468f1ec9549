"""Where a restore is put together until it is whole, and the durable record that lets an interrupted one go on.

Staging lies on the target's file system: beside the target, or inside it where the target is a mount point. It inherits
nothing from the directories above it (ACLs, flags, group), so what is made in it has no attribute of its own accord.
Part of what is shipped to servers.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import hashlib
import json
import os
import shutil
import stat
import time
from typing import List, Optional, Sequence, Tuple

from voltool import durable, inodes
from voltool.errors import BusyError, HostError, NotFoundError, RefusedError
from voltool.frozen import dataclass
from voltool.model import ROOT_OBJECT
from voltool.showing import shown
from voltool.tree.apply.attributes import SEALS
from voltool.tree.apply.files import flat_path, translate

AREA = b".voltool"
_PREFIX = b"staging-"
_LOCK_PATIENCE = 3.0
_LOST_AND_FOUND = b"lost+found"
_ACLS = (b"system.posix_acl_default", b"system.posix_acl_access")
#: From the root's flat path out of staging and its area (`open_inside`).
_UP_TO_TARGET = b"../../../.."
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Way(enum.Enum):
    """How the tree gets to its target."""

    RENAME = "rename"  # the target does not exist, or is an empty directory
    ENTRIES = "entries"  # the target is a mount point: its top entries are renamed one by one
    MERGE = "merge"  # into an existing directory, where nothing collides
    INSIDE = "inside"  # the target is a tree that nobody else can reach: it is changed where it stands


class Phase(enum.Enum):
    """How far a restore has come, durably."""

    DATA = "data"
    ASSEMBLE = "assemble"
    PUBLISH = "publish"


@dataclass(frozen=True)
class StagingKey:
    """What is restored, and where to: an interrupted restore of the same key goes on."""

    target: bytes
    volume_uuid: str
    state_id: str
    selection: str

    def digest(self) -> bytes:
        """The part of the staging directory's name that stands for the key."""
        text = b"\0".join([self.target, self.volume_uuid.encode(), self.state_id.encode(), self.selection.encode()])
        return hashlib.sha256(text).hexdigest()[:20].encode()


@dataclass(frozen=True)
class Progress:
    """The durable record of how far a restore has come.

    ``resume_after``: the highest object whose data is safe; ``content_bytes``: how much of the kept CONTENT frames belongs
    to those objects; ``files`` and ``data_bytes`` count them. ``root_inode``: the finished tree's root, set before it is
    published; ``sealed``: names in the root (hex) and the +i, +a they get once they are published.
    """

    phase: Phase = Phase.DATA
    resume_after: int = 0
    content_bytes: int = 0
    files: int = 0
    data_bytes: int = 0
    way: str = ""
    root_inode: int = 0
    sealed: Sequence[Tuple[str, int]] = ()


class Staging:
    """An open, locked staging directory. ``descriptor`` is of the directory, ``fresh`` whether it was made just now."""

    def __init__(self, path: bytes, target: bytes, way: Way) -> None:
        self.path = path
        self.target = target
        self.way = way
        self._around = -1
        try:
            self.descriptor = os.open(path, _OPEN_DIRECTORY)
            if way in (Way.ENTRIES, Way.INSIDE):
                self._around = os.open(target, _OPEN_DIRECTORY)
        except OSError as error:
            raise translate(error, "the staging directory") from error
        self._lock = durable.FileLock(
            os.path.join(path, b"lock"), what=f"the restore to {shown(target)}", owner="voltool restore"
        )
        try:
            self._acquire()
        except BaseException:
            os.close(self.descriptor)
            if self._around >= 0:
                os.close(self._around)
            raise
        known = load_progress(path)
        self.fresh = known is None
        self.progress = known or Progress(way=way.value)
        if self.fresh:
            self.save(self.progress)
        make_private(self.descriptor, b"dirs")

    def _acquire(self) -> None:
        """Workers of a restore that was just killed hold the lock until they are gone too: they may still write."""
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                self._lock.acquire()
            except BusyError:  # noqa: PERF203 - it waits in any case
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def save(self, progress: Progress) -> None:
        """Make ``progress`` durable; what it promises must be on disk already (`sync`)."""
        fields = {**dataclasses.asdict(progress), "phase": progress.phase.value}
        try:
            durable.write_file(os.path.join(self.path, b"record.json"), json.dumps(fields).encode())
        except OSError as error:
            raise translate(error, "the record of the restore") from error
        self.progress = progress

    def sync(self) -> None:
        """syncfs(2): everything written so far is on disk, or an error says so."""
        if ctypes.CDLL(None, use_errno=True).syncfs(self.descriptor) != 0:
            code = ctypes.get_errno()
            raise translate(OSError(code, os.strerror(code)), "to disk")

    def close(self) -> None:
        """Give the lock up, leave everything as it is; idempotent."""
        if self.descriptor >= 0:
            self._lock.release()
            os.close(self.descriptor)
            self.descriptor = -1
        if self._around >= 0:
            os.close(self._around)
            self._around = -1

    def clear(self, *, keep: Sequence[bytes]) -> None:
        """Remove what an earlier run has left, but what is named in ``keep``, and begin anew. Cut off, it is to be done again:
        the record of how far that run came goes last. Raises OSError."""
        for name in os.listdir(self.path):
            if name in {b"lock", b"record.json", *keep}:
                continue
            path = b"/proc/self/fd/%d/%s" % (self.descriptor, name)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        self.save(Progress(way=self.way.value))
        make_private(self.descriptor, b"dirs")

    def open_target(self) -> int:
        """A descriptor of the target's directory, which must be there. One that staging lies inside was opened with it: by now
        its path may be covered by a mount that keeps everybody else out. Raises OSError."""
        return os.open(self.target, _OPEN_DIRECTORY) if self._around < 0 else os.dup(self._around)

    def remove(self) -> None:
        """Remove staging, and the area where nothing else is in it. Never by a path: see `open_target`."""
        place = os.path.dirname(self.path)
        above = os.open(os.path.dirname(place), _OPEN_DIRECTORY) if self._around < 0 else os.dup(self._around)
        try:
            area = os.open(AREA, _OPEN_DIRECTORY, dir_fd=above)
            self.close()
            try:
                shutil.rmtree(b"/proc/self/fd/%d/%s" % (area, os.path.basename(self.path)), ignore_errors=True)
            finally:
                os.close(area)
            os.rmdir(AREA, dir_fd=above)
            os.fsync(above)
        except OSError:
            return  # something else of voltool is there
        finally:
            os.close(above)


def load_progress(path: bytes) -> Optional[Progress]:
    """The durable record in staging directory ``path``; None where there is none that can be read."""
    try:
        with open(os.path.join(path, b"record.json"), "rb") as file:
            fields = json.loads(file.read(1 << 16))
        return Progress(**{**fields, "phase": Phase(fields["phase"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_staging(key: StagingKey, *, into_existing: bool) -> Staging:
    """Make or find the staging directory for ``key``; its target is checked first.

    Raises RefusedError (a target with content, an area that is not ours), NotFoundError (no parent directory), HostError,
    BusyError (the same restore runs already).
    """
    target = key.target
    parent = os.path.dirname(target)
    if not os.path.isdir(parent):
        raise NotFoundError(
            f"there is no directory {shown(parent)}", where=shown(target), remedy="make it, or another target"
        )
    inside = os.path.lexists(target) and _is_mount_point(target)
    area = os.path.join(target if inside else parent, AREA)
    path = os.path.join(area, _PREFIX + key.digest())
    progress = load_progress(path)
    way = _way(target, inside=inside, into_existing=into_existing, progress=progress)
    try:
        _make_area(area)
        descriptor = os.open(area, _OPEN_DIRECTORY)
        try:
            make_private(descriptor, os.path.basename(path))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise translate(error, f"the staging directory {shown(path)}") from error
    return Staging(path, target, way)


def open_inside(key: StagingKey) -> Staging:
    """Staging in the root of its target, a tree of our own: what takes the tree apart finds its root in staging by a link.

    Raises RefusedError, HostError, BusyError.
    """
    area = os.path.join(key.target, AREA)
    path = os.path.join(area, _PREFIX + key.digest())
    try:
        _make_area(area)
        for directory, name in ((area, os.path.basename(path)), (path, b"dirs"), (path + b"/dirs", b"0")):
            descriptor = os.open(directory, _OPEN_DIRECTORY)
            try:
                make_private(descriptor, name)
            finally:
                os.close(descriptor)
        with contextlib.suppress(FileExistsError):
            os.symlink(_UP_TO_TARGET, os.path.join(path, flat_path(ROOT_OBJECT)))
    except OSError as error:
        raise translate(error, f"the staging directory {shown(path)}") from error
    return Staging(path, key.target, Way.INSIDE)


def staging_path(key: StagingKey, area: bytes) -> bytes:
    """Where the staging of that key is in a `.voltool`."""
    return os.path.join(area, _PREFIX + key.digest())


def stale(staging: Staging) -> List[bytes]:
    """Staging directories of other restores beside this one."""
    area = os.path.dirname(staging.path)
    own = os.path.basename(staging.path)
    return [os.path.join(area, name) for name in sorted(os.listdir(area)) if name.startswith(_PREFIX) and name != own]


def _way(target: bytes, *, inside: bool, into_existing: bool, progress: Optional[Progress]) -> Way:
    if not os.path.lexists(target):
        return Way.RENAME
    status = os.lstat(target)
    if not stat.S_ISDIR(status.st_mode):
        raise RefusedError(
            "the target exists and is not a directory", where=shown(target), remedy="another target, or remove it"
        )
    if into_existing:
        return Way.MERGE
    allowed = {AREA} if inside else set()
    left = [name for name in os.listdir(target) if not (name in allowed or _is_empty_lost_and_found(target, name))]
    publishing = progress is not None and progress.phase is Phase.PUBLISH
    ours = publishing and (inside or (progress is not None and progress.root_inode == status.st_ino))
    if left and not ours:
        raise RefusedError(
            "the target is not empty",
            where=shown(target),
            why=f"it has {len(left)} entries, {shown(min(left))} among them",
            remedy="restore to a directory that does not exist, or empty this one",
        )
    return Way.ENTRIES if inside else Way.RENAME


def _is_empty_lost_and_found(target: bytes, name: bytes) -> bool:
    path = os.path.join(target, name)
    return name == _LOST_AND_FOUND and stat.S_ISDIR(os.lstat(path).st_mode) and not os.listdir(path)


def _is_mount_point(path: bytes) -> bool:
    """Also a subvolume, out of which nothing can be renamed, and a bind mount of the same file system."""
    if os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev:
        return True
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            points = [line.split(b" ")[4] for line in file]
    except OSError:
        return os.path.ismount(path)
    escaped = path.replace(b"\\", b"\\134")
    for character in (b" ", b"\t", b"\n"):
        escaped = escaped.replace(character, b"\\%03o" % ord(character))
    return escaped in points


def _make_area(area: bytes) -> None:
    try:
        os.mkdir(area, 0o700)
    except FileExistsError:
        pass
    else:
        durable.fsync_directory(os.path.dirname(area))
    found = os.lstat(area)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RefusedError(
            f"{shown(area)} is not ours",
            why="it is not a directory of the user voltool runs as",
            remedy="look at it, and remove it if it is nobody's",
        )
    descriptor = os.open(area, _OPEN_DIRECTORY)
    try:
        strip(descriptor)
    finally:
        os.close(descriptor)


def make_private(directory: int, name: bytes) -> None:
    """A directory of 0700 that inherits nothing; one that exists is left as it is, but for that. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)
    descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=directory)
    try:
        strip(descriptor)
    finally:
        os.close(descriptor)


def strip(descriptor: int) -> None:
    """Take off what a directory may have inherited: ACLs, group and setgid, flags, project."""
    for name in _ACLS:
        with contextlib.suppress(OSError):  # it has none, or the file system has none
            os.removexattr(descriptor, name)
    if os.fstat(descriptor).st_gid != os.getegid():
        os.chown(descriptor, -1, os.getegid())
    os.chmod(descriptor, 0o700)
    flags, project = inodes.get_flags(descriptor)
    try:
        if flags & ~SEALS:
            inodes.set_flags(descriptor, 0, inodes.PORTABLE_FLAGS & ~SEALS)
        if project:
            inodes.set_project(descriptor, 0)
    except OSError as error:
        raise HostError(
            "the staging directory cannot be freed of what it inherits",
            why=error.strerror or str(error),
            remedy="lift the inode flags or quota project of the directory above (lsattr -dp)",
        ) from error
