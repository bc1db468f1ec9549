"""What is open where no descriptor table shows it: descriptors in flight over unix sockets, files registered with io_uring.

Files that are open for writing are found by the lease test, whoever has them. A *directory* that is in flight is not: its
receiver could write below the lock, through the mount the descriptor came by. The kernel says how many descriptors wait in a
socket (``scm_fds``), not which; so every socket that has some and keeps them is named, like a writer, where any writable mount
still reaches the tree. Sockets over which descriptors are passed all day (a desktop's bus) have them for moments: what was
taken out within a tenth of a second is in a descriptor table by then, which is looked at afterwards. A relay that passes a
directory on in just that moment, to a socket that was found empty before, is not found.

Ships to servers. Sources: net/unix/af_unix.c (``unix_show_fdinfo``, Linux 5.10), io_uring/fdinfo.c.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from typing import Dict, FrozenSet, Iterator, List, Tuple

from voltool.frozen import dataclass
from voltool.volumes.lock.namespaces import Namespace, kept_by_descriptor
from voltool.volumes.lock.processes import Identity, Writer, describe
from voltool.volumes.lock.tables import process_ids, tables
from voltool.volumes.lock.views import Tree, Views, reach
from voltool.volumes.mounts import is_within

_LOOKS = 10
_PAUSE = 0.01
_URING = "anon_inode:[io_uring]"
_REGISTERED = re.compile(rb"^ *\d+: (.*)$", re.MULTILINE)
_COUNT = re.compile(rb"^(?:scm_fds|UserFiles):\s*(\d+)", re.MULTILINE)
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Holder:
    """A process's descriptor."""

    pid: int
    number: str
    fdinfo: str


@dataclass(frozen=True)
class Descriptors:
    """What processes have open that is no file: one holder of each socket, by its name; io_uring's rings; namespaces."""

    sockets: Dict[str, Holder]
    rings: Tuple[Holder, ...]
    namespaces: Tuple[Namespace, ...]


def read_descriptors(views: Views, ignored: FrozenSet[int]) -> Descriptors:
    """Of all processes but this one and ``ignored``."""
    points = frozenset(mount.point for view in views.views for mount in view.mounts if mount.kind == "nsfs") | {b"/"}
    sockets: Dict[str, Holder] = {}
    rings: List[Holder] = []
    namespaces: List[Namespace] = []
    for link, target, holder in _all(ignored):
        if target.startswith("socket:["):
            sockets.setdefault(target, holder)
        elif target == _URING:
            rings.append(holder)
        else:
            namespace = kept_by_descriptor(holder.pid, link.encode(), os.fsencode(target), points)
            namespaces += [namespace] if namespace is not None else []
    return Descriptors(sockets, tuple(rings), tuple(namespaces))


def find_in_flight(tree: Tree, views: Views, descriptors: Descriptors) -> List[Writer]:
    """Sockets in which descriptors stay. Look before the descriptor tables are looked at."""
    if not _matters(tree, views):
        return []
    waiting = {target: holder for target, holder in descriptors.sockets.items() if _count(holder) > 0}
    for _look in range(_LOOKS):
        if not waiting:
            break
        time.sleep(_PAUSE)
        waiting = {target: holder for target, holder in waiting.items() if _count(holder) > 0}
    return [
        describe(
            holder.pid, target.encode(), f"descriptor {holder.number}: descriptors in flight that cannot be looked into"
        )
        for target, holder in waiting.items()
    ]


def find_registered(tree: Tree, views: Views, descriptors: Descriptors, busy: FrozenSet[Identity]) -> List[Writer]:
    """Files and directories of the tree that are registered with io_uring: ``busy`` files, and any directory."""
    found: List[Writer] = []
    matters = _matters(tree, views)
    for holder in descriptors.rings if matters or busy else ():
        for path in _registered(holder):
            if not path.startswith(b"/"):
                continue
            with contextlib.suppress(OSError):
                status = os.stat(b"/proc/%d/root%s" % (holder.pid, path))
                directory = stat.S_ISDIR(status.st_mode) and matters and _is_in(path, tree, views)
                if directory or (status.st_dev, status.st_ino) in busy:
                    found.append(describe(holder.pid, path, f"descriptor {holder.number}: registered with io_uring"))
    return found


def parse_count(fdinfo: bytes) -> int:
    """How many descriptors wait in a socket, or are registered; 0 where the kernel does not say."""
    match = _COUNT.search(fdinfo)
    return int(match[1]) if match else 0


def parse_registered(fdinfo: bytes) -> List[bytes]:
    """The paths of the files registered with an io_uring; older kernels tell their last names only."""
    files = fdinfo.partition(b"UserFiles:")[2].partition(b"UserBufs:")[0]
    return [_ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), path) for path in _REGISTERED.findall(files)]


def _matters(tree: Tree, views: Views) -> bool:
    """Whether a directory of the tree can be open on a mount that is still writable."""
    return any(
        reach(mount, tree) and "ro" not in mount.options and "ro" not in mount.super_options
        for view in views.views
        for mount in view.mounts
    )


def _is_in(path: bytes, tree: Tree, views: Views) -> bool:
    """By name: on which mount a registered directory was opened is not told."""
    points = (mount.point for view in views.views for mount in view.mounts if tree.holds(mount.root))
    return is_within(path, tree.path) or any(is_within(path, point) for point in points if point != b"/")


def _all(ignored: FrozenSet[int]) -> Iterator[Tuple[str, str, Holder]]:
    """Every descriptor: its link, what that leads to, and whose it is."""
    for pid in process_ids():
        if pid == os.getpid() or pid in ignored:
            continue
        with contextlib.suppress(PermissionError):  # the search of the tables tells who may not be looked into
            for directory, files, _places in tables(pid):
                for number in files:
                    link = f"{directory}/fd/{number}"
                    with contextlib.suppress(OSError):
                        yield link, os.readlink(link), Holder(pid, number, f"{directory}/fdinfo/{number}")


def _registered(holder: Holder) -> List[bytes]:
    """While the ring is in use the kernel tells only how many there are."""
    for _look in range(_LOOKS):
        fdinfo = _read(holder)
        paths = parse_registered(fdinfo)
        if paths or parse_count(fdinfo) == 0:
            return paths
        time.sleep(_PAUSE)
    return []


def _count(holder: Holder) -> int:
    return parse_count(_read(holder))


def _read(holder: Holder) -> bytes:
    try:
        with open(holder.fdinfo, "rb") as file:
            return file.read()
    except OSError:
        return b""
