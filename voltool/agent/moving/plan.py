"""The verbs PlanOut and PlanIn: every reason not to move a volume, and what its last lock will cost. Touches nothing. Ships to
servers."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

from voltool.agent.host import HostState
from voltool.agent.lazymove.home import refuse_lazy
from voltool.agent.moving import container
from voltool.agent.moving.extremes import Extremes, obstacles_of
from voltool.agent.moving.into import check_target
from voltool.agent.moving.lazy_ground import check_place
from voltool.agent.moving.out import check_movable
from voltool.agent.moving.target_ground import HostTarget
from voltool.errors import VoltoolError
from voltool.leases import ignore_lease_breaks, lease_test
from voltool.model import RETIRED
from voltool.showing import shown
from voltool.volumes.limits import limits_of
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import check_can_lock, is_own_mount_point, refuse_locked
from voltool.volumes.mounts import is_mount_point
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.records import AREA_NAME, open_home
from voltool.volumes.registry import detect
from voltool.volumes.traits import traits_of
from voltool.wire import moving
from voltool.wire.conversation import Conversation

#: What changed so shortly ago is likely to change again under the last round (seconds).
_RECENT = 60.0
#: So many files are tried to learn what the lease test costs.
_SAMPLE = 2000
#: File systems that keep no owners, modes or extended attributes, or not all of them.
_POOR = frozenset({"vfat", "exfat", "fuse", "cifs", "smb2", "9p", "nfs"})
#: File systems that may hold more than their free bytes.
_COMPRESSING = frozenset({"btrfs", "zfs", "zfs-fuse", "bcachefs", "f2fs"})


def plan_out(request: moving.PlanOut, conversation: Conversation, host: HostState) -> moving.SourcePlan:
    """Handle `PlanOut`. Raises NotFoundError, MovedError."""
    del conversation
    home = open_home(host.directory, request.uuid, request.path)
    path = home.record.path
    obstacles = _obstacles_out(request, path, host)
    _note(lambda: refuse_lazy(host, request.uuid), obstacles)
    extremes = Extremes(path)
    survey = _Survey(path, extremes)
    survey.look()
    rescan = survey.seconds
    if rescan < 5.0:  # once more: the last scan finds everything in memory
        again = _Survey(path)
        again.look()
        rescan = again.seconds
    return moving.SourcePlan(
        record=home.record,
        entries=survey.entries,
        files=survey.files,
        bytes=survey.bytes,
        recent_bytes=survey.recent,
        rescan_seconds=rescan,
        lease_seconds=survey.lease_seconds(),
        owners=survey.owner_names(),
        xattrs=tuple(sorted(survey.xattrs)),
        obstacles=tuple(obstacles),
        extremes=extremes.found,
    )


def _obstacles_out(request: moving.PlanOut, path: bytes, host: HostState) -> List[moving.Obstacle]:
    book = LockBook(host.directory, request.uuid)
    obstacles: List[moving.Obstacle] = []
    for check in (
        lambda: check_movable(book, path),
        lambda: None if request.only_hooks else check_can_lock(),
        lambda: refuse_locked(book, path),
    ):
        _note(check, obstacles)
    known = MoveBook(host.directory).source(request.uuid)
    if known is not None and known.phase != RETIRED:
        remedy = f"voltool move --resume {known.name}, or --abort {known.name}"
        obstacles.append(moving.Obstacle("the volume is being moved already", shown(path), known.phase, remedy))
    if traits_of(path).kind == "zfs-fuse" and not is_own_mount_point(book, path):
        why = "zfs-fuse cannot exchange two names at once"
        remedy = "put it into a dataset of its own: a mount point can be moved"
        obstacles.append(
            moving.Obstacle("a directory on this file system cannot be moved away", shown(path), why, remedy)
        )
    return obstacles


def plan_in(request: moving.PlanIn, conversation: Conversation, host: HostState) -> moving.TargetPlan:
    """Handle `PlanIn`."""
    del conversation
    obstacles: List[moving.Obstacle] = []
    path = request.move.path
    _note(lambda: check_target(request.move), obstacles)
    _note(lambda: HostTarget(host, request.move.uuid).refuse_overlap(request.move), obstacles)
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        remedy = "make it, or another target"
        obstacles.append(moving.Obstacle("the directory of the target is not there", shown(parent), "", remedy))
        return moving.TargetPlan("", "", 0, 0, (), tuple(obstacles))
    _target_is_free(path, obstacles)
    if request.move.lazy:
        _note(lambda: check_place(host, request.move), obstacles)
    place = path if os.path.isdir(path) else parent
    traits = traits_of(place)
    space = os.statvfs(place)
    free, inodes = space.f_bavail * space.f_frsize, space.f_favail if space.f_files else -1
    if request.bytes > free and traits.kind not in _COMPRESSING:
        why = f"{request.bytes} bytes are needed and {free} are free"
        obstacles.append(moving.Obstacle("the target has no room", shown(place), why, "make room there"))
    if 0 <= inodes < request.entries:
        why = f"{request.entries} inodes are needed and {inodes} are free"
        obstacles.append(moving.Obstacle("the target has no room", shown(place), why, "make room there"))
    if traits.kind in _POOR or traits.kind.startswith("unknown"):
        why = (
            f"it is {traits.kind}: owners, modes or attributes may be lost ({', '.join(request.xattrs) or 'none here'})"
        )
        obstacles.append(
            moving.Obstacle(
                "the target's file system may not hold everything", shown(place), why, "another file system, or --lossy"
            )
        )
    obstacles += obstacles_of(request.extremes, limits_of(place), request.move)
    kind = container.wanted(request.move, MoveBook(host.directory).source(request.move.uuid))
    driver = container.DRIVERS.get(kind) or (detect(path) if os.path.isdir(path) else "directory")
    unknown = tuple(name for name in request.owners if not _is_known(name))
    return moving.TargetPlan(traits.kind, driver, free, inodes, unknown, tuple(obstacles))


def _target_is_free(path: bytes, obstacles: List[moving.Obstacle]) -> None:
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        obstacles.append(
            moving.Obstacle("the target exists and is not a directory", shown(path), "", "another target, or remove it")
        )
        return
    spared = {AREA_NAME, b"lost+found"} if is_mount_point(path) else set()
    left = sorted(set(os.listdir(path)) - spared)
    if left:
        why = f"it has {len(left)} entries, {shown(left[0])} among them"
        obstacles.append(
            moving.Obstacle("the target is not empty", shown(path), why, "another target, or empty this one")
        )


def _note(check: Callable[[], object], obstacles: List[moving.Obstacle]) -> None:
    try:
        check()
    except VoltoolError as error:
        obstacles.append(moving.Obstacle(error.what, error.where, error.why, error.remedy))


def _is_known(name: str) -> bool:
    kind, _colon, who = name.partition(":")
    try:
        pwd.getpwnam(who) if kind == "user" else grp.getgrnam(who)
    except (KeyError, ValueError):
        return False
    return True


class _Survey:
    """One look at every entry of the tree, timed; what ``extremes`` looks at beside it does not count."""

    def __init__(self, root: bytes, extremes: Optional[Extremes] = None) -> None:
        self._root = root
        self._extremes = extremes
        self._since = time.time() - _RECENT
        self._owners: Set[Tuple[str, int]] = set()
        self._linked: Set[int] = set()
        self._sampled = 0
        self._sample_seconds = self._beside_seconds = 0.0
        self.entries = self.files = self.bytes = self.recent = 0
        self.seconds = 0.0
        self.xattrs: Set[str] = set()

    def look(self) -> None:
        """Walk. What vanishes meanwhile is not there."""
        ignore_lease_breaks()
        began = time.monotonic()
        for path, entry in self._entries():
            self.entries += 1
            self._aside(path, entry)
            self._owners |= {("user", entry.st_uid), ("group", entry.st_gid)}
            if stat.S_ISREG(entry.st_mode):
                self.files += 1
                if entry.st_nlink > 1 and entry.st_ino in self._linked:
                    continue
                if entry.st_nlink > 1:
                    self._linked.add(entry.st_ino)
                self.bytes += min(entry.st_size, entry.st_blocks * 512)
                if entry.st_ctime > self._since:
                    self.recent += entry.st_size
                if self._sampled < _SAMPLE:
                    self._sample(path)
        self.seconds = time.monotonic() - began - self._sample_seconds - self._beside_seconds

    def _entries(self) -> Iterator[Tuple[bytes, os.stat_result]]:
        device = os.lstat(self._root).st_dev
        waiting = [self._root]
        while waiting:
            directory = waiting.pop()
            try:
                found = list(os.scandir(directory))
            except OSError:
                continue
            if self._extremes is not None:
                self._extremes.names(directory, [entry.name for entry in found])
            for entry in found:
                if directory == self._root and entry.name == AREA_NAME:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
                    waiting.append(entry.path)
                yield entry.path, status

    def _aside(self, path: bytes, status: os.stat_result) -> None:
        if self._extremes is not None:
            began = time.monotonic()
            self._extremes.entry(path, status)
            self._beside_seconds += time.monotonic() - began

    def _sample(self, path: bytes) -> None:
        began = time.monotonic()
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            lease_test(descriptor)
            self._sampled += 1
            self._sample_seconds += time.monotonic() - began
            self.xattrs |= {name.split(".")[0] for name in os.listxattr(descriptor)}
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def lease_seconds(self) -> float:
        """What the lease test of every file will take."""
        return self._sample_seconds / self._sampled * self.files if self._sampled else 0.0

    def owner_names(self) -> Tuple[str, ...]:
        """``user:NAME`` and ``group:NAME`` of all owners that have a name here."""
        names: Dict[str, None] = {}
        for kind, number in sorted(self._owners):
            name = _name(kind, number)
            if name is not None:
                names[f"{kind}:{name}"] = None
        return tuple(names)


def _name(kind: str, number: int) -> Optional[str]:
    try:
        return pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name
    except KeyError:
        return None
