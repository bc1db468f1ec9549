"""Writers of a tree that are no process's: nfsd's exports, loop devices, swap files, overlays.

Ships to servers. The parsers are pure. Sources: exports(5) and fs/nfsd/export.c, Documentation/ABI sysfs-block-loop,
proc(5) swaps.
"""

from __future__ import annotations

import os
import re
from typing import List

from voltool.frozen import dataclass
from voltool.volumes.lock.overlays import find_overlays
from voltool.volumes.lock.processes import Writer
from voltool.volumes.lock.views import Tree, Views
from voltool.volumes.mounts import is_within

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Export:
    """One line of nfsd's export table: a path and to whom it is exported how."""

    path: bytes
    client: bytes
    writable: bool


def find_kernel_writers(tree: Tree, views: Views) -> List[Writer]:
    """All of them."""
    return list(dict.fromkeys([*_exports(tree), *_loops(tree), *_swaps(tree), *find_overlays(tree, views)]))


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


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)
