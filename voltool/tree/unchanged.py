"""The second scan before a switch: is every stamp of a tree the one that its state was made from? Ships to servers.

Never a clock against a ctime: equal stamps under a lock that nobody can write through mean an equal tree. A name that was
moved shows in the stamps of its directories.
"""

from __future__ import annotations

import os
from typing import Optional

from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.classify import inode_groups
from voltool.tree.stamps import STAMP_SIZE, encode_stamp
from voltool.tree.state import BaseState
from voltool.tree.walk import DIRECTORY_AT, SCAN_SIZE, SELF, STAMP_AT, Walker, WalkResult

#: Where the times are in a stamp: renaming the root sets its ctime, and on XFS its mtime.
_TIMES = slice(20, 44)


def first_difference(root_fd: int, state: BaseState, spool: SortedSpool) -> Optional[bytes]:
    """The path of something that is not as the state's home stamps say (``b""``: the root, or something is missing); None
    where everything is. ``spool`` is for the scan. The root's times are not looked at: see `is_root_unchanged`."""
    if state.stamps is None:
        return b""
    walk = Walker(root_fd, spool, live=True, excludes=(), mounts=frozenset(), tick=lambda _entries, _size: None).walk()
    if walk.problems or walk.skipped_mounts or walk.fuzzy:
        return walk.problems[0].path if walk.problems else b""
    stamps = iter(state.stamps)
    home = next(stamps, None)
    for group in inode_groups(walk):
        inode, record = group.inode, group.own or group.names[0]
        stamp = record[STAMP_AT : STAMP_AT + STAMP_SIZE]
        if home is None or home[:8] != inode:
            return _path(walk, record)
        known = home[16 : 16 + STAMP_SIZE]
        if known != stamp and not (_number(home) == ROOT_OBJECT and _without_times(known) == _without_times(stamp)):
            return _path(walk, record)
        home = next(stamps, None)
    return None if home is None else b""


def is_root_unchanged(root_fd: int, state: BaseState) -> bool:
    """Whether the root itself has the stamp it had, times too: to be asked before it is renamed."""
    status = os.fstat(root_fd)
    home = state.stamps.find(status.st_ino) if state.stamps is not None else None
    return home is not None and home[16 : 16 + STAMP_SIZE] == encode_stamp(status)


def _number(home: bytes) -> int:
    return int.from_bytes(home[8:16], "big")


def _without_times(stamp: bytes) -> bytes:
    return stamp[: _TIMES.start] + stamp[_TIMES.stop :]


def _path(walk: WalkResult, record: bytes) -> bytes:
    directory = walk.table.path(int.from_bytes(record[DIRECTORY_AT : DIRECTORY_AT + 4], "big"))
    if record[8] == SELF:
        return directory
    return os.path.join(directory, record[SCAN_SIZE:])
