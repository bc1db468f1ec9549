"""What is mounted where, as this process sees it: /proc/self/mountinfo. Ships to servers.

Paths given here are absolute and free of symlinks. Knows nothing of volumes. Source: proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from typing import List, Optional, Sequence, Tuple

from voltool.frozen import dataclass

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo. ``root`` is what of the file system is mounted, ``point`` where; ``kind`` is its type."""

    number: int
    parent: int
    device: Tuple[int, int]
    root: bytes
    point: bytes
    options: Tuple[str, ...]
    kind: str
    source: bytes
    super_options: Tuple[str, ...]


def parse_mountinfo(text: bytes) -> List[Mount]:
    """The mounts in the order of the file; lines that are not as proc(5) describes them are left out."""
    return [mount for mount in map(_parse_line, text.split(b"\n")) if mount is not None]


def read_mounts() -> List[Mount]:
    """All mounts of this process's namespace."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse_mountinfo(file.read())


def mount_of(path: bytes, mounts: Sequence[Mount]) -> Optional[Mount]:
    """The mount that ``path`` lies on: the deepest, and of several over one point the last."""
    best: Optional[Mount] = None
    for mount in mounts:
        if is_within(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def is_mount_point(path: bytes, mounts: Optional[Sequence[Mount]] = None) -> bool:
    """Whether something is mounted at ``path`` (also a bind mount of a directory of the same file system)."""
    return any(mount.point == path for mount in (read_mounts() if mounts is None else mounts))


def nested_mounts(path: bytes, mounts: Optional[Sequence[Mount]] = None) -> List[bytes]:
    """The mount points strictly below ``path``, sorted, each once.

    Not the snapshots that OpenZFS mounts in `.zfs` when somebody looks into them: they come and go by themselves.
    """
    all_mounts = read_mounts() if mounts is None else mounts
    points = {mount.point for mount in all_mounts if not (mount.kind == "zfs" and b"@" in mount.source)}
    return sorted(point for point in points if point != path and is_within(point, path))


def is_within(path: bytes, directory: bytes) -> bool:
    """Whether ``path`` is ``directory`` or lies below it, by name."""
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")


def _parse_line(line: bytes) -> Optional[Mount]:
    fields = line.split(b" ")
    try:
        dash = fields.index(b"-", 6)
        major, minor = fields[2].split(b":")
        return Mount(
            number=int(fields[0]),
            parent=int(fields[1]),
            device=(int(major), int(minor)),
            root=_unescape(fields[3]),
            point=_unescape(fields[4]),
            options=_options(fields[5]),
            kind=os.fsdecode(_unescape(fields[dash + 1])),
            source=_unescape(fields[dash + 2]),
            super_options=_options(fields[dash + 3]),
        )
    except (ValueError, IndexError):
        return None


def _unescape(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _options(field: bytes) -> Tuple[str, ...]:
    return tuple(os.fsdecode(_unescape(field)).split(","))
