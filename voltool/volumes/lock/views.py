"""The mounts of every mount namespace, and through which of them a tree can be written. Ships to servers.

Knows nothing of processes' files. Sources: mount_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from typing import Dict, List, Optional, Sequence, Set, Tuple

from voltool.errors import HostError, NotFoundError
from voltool.frozen import dataclass
from voltool.showing import shown
from voltool.volumes.lock.namespaces import (
    Namespace,
    inhabited_namespaces,
    kept_by_mounts,
    mounts_in,
    open_namespace,
)
from voltool.volumes.lock.tables import process_ids
from voltool.volumes.mounts import Mount, is_within, mount_of, parse_mountinfo, read_mounts
from voltool.volumes.records import AREA_NAME


@dataclass(frozen=True)
class Tree:
    """The tree to be locked: its path in our namespace, its file system's device as mountinfo has it (btrfs: not that of
    stat), its path within the file system, and stat's identity of its root."""

    path: bytes
    device: Tuple[int, int]
    inner: bytes
    identity: Tuple[int, int]

    def holds(self, inner: bytes) -> bool:
        """Whether a path within the file system lies in the tree; voltool's own area does not belong to it."""
        return is_within(inner, self.inner) and not is_within(inner, join(self.inner, AREA_NAME))


@dataclass(frozen=True)
class View:
    """What one process, and all that share its namespace and root directory, sees mounted; or what is mounted in a
    namespace that has no process."""

    namespace: Namespace
    mounts: Tuple[Mount, ...]

    @property
    def pid(self) -> int:
        """A process that is in it, or keeps it; 0 where there is none."""
        return self.namespace.pid

    @property
    def note(self) -> str:
        """What has to be said of the namespace, for whoever is to find it."""
        if self.namespace.inhabited:
            return ""
        if self.namespace.pid:
            return ", in a mount namespace that it keeps open"
        return f", in the mount namespace that is kept at {shown(self.namespace.kept_at)}"


@dataclass(frozen=True)
class Views:
    """All views there are; ``unexamined`` are processes that we may not look into."""

    views: Tuple[View, ...]
    unexamined: Tuple[int, ...]

    def by_number(self) -> Dict[int, Mount]:
        """Every mount by its number, which is unique on the whole machine."""
        return {mount.number: mount for view in reversed(self.views) for mount in view.mounts}


def describe_tree(path: bytes) -> Tree:
    """The tree at ``path`` (absolute, without symlinks); NotFoundError."""
    mount = mount_of(path, read_mounts())
    try:
        status = os.lstat(path)
    except OSError as error:
        raise NotFoundError("the volume's directory is not there", where=shown(path), why=str(error.strerror)) from None
    assert mount is not None, "everything lies on the root's mount"
    return Tree(path, mount.device, join(mount.root, path[len(mount.point) :]), (status.st_dev, status.st_ino))


def read_views() -> Views:
    """The views of all processes, our own first, and of the namespaces that a bind mount keeps without one."""
    found: List[View] = []
    seen: Set[Tuple[bytes, int, int]] = set()
    kept: List[Namespace] = []
    unexamined: List[int] = []
    for pid in [os.getpid(), *process_ids()]:
        views = _views_of(pid, seen)
        if views is None:
            unexamined.append(pid)
            continue
        found += views
        for view in views:
            kept += kept_by_mounts(pid, view.mounts)
    return add_views(Views(tuple(found), tuple(unexamined)), kept)


def add_views(views: Views, kept: Sequence[Namespace]) -> Views:
    """With those of more namespaces, as far as they are not known; who keeps one that cannot be entered is unexamined."""
    found: List[View] = []
    unexamined: List[int] = []
    names = {view.namespace.name for view in views.views}
    for namespace in kept:
        if namespace.name not in names:
            names.add(namespace.name)
            view = _view_without_process(namespace)
            if view is not None:
                found.append(view)
            elif namespace.pid:
                unexamined.append(namespace.pid)
    return Views(views.views + tuple(found), views.unexamined + tuple(unexamined))


def _views_of(pid: int, seen: Set[Tuple[bytes, int, int]]) -> Optional[List[View]]:
    """Those of a process's threads that are not known yet; None where we may not look."""
    try:
        views = [_view_of(namespace, seen) for namespace in inhabited_namespaces(pid)]
    except PermissionError:
        return None
    return [view for view in views if view is not None]


def _view_of(namespace: Namespace, seen: Set[Tuple[bytes, int, int]]) -> Optional[View]:
    """What is seen from a namespace and a root directory; None where that is known already, or the thread has ended."""
    directory = namespace.handle[: -len(b"/ns/mnt")]
    try:
        root = os.stat(directory + b"/root")
        key = (namespace.name, root.st_dev, root.st_ino)
        if key in seen:
            return None
        with open(directory + b"/mountinfo", "rb") as file:
            mounts = tuple(parse_mountinfo(file.read()))
    except PermissionError:
        raise
    except OSError:
        return None  # a zombie has no namespace
    seen.add(key)
    return View(namespace, mounts)


def _view_without_process(namespace: Namespace) -> Optional[View]:
    descriptor = open_namespace(namespace)
    if descriptor is None:
        return None
    try:
        return View(namespace, tuple(mounts_in(descriptor)))
    except HostError:
        return None
    finally:
        os.close(descriptor)


def reach(mount: Mount, tree: Tree) -> bool:
    """Whether the tree, or a part of it, lies on a mount, covered or not."""
    return mount.device == tree.device and (tree.holds(mount.root) or is_within(tree.inner, mount.root))


def writable_mounts(mounts: Sequence[Mount], tree: Tree) -> List[Mount]:
    """The mounts of one view through which the tree, or a part of it, can be reached by name and written."""
    covers: Dict[int, Set[bytes]] = {}
    for mount in mounts:
        covers.setdefault(mount.parent, set()).add(mount.point)
    return [mount for mount in mounts if _writable(mount, tree, covers.get(mount.number, set()))]


def _writable(mount: Mount, tree: Tree, covers: Set[bytes]) -> bool:
    if mount.device != tree.device or "ro" in mount.options or "ro" in mount.super_options:
        return False
    if tree.holds(mount.root):
        return mount.point not in covers
    if not is_within(tree.inner, mount.root):
        return False
    place = join(mount.point, tree.inner[len(mount.root.rstrip(b"/")) :])
    return not any(is_within(place, point) for point in covers)


def join(directory: bytes, rest: bytes) -> bytes:
    """``rest``, with or without a leading slash, below ``directory``."""
    rest = rest.strip(b"/")
    return directory.rstrip(b"/") + b"/" + rest if rest else directory.rstrip(b"/") or b"/"
