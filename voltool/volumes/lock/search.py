"""The search for who could still write to a locked tree: mounts, processes, the kernel, and leases on every file.

The lease test finds every file that is open for writing by whatever means; the rest finds who it is, and who could open
another one from below the lock. Ships to servers.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable, FrozenSet, Iterable, Iterator, List, Tuple

from voltool.frozen import dataclass
from voltool.inodes import ZFS_CONTROL_INODE
from voltool.showing import shown
from voltool.volumes.lock.flight import find_in_flight, find_registered, read_descriptors
from voltool.volumes.lock.kernel import find_kernel_writers
from voltool.volumes.lock.leasetest import find_busy
from voltool.volumes.lock.processes import ProcessFinder, Writer, describe
from voltool.volumes.lock.views import Tree, add_views, read_views, writable_mounts
from voltool.volumes.records import AREA_NAME

#: How many writers a message names.
_NAMED = 10

Files = Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class SearchResult:
    """``writers``: who could still write. ``unexamined``: processes that may not be looked into, even by us.
    ``leaseless``: files on which the lease test does not work here (a file system without leases). ``busy``: files that
    failed it, relative to the root."""

    writers: Tuple[Writer, ...]
    unexamined: Tuple[int, ...]
    leaseless: int
    busy: Tuple[bytes, ...]


def find_writers(tree: Tree, files: Iterable[bytes], ignored: FrozenSet[int] = frozenset()) -> SearchResult:
    """Search once. ``files`` are the paths of the regular files to test, relative to the root, in a walk's order.

    Call it when the read-only mount stands: what is found clean then stays so. ``ignored``: processes of our own.
    """
    busy, leaseless = find_busy(tree.path, files)
    views = read_views()
    descriptors = read_descriptors(views, ignored)
    views = add_views(views, descriptors.namespaces)
    writers: List[Writer] = []
    for view in views.views:
        how = "another mount of the tree that is not read-only"
        writers += [describe(view.pid, mount.point, how + view.note) for mount in writable_mounts(view.mounts, tree)]
    writers += find_in_flight(tree, views, descriptors)
    identities = frozenset(identity for identity, _path in busy)
    search = ProcessFinder(tree, views, identities).find(ignored)
    writers += search.writers
    writers += find_registered(tree, views, descriptors, identities)
    writers += find_kernel_writers(tree, views)
    named = {writer.path for writer in writers}
    for _identity, path in busy:
        full = os.path.join(tree.path, path)
        if full not in named:
            writers.append(Writer(0, "", "", full, "open for writing by someone who cannot be seen"))
    unexamined = tuple(sorted({*views.unexamined, *search.unexamined} - ignored))
    return SearchResult(tuple(dict.fromkeys(writers)), unexamined, leaseless, tuple(path for _identity, path in busy))


def walk_files(root: bytes) -> Iterator[bytes]:
    """Every regular file below ``root``, relative to it; neither voltool's own area nor what is mounted inside."""
    device = os.lstat(root).st_dev
    stack = [b""]
    while stack:
        directory = stack.pop()
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(os.path.join(root, directory)) as names,
        ):
            for entry in names:
                if entry.inode() == ZFS_CONTROL_INODE:
                    continue
                path = os.path.join(directory, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    if path != AREA_NAME and entry.stat(follow_symlinks=False).st_dev == device:
                        stack.append(path)
                elif entry.is_file(follow_symlinks=False):
                    yield path


def describe_writers(writers: Iterable[Writer]) -> str:
    """Who it is, for an error's ``why``: pid, command, container, file."""
    texts = [_text(writer) for writer in writers]
    more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return "; ".join(texts[:_NAMED]) + more


def _text(writer: Writer) -> str:
    who = shown(os.fsencode(writer.command)) or "somebody"
    if writer.pid:
        who += f" (pid {writer.pid}" + (f", container {writer.container})" if writer.container else ")")
    return f"{who}: {shown(writer.path)}, {writer.how}"
