"""A volume comes back: the copy that it left here becomes the base of what arrives, so that only differences travel.

The retired tree is taken into staging as what staging holds, once it is known to be, stamp by stamp, what the old switch gave
away. Repeatable: a mark in staging says that it is being taken. Ships to servers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import Optional

from voltool import durable, inodes
from voltool.model import RETIRED, ROOT_OBJECT, SourceMove
from voltool.spool import SortedSpool
from voltool.tree.apply.attributes import SEALS
from voltool.tree.apply.files import flat_path
from voltool.tree.apply.held import HeldRecord, HeldTree
from voltool.tree.apply.staging import Staging
from voltool.tree.state import StateKeeper
from voltool.tree.unchanged import first_difference

_MARK = b"from-retired.json"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def take_retired(staging: Staging, retired: Optional[SourceMove], area: bytes) -> bool:
    """Let a fresh staging hold the retired tree, if there is one that can serve; whether it does. Raises OSError.

    ``area``: the retired volume's. A tree on another file system than staging cannot be renamed into it, and one that somebody
    has changed is no base: then everything is sent. (Of a btrfs subvolume the tree is inside one already: `container`.)
    """
    mark = os.path.join(staging.path, _MARK)
    if not os.path.lexists(mark):
        if not staging.fresh or retired is None or not _can_serve(staging, retired, area):
            return False
        plan = {"state_id": retired.state_id, "place": os.fsdecode(retired.retired_path)}
        durable.write_file(mark, json.dumps(plan).encode())
    with open(mark, "rb") as file:
        plan = json.load(file)
    _take(staging, os.fsencode(plan["place"]), area, plan["state_id"])
    durable.remove_file(mark)
    return True


def _take(staging: Staging, place: bytes, area: bytes, state_id: str) -> None:
    if not os.path.lexists(place):
        return  # it was taken by a run that was cut off afterwards
    held = HeldTree(staging)
    states = held.keeper.directory
    shutil.rmtree(states, ignore_errors=True)
    os.makedirs(states, 0o700)
    shutil.copytree(os.fsdecode(os.path.join(area, b"states", state_id.encode())), os.fsdecode(states) + "/" + state_id)
    root = os.path.join(staging.path, flat_path(ROOT_OBJECT))
    os.makedirs(os.path.dirname(root), 0o700, exist_ok=True)
    staging.sync()
    held.save(HeldRecord(state_id, assembled=True))
    os.rename(place, root)
    for directory in (os.path.dirname(root), os.path.dirname(place)):
        durable.fsync_directory(directory)


def is_as_left(retired: SourceMove, area: bytes, scratch: bytes) -> bool:
    """Whether the retired tree is there, and is, stamp by stamp, what its record says. ``scratch`` is for the scan."""
    if retired.phase != RETIRED:
        return False
    try:
        root = os.open(retired.retired_path, _OPEN)
    except OSError:
        return False
    try:
        if inodes.get_flags(root)[0] & SEALS:
            return False
        state = StateKeeper(os.path.join(area, b"states")).open(retired.state_id)
        if state is None:
            return False
        with contextlib.closing(state), SortedSpool(scratch) as spool:
            return first_difference(root, state, spool, by_entries=retired.by_entries) is None
    finally:
        os.close(root)


def _can_serve(staging: Staging, retired: SourceMove, area: bytes) -> bool:
    """Whether it can also be renamed into staging."""
    with contextlib.suppress(OSError):
        if os.lstat(retired.retired_path).st_dev == os.fstat(staging.descriptor).st_dev:
            return is_as_left(retired, area, staging.path)
    return False
