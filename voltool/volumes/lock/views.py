"""The mounts of every mount namespace, and through which of them a tree can be written. Ships to servers.

Knows nothing of processes' files. Sources: mount_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, List, Sequence, Set, Tuple

from voltool.errors import NotFoundError
from voltool.showing import shown
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
    """What one process, and all that share its namespace and root directory, sees mounted."""

    pid: int
    mounts: Tuple[Mount, ...]


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
    """The views of all processes, our own first."""
    found = [View(os.getpid(), tuple(read_mounts()))]
    seen = {_view_key(os.getpid())}
    unexamined: List[int] = []
    for pid in process_ids():
        try:
            key = _view_key(pid)
            if key in seen:
                continue
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                found.append(View(pid, tuple(parse_mountinfo(file.read()))))
            seen.add(key)
        except PermissionError:
            unexamined.append(pid)
        except OSError:
            continue  # it has ended; a zombie has no namespace
    return Views(tuple(found), tuple(unexamined))


def process_ids() -> List[int]:
    """All processes, ascending."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


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


def _view_key(pid: int) -> Tuple[str, int, int]:
    root = os.stat(f"/proc/{pid}/root")
    return os.readlink(f"/proc/{pid}/ns/mnt"), root.st_dev, root.st_ino
