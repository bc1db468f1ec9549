"""What anybody on the host can see of a lazy replica: its mount, and how far it says it is. Ships to servers.

Knows nothing of how it is served. A dead mount (its process was killed) counts as one: it answers ENOTCONN, never emptiness.
"""

from __future__ import annotations

import json
import os
from typing import Optional

from voltool.frozen import dataclass
from voltool.volumes.lock import mounting

#: What the kernel calls such a mount, after ``fuse.``.
SUBTYPE = "voltool-lazy"


@dataclass(frozen=True)
class LazyStatus:
    """How far a lazy replica is: ``missing_files`` and ``missing_bytes`` of them; ``full``: the disk is; ``fault``: what goes
    wrong, for people; ``at``: when this was written, seconds by the host's clock."""

    missing_files: int
    missing_bytes: int
    full: bool = False
    fault: str = ""
    at: float = 0.0


def read_status(path: bytes) -> Optional[LazyStatus]:
    """The status that was written last; None where there is none."""
    try:
        with open(path, "rb") as file:
            return LazyStatus(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None


def is_mounted(point: bytes) -> bool:
    """Whether what is visible at a path (without symlinks) is a lazy mount, dead or alive."""
    return any(mount.kind == f"fuse.{SUBTYPE}" for mount in mounting.mounts_at(point)[-1:])


def is_answering(point: bytes) -> bool:
    """Whether such a mount is there, and its process lives. Asks the mount."""
    if not is_mounted(point):
        return False
    try:
        os.statvfs(point)
    except OSError:
        return False
    return True


def clear_mounts(point: bytes) -> None:
    """Take lazy mounts off a path; whoever uses one goes on with it. Idempotent. Raises HostError."""
    while is_mounted(point):
        mounting.detach(point)


def clear_dead_mounts(point: bytes) -> None:
    """The same, where nobody answers for them any more."""
    while is_mounted(point) and not is_answering(point):
        mounting.detach(point)
