"""The stamps of a tree that is served, compared and taken anew: by inode, whatever its names are. Ships to servers."""

from __future__ import annotations

import os
import stat
from typing import Iterator, Optional, Tuple

from voltool import durable
from voltool.agent.replica.place import ReplicaPlace
from voltool.beneath import opened_directory
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.classify import Group, inode_groups
from voltool.tree.stamps import STAMP_SIZE, encode_home
from voltool.tree.state import BaseState
from voltool.tree.walk import DIRECTORY_AT, SCAN_SIZE, SELF, STAMP_AT, Walker, WalkResult

#: Where in a stamp the times are, and what making a link changes.
_TIMES = slice(20, 44)
_CTIME_AND_LINKS = slice(32, 48)


def compare_stamps(place: ReplicaPlace, state: BaseState, *, loose: bool, directories: bool) -> Optional[bytes]:
    """The path of something that is not as the home stamps of ``state`` say (``b""``: something is missing, or the root); None
    where everything is. Of the root the times are not compared: renaming it changes them; of other directories if
    ``directories``. Raises OSError."""
    if state.stamps is None:
        return b""
    with opened_directory(place.path) as root, SortedSpool(place.directory) as spool:
        walk = _walk(root, spool)
        if walk.problems or walk.skipped_mounts or walk.fuzzy:
            return walk.problems[0].path if walk.problems else b""
        homes = iter(state.stamps)
        for group, stamp in _stamps(walk):
            home = next(homes, None)
            if home is None or home[:8] != group.inode or not _same(home, stamp, loose=loose, directories=directories):
                return _path(walk, group)
        return None if next(homes, None) is None else b""


def take_all_stamps(place: ReplicaPlace, state: BaseState) -> None:
    """Replace the home stamps of ``state`` by what the tree's inodes, which are the same ones, have now. Raises OSError."""
    assert state.stamps is not None
    path = os.path.join(place.states, state.state_id.encode(), b"stamps")
    with opened_directory(place.path) as root, SortedSpool(place.directory) as spool:
        homes = iter(state.stamps)
        home = next(homes, None)
        with open(path + b".new", "wb", buffering=1 << 20) as file:
            for group, stamp in _stamps(_walk(root, spool)):
                while home is not None and home[:8] < group.inode:
                    home = next(homes, None)
                if home is not None and home[:8] == group.inode:
                    number = int.from_bytes(home[8:16], "big")
                    file.write(encode_home(int.from_bytes(home[:8], "big"), number, stamp, home[64]))
            file.flush()
            os.fsync(file.fileno())
    os.rename(path + b".new", path)
    durable.fsync_directory(os.path.dirname(path))


def _walk(root: int, spool: SortedSpool) -> WalkResult:
    return Walker(root, spool, live=True, excludes=(), mounts=frozenset(), tick=lambda _entries, _size: None).walk()


def _stamps(walk: WalkResult) -> Iterator[Tuple[Group, bytes]]:
    for group in inode_groups(walk):
        record = group.own or group.names[0]
        yield group, record[STAMP_AT : STAMP_AT + STAMP_SIZE]


def _same(home: bytes, stamp: bytes, *, loose: bool, directories: bool) -> bool:
    known = home[16 : 16 + STAMP_SIZE]
    if known == stamp:
        return True
    is_directory = stat.S_ISDIR(int.from_bytes(stamp[:4], "big"))
    if is_directory and (not directories or int.from_bytes(home[8:16], "big") == ROOT_OBJECT):
        return _without(known, _TIMES) == _without(stamp, _TIMES)
    return loose and not is_directory and _without(known, _CTIME_AND_LINKS) == _without(stamp, _CTIME_AND_LINKS)


def _without(stamp: bytes, part: slice) -> bytes:
    return stamp[: part.start] + stamp[part.stop :]


def _path(walk: WalkResult, group: Group) -> bytes:
    record = group.own or group.names[0]
    directory = walk.table.path(int.from_bytes(record[DIRECTORY_AT : DIRECTORY_AT + 4], "big"))
    if record[8] == SELF:
        return directory
    return os.path.join(directory, record[SCAN_SIZE:])
