"""The second scan before a switch: is every stamp of a tree the one that its state was made from? Ships to servers.

Never a clock against a ctime: equal stamps under a lock that nobody can write through mean an equal tree. A name that was
moved shows in the stamps of its directories.
"""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_left
from typing import Iterator, Optional

from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.classify import Group, inode_groups
from voltool.tree.sharedwalk import SharedWalk
from voltool.tree.stamps import STAMP_SIZE, encode_stamp
from voltool.tree.state import BaseState
from voltool.tree.walk import DIRECTORY_AT, SCAN_SIZE, SELF, STAMP_AT, WalkResult

#: Where the times are in a stamp: renaming sets a ctime, and on XFS a directory's mtime.
_TIMES = slice(20, 44)
_CTIME = slice(32, 44)


def first_difference(
    root_fd: int, state: BaseState, spool: SortedSpool, *, by_entries: bool = False
) -> Optional[bytes]:
    """The path of something that is not as the state's home stamps say (``b""``: the root, or something is missing); None
    where everything is. ``spool`` is for the scan. The root's times are not looked at: see `is_root_unchanged`.

    ``by_entries``: the tree was taken away from its root entry by entry. Then the root is another directory, of which
    nothing is compared (`is_root_alike`), and of the top entries not what renaming them has set.
    """
    if state.stamps is None:
        return b""
    walk = SharedWalk(root_fd, spool, live=True, tick=lambda _entries, _size: None).walk()
    if walk.problems or walk.skipped_mounts or walk.fuzzy:
        return walk.problems[0].path if walk.problems else b""
    if by_entries:
        renamed = _top_inodes(root_fd)
        root = os.fstat(root_fd).st_ino.to_bytes(8, "big")
        groups: Iterator[Group] = (group for group in inode_groups(walk) if group.inode != root)
        stamps: Iterator[bytes] = (home for home in state.stamps if _number(home) != ROOT_OBJECT)
    else:
        renamed, groups, stamps = array("Q"), inode_groups(walk), iter(state.stamps)
    home = next(stamps, None)
    for group in groups:
        record = group.own or group.names[0]
        stamp = record[STAMP_AT : STAMP_AT + STAMP_SIZE]
        if home is None or home[:8] != group.inode:
            return _path(walk, record)
        was_renamed = _number(home) == ROOT_OBJECT or _has(renamed, group.inode)
        if not _same(home[16 : 16 + STAMP_SIZE], stamp, was_renamed=was_renamed):
            return _path(walk, record)
        home = next(stamps, None)
    return None if home is None else b""


def is_root_unchanged(root_fd: int, state: BaseState) -> bool:
    """Whether the root itself has the stamp it had, times too: to be asked before it is renamed."""
    status = os.fstat(root_fd)
    home = state.stamps.find(status.st_ino) if state.stamps is not None else None
    return home is not None and home[16 : 16 + STAMP_SIZE] == encode_stamp(status)


def is_root_alike(root_fd: int, state: BaseState) -> bool:
    """Whether the root has the stamp it had but for its times: also when its entries were renamed."""
    status = os.fstat(root_fd)
    home = state.stamps.find(status.st_ino) if state.stamps is not None else None
    return home is not None and _same(home[16 : 16 + STAMP_SIZE], encode_stamp(status), was_renamed=True)


def _same(known: bytes, stamp: bytes, *, was_renamed: bool) -> bool:
    if known == stamp:
        return True
    ignored = _TIMES if stat.S_ISDIR(int.from_bytes(stamp[:4], "big")) else _CTIME
    return was_renamed and _without(known, ignored) == _without(stamp, ignored)


def _top_inodes(root_fd: int) -> array[int]:
    """The inode numbers of a directory's entries, sorted."""
    with os.scandir(root_fd) as names:
        return array("Q", sorted(entry.inode() for entry in names))


def _has(numbers: array[int], inode: bytes) -> bool:
    number = int.from_bytes(inode, "big")
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


def _number(home: bytes) -> int:
    return int.from_bytes(home[8:16], "big")


def _without(stamp: bytes, part: slice) -> bytes:
    return stamp[: part.start] + stamp[part.stop :]


def _path(walk: WalkResult, record: bytes) -> bytes:
    directory = walk.table.path(int.from_bytes(record[DIRECTORY_AT : DIRECTORY_AT + 4], "big"))
    if record[8] == SELF:
        return directory
    return os.path.join(directory, record[SCAN_SIZE:])
