"""Overlays whose upper or work directory lies in a tree: they write through a mount of their own, which no namespace shows.

All that is known of these directories is what they were called when the overlay was mounted: for one who had the mounter's
root directory, and for relative names (container runtimes use them where the list of layers is long) his working directory.
A relative name is looked for above the overlay's mount points, where runtimes have it; where it is not found, an overlay
that may lie on the tree's file system is named. Ships to servers. Sources: Documentation/filesystems/overlayfs,
fs/overlayfs/super.c (``ovl_statfs`` gives the sizes of the upper directory's file system).
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Dict, Iterator, List, Optional, Tuple

from voltool.volumes.lock.processes import Writer, describe, holds_directory
from voltool.volumes.lock.views import Tree, View, Views, join
from voltool.volumes.mounts import Mount, is_within

_Seen = Tuple[View, Mount]
_Sizes = Tuple[int, int, int]


def find_overlays(tree: Tree, views: Views) -> Iterator[Writer]:
    """The overlays that write in the tree, or may."""
    mounts = views.by_number()
    overlays: Dict[Tuple[int, int], List[_Seen]] = {}
    for view in views.views:
        for mount in view.mounts:
            if mount.kind == "overlay":
                overlays.setdefault(mount.device, []).append((view, mount))
    for seen in overlays.values():
        names = parse_upper(seen[0][1])
        for view, mount in seen:
            yield from _absolute(tree, view, mount, mounts, [name for name in names if name.startswith(b"/")])
        yield from _relative(tree, seen, mounts, [name for name in names if not name.startswith(b"/")])


def parse_upper(mount: Mount) -> List[bytes]:
    """The upper and work directory of an overlay, as they were named when it was mounted; empty for a read-only one.

    mountinfo shows a comma in a name as ``\\,``, which `Mount` has split at."""
    text = os.fsencode(",".join(mount.super_options))
    found = re.findall(rb"(?:^|,)(?:upperdir|workdir)=((?:\\.|[^,\\])+)", text)
    return [re.sub(rb"\\(.)", rb"\1", path) for path in found]


def _absolute(tree: Tree, view: View, mount: Mount, mounts: Dict[int, Mount], names: List[bytes]) -> Iterator[Writer]:
    for name in names:
        descriptor = _open_in(view, name)
        if descriptor is None:
            inside = is_within(name, tree.path)
        else:
            inside = holds_directory(tree, descriptor, mounts)
            os.close(descriptor)
        if inside:
            yield _writer(view, mount, name)


def _relative(tree: Tree, seen: List[_Seen], mounts: Dict[int, Mount], names: List[bytes]) -> Iterator[Writer]:
    if not names:
        return
    sizes = next((sizes for view, mount in seen if (sizes := _sizes_in(view, mount.point)) is not None), None)
    found = False
    for view, mount in seen:
        for base in _above(mount.point):
            inside = _holds_all(tree, view, [join(base, name) for name in names], sizes, mounts)
            if inside:
                yield _writer(view, mount, join(base, names[0]))
            found = found or inside is not None
    view, mount = seen[0]
    if not found and (sizes is None or sizes == _sizes(tree.path)):
        yield _writer(view, mount, names[0], ", and lies where nobody can tell")


def _holds_all(
    tree: Tree, view: View, names: List[bytes], sizes: Optional[_Sizes], mounts: Dict[int, Mount]
) -> Optional[bool]:
    """Whether one of the directories lies in the tree; None unless all are there, on a file system of the right sizes."""
    inside = False
    for name in names:
        descriptor = _open_in(view, name)
        if descriptor is None:
            return None
        try:
            if sizes not in (None, _sizes_in(view, name)):
                return None
            inside = inside or holds_directory(tree, descriptor, mounts)
        finally:
            os.close(descriptor)
    return inside


def _writer(view: View, mount: Mount, name: bytes, more: str = "") -> Writer:
    container = describe(view.pid, name, "").container
    return Writer(0, "overlay", container, name, f"overlay mounted at {os.fsdecode(mount.point)!a}{more}{view.note}")


def _above(path: bytes) -> Iterator[bytes]:
    while path != b"/":
        path = os.path.dirname(path)
        yield path


def _open_in(view: View, path: bytes) -> Optional[int]:
    """A directory as one names it who is in the view; None where it cannot be opened so."""
    if view.namespace.inhabited:
        with contextlib.suppress(OSError):
            return os.open(b"/proc/%d/root%s" % (view.pid, path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _sizes_in(view: View, path: bytes) -> Optional[_Sizes]:
    return _sizes(b"/proc/%d/root%s" % (view.pid, path)) if view.namespace.inhabited else None


def _sizes(path: bytes) -> Optional[_Sizes]:
    with contextlib.suppress(OSError):
        status = os.statvfs(path)
        return status.f_frsize, status.f_blocks, status.f_files
    return None
