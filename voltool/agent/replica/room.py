"""What is said where a replica's host has no room: for what, how much is missing, what is served meanwhile. Ships to servers."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Iterator

from voltool.agent.replica.ground import HostReplica
from voltool.errors import SpaceError
from voltool.model import SERVING
from voltool.showing import shown


@contextlib.contextmanager
def room_for(replica: HostReplica, size: int) -> Iterator[None]:
    """A dump comes, whose files have up to ``size`` bytes (0: nobody knows): where there is no room for it, SpaceError in words
    for replicas."""
    before = _free(replica)
    try:
        yield
    except SpaceError as error:
        raise _no_room(replica, size, before, error.why or error.what) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room(replica, size, before, error.strerror or str(error)) from error


def _no_room(replica: HostReplica, size: int, before: int, why: str) -> SpaceError:
    record = replica.record
    if record.phase == SERVING:
        # What changed comes into a file first, and is in its place before that goes.
        what, needed = "there is no room for the replica's next state", 2 * size
        remedy = (
            f"make room there; voltool replica sync {record.name} tries again, and its last state is served until then"
        )
    else:
        what, needed = "there is no room for the replica's first copy", size
        remedy = (
            f"make room there; voltool replica sync {record.name} goes on. Or voltool replica remove {record.name} HOST,"
            " and add it where there is more"
        )
    return SpaceError(what, where=shown(record.path), why=_in_numbers(replica, needed, before, why), remedy=remedy)


def _in_numbers(replica: HostReplica, needed: int, before: int, why: str) -> str:
    space = os.statvfs(os.path.dirname(replica.record.path))
    if space.f_files and not space.f_favail:
        return f"{why}: no inodes are free"
    if needed <= before:  # a quota, somebody else who writes; or nobody knows how much comes
        return f"{why}: {before:,} bytes were free when it began"
    return f"{why}: up to {needed:,} bytes are needed and {before:,} were free, so {needed - before:,} are missing"


def _free(replica: HostReplica) -> int:
    space = os.statvfs(os.path.dirname(replica.record.path))
    return space.f_bavail * space.f_frsize
