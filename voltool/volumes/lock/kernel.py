"""Writers of a tree that are no process's: nfsd's exports, loop devices, swap files, upper directories of overlays.

Ships to servers. The parsers are pure. Sources: exports(5) and fs/nfsd/export.c, Documentation/ABI sysfs-block-loop,
proc(5) swaps, Documentation/filesystems/overlayfs.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import Dict, List, Optional

from voltool.volumes.lock.processes import Writer, describe, holds_directory
from voltool.volumes.lock.views import Tree, Views
from voltool.volumes.mounts import Mount, is_within

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Export:
    """One line of nfsd's export table: a path and to whom it is exported how."""

    path: bytes
    client: bytes
    writable: bool


def find_kernel_writers(tree: Tree, views: Views) -> List[Writer]:
    """All of them."""
    found = [*_exports(tree), *_loops(tree), *_swaps(tree)]
    mounts = views.by_number()
    for view in views.views:
        for mount in view.mounts:
            if mount.kind == "overlay":
                found += _overlay(tree, view.pid, mount, mounts)
    return list(dict.fromkeys(found))


def parse_exports(text: bytes) -> List[Export]:
    """/proc/fs/nfsd/exports or /proc/net/rpc/nfsd.export/content: ``path client(options)``, names escaped octally."""
    exports = []
    for line in text.split(b"\n"):
        if not line or line.startswith(b"#"):
            continue
        path, _space, rest = line.partition(b"\t") if b"\t" in line else line.partition(b" ")
        client, _paren, options = rest.partition(b"(")
        words = options.split(b")")[0].split(b",")
        exports.append(Export(_unescape(path), _unescape(client.strip()), b"ro" not in words))
    return exports


def parse_swaps(text: bytes) -> List[bytes]:
    """The swap files of /proc/swaps."""
    rows = [line.split() for line in text.split(b"\n")[1:]]
    return [_unescape(row[0]) for row in rows if len(row) >= 2 and row[1] == b"file"]


def parse_upper(mount: Mount) -> List[bytes]:
    """The upper and work directory of an overlay, as they were named when it was mounted; empty for a read-only one.

    mountinfo shows a comma in a name as ``\\,``, which `Mount` has split at."""
    text = os.fsencode(",".join(mount.super_options))
    found = re.findall(rb"(?:^|,)(?:upperdir|workdir)=((?:\\.|[^,\\])+)", text)
    return [re.sub(rb"\\(.)", rb"\1", path) for path in found]


def _exports(tree: Tree) -> List[Writer]:
    text = _read("/proc/fs/nfsd/exports") or _read("/proc/net/rpc/nfsd.export/content")
    return [
        Writer(0, "nfsd", "", export.path, f"NFS export to {os.fsdecode(export.client)!a}")
        for export in parse_exports(text)
        if export.writable and (is_within(export.path, tree.path) or is_within(tree.path, export.path))
    ]


def _loops(tree: Tree) -> List[Writer]:
    found = []
    for name in sorted(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else []:
        path = _read(f"/sys/block/{name}/loop/backing_file").rstrip(b"\n")
        writable = _read(f"/sys/block/{name}/ro").strip() == b"0"
        if path and writable and is_within(path, tree.path):
            found.append(Writer(0, name, "", path, "loop device"))
    return found


def _swaps(tree: Tree) -> List[Writer]:
    paths = parse_swaps(_read("/proc/swaps"))
    return [Writer(0, "swap", "", path, "swap file") for path in paths if is_within(path, tree.path)]


def _overlay(tree: Tree, pid: int, mount: Mount, mounts: Dict[int, Mount]) -> List[Writer]:
    """An overlay writes through a mount of its own, which no namespace shows."""
    found = []
    for path in parse_upper(mount):
        descriptor = _open_as(pid, path)
        if descriptor is None:
            inside = is_within(path, tree.path)
        else:
            inside = holds_directory(tree, descriptor, mounts)
            os.close(descriptor)
        if inside:
            writer = describe(pid, path, f"overlay mounted at {os.fsdecode(mount.point)!a}")
            found.append(Writer(0, "overlay", writer.container, path, writer.how))
    return found


def _open_as(pid: int, path: bytes) -> Optional[int]:
    """A directory as process ``pid`` names it; None where it cannot be opened so, or is named relative to nothing known."""
    if not path.startswith(b"/"):
        return None
    with contextlib.suppress(OSError):
        return os.open(b"/proc/%d/root%s" % (pid, path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
