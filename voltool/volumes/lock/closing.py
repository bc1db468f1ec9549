"""Making every mount of a tree read-only, in all mount namespaces, and undoing exactly that. Ships to servers.

A read-only mount over the volume's path stops who comes by that path. Who has a directory open, stands in it, or has its
descriptor in flight over a socket, goes on writing through the mount that he came by. Where that mount shows nothing but the
tree (the volume is the root of a mounted file system or subvolume, or a part of it is mounted into a container) that mount
itself is made read-only, here: then he gets EROFS, and the lock need not wait for him. The kernel refuses that (EBUSY) while a
file is open for writing through it; whoever has it open is then found by the search.

Why not the superblock's ``remount,ro``, where the volume is its own file system: voltool must write in its own area there
under the lock, so it could only be momentary; it would prove no more than the mounts, one by one, and the lease test prove;
it is refused for any deleted file that somebody only reads; it stops subvolumes that are no part of the volume, and a crash
leaves the whole file system read-only. A mount's own flag is undone mount by mount.

A namespace that is copied while the lock stands gets copies that are read-only too. Those that lie below copies of the lock
can be no one else's doing, and are undone as well; other copies (a container that was started meanwhile) stay read-only.

The record is written before the mounts are changed, and names them. Sources: mount(2), mount_setattr(2),
mount_namespaces(7), fs/namespace.c (``mnt_make_readonly``).
"""

from __future__ import annotations

import contextlib
import os
import syslog
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from voltool.errors import HostError, VoltoolError
from voltool.frozen import dataclass
from voltool.showing import shown
from voltool.volumes.lock import mounting
from voltool.volumes.lock.book import LockRecord, TreeMount
from voltool.volumes.lock.namespaces import Namespace, Visitor, open_namespace, tell_text, text_of, visit
from voltool.volumes.lock.views import Tree, View, describe_tree, read_views
from voltool.volumes.mounts import Mount, parse_mountinfo, read_mounts

Key = Tuple[bytes, int]


@dataclass(frozen=True)
class _Open:
    """A mount of the tree that is to be closed: its root is open, so that it can be changed below what covers it."""

    mount: TreeMount
    options: Tuple[str, ...]
    namespace: int
    root: int


class Closer:
    """Closes the mounts of ``tree``: `look` when nothing covers them yet, write down what it found, then `attempt`. `close`
    lets go of what is held for that."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.attempted = False
        self._looked = False
        self._namespaces: Dict[bytes, int] = {}
        self._left: Dict[Key, _Open] = {}
        self._known: Set[Key] = set()

    def look(self) -> Tuple[List[TreeMount], List[TreeMount]]:
        """The mounts of the tree that were not known yet: those to be closed, and, the first time, those that are read-only
        already."""
        closing: List[TreeMount] = []
        kept: List[TreeMount] = []
        for name, view in _views_by_namespace(self.tree).items():
            descriptor = self._enter(view.namespace)
            if descriptor is None:
                continue
            with contextlib.suppress(HostError):  # it ended meanwhile; if not, the search names who is in it
                for mount, root in self._roots(descriptor):
                    found = _tree_mount(name, mount)
                    if (name, mount.number) in self._known:
                        _close(root)
                        continue
                    self._known.add((name, mount.number))
                    if root is None:
                        kept.append(found)
                        continue
                    closing.append(found)
                    self._left[name, mount.number] = _Open(found, mount.options, descriptor, root)
        if self._looked:
            kept = []  # what became read-only since then is a copy of what was closed
        self._looked = True
        return closing, kept

    def attempt(self) -> None:
        """Make what was found read-only; what somebody has a file open through for writing is tried again the next time."""
        self.attempted = True
        for namespace in {one.namespace for one in self._left.values()}:
            wanted = {key: one for key, one in self._left.items() if one.namespace == namespace}
            done: Set[int] = set()
            with contextlib.suppress(HostError):
                done = _change(namespace, [(one.root, one.options) for one in wanted.values()])
            for key, one in wanted.items():
                if one.root in done:
                    os.close(one.root)
                    del self._left[key]

    def close(self) -> None:
        """Let go of all mounts: nobody may be kept from unmounting them. Idempotent."""
        for one in self._left.values():
            os.close(one.root)
        for descriptor in self._namespaces.values():
            os.close(descriptor)
        self._left.clear()
        self._namespaces.clear()

    def _enter(self, namespace: Namespace) -> Optional[int]:
        if namespace.name not in self._namespaces:
            descriptor = open_namespace(namespace)
            if descriptor is None:
                return None
            self._namespaces[namespace.name] = descriptor
        return self._namespaces[namespace.name]

    def _roots(self, namespace: int) -> Iterator[Tuple[Mount, Optional[int]]]:
        """The tree's mounts that can be reached in a namespace: with their root open, but for those that are read-only."""
        tree = self.tree

        def act(visitor: Visitor) -> None:
            text = visitor.mountinfo()
            tell_text(visitor.tell, text)
            for mount in parse_mountinfo(text):
                if shows_only(mount, tree) and not is_read_only(mount):
                    root = visitor.open_root(mount)
                    if root is not None:
                        visitor.tell(b"r%d" % mount.number, [root])
                        os.close(root)

        messages = visit(namespace, act)
        roots = {int(data[1:]): descriptors[0] for data, descriptors in messages if data.startswith(b"r")}
        for mount in parse_mountinfo(text_of(messages)):
            if mount.number in roots:
                yield mount, roots[mount.number]
            elif shows_only(mount, tree) and is_read_only(mount):
                yield mount, None


def shows_only(mount: Mount, tree: Tree) -> bool:
    """Whether a mount shows the tree or a part of it, and nothing else."""
    return mount.device == tree.device and tree.holds(mount.root)


def is_read_only(mount: Mount) -> bool:
    """Whether nothing can be written through a mount."""
    return "ro" in mount.options or "ro" in mount.super_options


def is_closed_at_path(record: LockRecord) -> bool:
    """Whether the mount at the volume's path, below the lock in our namespace, is one that the lock has closed."""
    numbers = {mount.number for mount in record.closed if mount.namespace == record.namespace.encode()}
    stack = _stack(read_mounts(), record.path)[: record.below]
    return len(stack) == record.below > 0 and stack[-1].number in numbers


def copies_of_lock(record: LockRecord) -> List[TreeMount]:
    """What namespaces that are younger than the lock have of it, while it still stands: copies of its own mounts, which only
    go by themselves in a namespace that follows ours, and copies of closed mounts below them."""
    place = record.moved_to or record.path
    try:
        tree = describe_tree(place)
    except VoltoolError:
        return []
    known = {(mount.namespace, mount.number) for mount in (*record.closed, *record.kept)}
    layers = len(mounting.mounts_at(place)) - (0 if record.moved_to else record.below)
    closed = is_closed_at_path(record)
    found: Dict[Key, TreeMount] = {}
    for view in read_views().views:
        name = view.namespace.name
        stack = _stack(view.mounts, place)
        if name == record.namespace.encode() or not 0 < layers <= len(stack) or "ro" not in stack[-1].options:
            continue
        if all(mount.device == tree.device and mount.root == tree.inner for mount in stack[-layers:]):
            found[name, stack[-layers].number] = _tree_mount(name, stack[-layers], layers)
            for mount in stack[-layers - 1 : -layers] if closed else []:
                if shows_only(mount, tree) and "ro" in mount.options and (name, mount.number) not in known:
                    found[name, mount.number] = _tree_mount(name, mount)
    return list(found.values())


def _stack(mounts: Sequence[Mount], point: bytes) -> List[Mount]:
    """The mounts over one point, the lowest first; mountinfo has them in the order in which they were made."""
    above = {mount.parent: mount for mount in mounts if mount.point == point}
    numbers = {mount.number for mount in above.values()}
    stack = [mount for mount in above.values() if mount.parent not in numbers]
    while stack and stack[-1].number in above:
        stack.append(above[stack[-1].number])
    return stack


def reopen(mounts: Sequence[TreeMount]) -> None:
    """Make closed mounts writable again, and take copies of the lock off. What is gone needs nothing. Idempotent.

    What could not be is in the syslog: nothing would come of trying again.
    """
    left: List[TreeMount] = []
    by_namespace: Dict[bytes, List[TreeMount]] = {}
    for mount in mounts:
        by_namespace.setdefault(mount.namespace, []).append(mount)
    namespaces = {view.namespace.name: view.namespace for view in reversed(read_views().views)} if by_namespace else {}
    for name, wanted in by_namespace.items():
        descriptor = open_namespace(namespaces[name]) if name in namespaces else None
        if descriptor is None:
            continue
        try:
            left += _reopen_in(descriptor, wanted)
        except HostError:
            left += wanted
        finally:
            os.close(descriptor)
    for one in left:
        syslog.syslog(
            syslog.LOG_WARNING,
            f"a mount of {shown(one.root)} in the mount namespace {os.fsdecode(one.namespace)} stays read-only: it is covered"
            " by another mount, or its namespace cannot be entered",
        )


def _reopen_in(namespace: int, wanted: Sequence[TreeMount]) -> List[TreeMount]:
    def act(visitor: Visitor) -> None:
        for one in sorted(wanted, key=lambda each: not each.layers):
            if not (_take_off_copy if one.layers else _reopen_one)(visitor, one):
                visitor.tell(b"l%d" % one.number, ())

    left = {int(data[1:]) for data, _descriptors in visit(namespace, act)}
    return [one for one in wanted if one.number in left]


def _reopen_one(visitor: Visitor, one: TreeMount) -> bool:
    """False where the mount stands and stays read-only."""
    mount = _find(visitor, one)
    if mount is None or "ro" not in mount.options:
        return True
    root = visitor.open_root(mount)
    if root is None:
        return False
    with contextlib.suppress(HostError):
        mounting.change(root, mount.options, read_only=False)
        return True
    return False


def _take_off_copy(visitor: Visitor, one: TreeMount) -> bool:
    """False where the copy stays, because somebody has mounted something on it."""
    while True:
        mount = _find(visitor, one)
        if mount is None:
            return True
        stack = _stack(visitor.mounts(), mount.point)
        if len(stack) - stack.index(mount) > one.layers or not _reopen_one(
            visitor, _tree_mount(one.namespace, stack[-1])
        ):
            return False
        mounting.detach(mount.point)


def _find(visitor: Visitor, one: TreeMount) -> Optional[Mount]:
    for mount in visitor.mounts():
        if (mount.number, _device(mount), mount.root) == (one.number, one.device, one.root):
            return mount
    return None


def _change(namespace: int, wanted: Sequence[Tuple[int, Tuple[str, ...]]]) -> Set[int]:
    """Close mounts; the roots of those that need no further attempt."""

    def act(visitor: Visitor) -> None:
        for root, options in wanted:
            try:
                mounting.change(root, options, read_only=True)
            except mounting.MountBusyError:
                continue
            except HostError:
                pass  # it was unmounted; if not, the search names who can write through it
            visitor.tell(b"d%d" % root, ())

    return {int(data[1:]) for data, _descriptors in visit(namespace, act)}


def _views_by_namespace(tree: Tree) -> Dict[bytes, View]:
    """The namespaces in which a mount of the tree is seen."""
    return {
        view.namespace.name: view
        for view in reversed(read_views().views)
        if any(shows_only(mount, tree) for mount in view.mounts)
    }


def _tree_mount(namespace: bytes, mount: Mount, layers: int = 0) -> TreeMount:
    return TreeMount(namespace, mount.number, _device(mount), mount.root, layers)


def _device(mount: Mount) -> str:
    return f"{mount.device[0]}:{mount.device[1]}"


def _close(descriptor: Optional[int]) -> None:
    if descriptor is not None:
        os.close(descriptor)
