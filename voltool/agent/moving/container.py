"""What a volume is put into at its new home, where its file system has more than directories: an empty btrfs subvolume or ZFS
dataset, made for it, or the subvolume that it left here when it moved away. Ships to servers.

Staging then lies inside, since nothing can be renamed into a subvolume. The kind is in the move's record before anything is
made, so every function here can be repeated after a crash.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Optional

from voltool import durable
from voltool.beneath import opened_directory
from voltool.errors import HostError, RefusedError
from voltool.model import SourceMove, TargetMove
from voltool.showing import shown
from voltool.tree.apply.files import translate
from voltool.volumes import btrfs_ioctl
from voltool.volumes import zfs_command as zfs
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.by_entries import move_entries
from voltool.volumes.records import AREA_NAME
from voltool.volumes.removal import remove_tree
from voltool.volumes.traits import traits_of

#: Kinds of containers, as they stand in `TargetMove.container`.
NONE, SUBVOLUME, RETIRED_SUBVOLUME, DATASET = "", "subvolume", "retired subvolume", "dataset"
#: The drivers that the volume has then.
DRIVERS = {SUBVOLUME: "btrfs", RETIRED_SUBVOLUME: "btrfs", DATASET: "zfs"}
_TREE = b"tree"
#: What a component of a dataset's name may not have (zfs(8), section Description).
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_.:-]")


def wanted(move: TargetMove, retired: Optional[SourceMove]) -> str:
    """The kind that a volume arriving at ``move.path`` is to get. A directory that is there is filled as it is, and a copy that
    the volume left on the same file system is worth more than a new subvolume. Touches nothing."""
    parent = os.path.dirname(move.path)
    if os.geteuid() != 0 or not os.path.isdir(parent):
        return NONE
    if retired is not None and os.path.isdir(retired.retired_path):
        if _is_subvolume(retired.retired_path):
            if os.path.dirname(os.path.dirname(os.path.dirname(retired.retired_path))) == parent:
                return RETIRED_SUBVOLUME
        elif os.lstat(retired.retired_path).st_dev == os.stat(parent).st_dev:
            return NONE
    if os.path.lexists(move.path):
        return NONE
    if traits_of(parent).kind == "btrfs":
        return SUBVOLUME
    return DATASET if zfs.dataset_containing(parent) is not None else NONE


def make(move: TargetMove, retired: Optional[SourceMove]) -> None:
    """Make it, or bring it to the path. Idempotent. Raises HostError, SpaceError."""
    try:
        if move.container == SUBVOLUME and not os.path.lexists(move.path):
            with opened_directory(os.path.dirname(move.path)) as parent:
                btrfs_ioctl.create_subvolume(parent, os.path.basename(move.path))
                os.chmod(move.path, 0o700)
                os.fsync(parent)
        elif move.container == RETIRED_SUBVOLUME and retired is not None and _is_subvolume(retired.retired_path):
            _bring_retired(move, retired)
        elif move.container == DATASET and zfs.dataset_at(move.path) is None:
            _make_dataset(move)
            os.chmod(move.path, 0o700)
    except OSError as error:
        raise translate(error, shown(move.path)) from error


def tree_within(move: TargetMove) -> bytes:
    """Where the tree of a retired subvolume is, once it stands at the path."""
    return os.path.join(move.path, AREA_NAME, _TREE)


def discard(move: TargetMove, retired: Optional[SourceMove]) -> None:
    """Remove it, after its staging, unless somebody has put something into it. Idempotent. Raises HostError."""
    dataset = zfs.dataset_at(move.path) if move.container == DATASET else None
    if dataset is None and (move.container in (NONE, DATASET) or not _is_subvolume(move.path)):
        return
    remove_tree(tree_within(move))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(move.path, AREA_NAME))
    if os.listdir(move.path):
        raise HostError(
            f"the {move.container} that was made for the volume is not empty",
            where=shown(move.path),
            why=f"it has {shown(min(os.fsencode(name) for name in os.listdir(move.path)))}, which is none of voltool's",
            remedy=f"take it out, then voltool move --abort {move.name}",
        )
    if dataset is not None:
        zfs.destroy_dataset(dataset)
        with contextlib.suppress(OSError):
            os.rmdir(move.path)
        return
    try:
        with opened_directory(os.path.dirname(move.path)) as parent:
            btrfs_ioctl.destroy_subvolume(parent, os.path.basename(move.path))
            if retired is not None and retired.path == move.path:
                os.mkdir(move.path, 0o700)
                placeholder.mark(move.path, retired)
                placeholder.seal(move.path)
            os.fsync(parent)
    except OSError as error:
        raise translate(error, shown(move.path)) from error


def _make_dataset(move: TargetMove) -> None:
    """A child of the dataset around it, called as the directory would be; or one that a crash left unmounted."""
    left = zfs.unmounted_at(move.path)
    if left is not None:
        zfs.call_patiently("mount", left)
        return
    around = zfs.dataset_containing(os.path.dirname(move.path))
    assert around is not None, "it was there when this was planned"
    name = _FORBIDDEN.sub("-", os.fsdecode(os.path.basename(move.path)))
    for candidate in (f"{around}/{name}", f"{around}/{name}-{move.move_id[:8]}"):
        if not zfs.get([candidate], "type"):
            zfs.create_dataset(candidate, move.path)
            return
    raise RefusedError(
        "the names for the volume's dataset are taken",
        where=f"{around}/{name}",
        remedy=f"zfs create -o mountpoint={shown(move.path)} with another name: an empty dataset is filled",
    )


def _bring_retired(move: TargetMove, retired: SourceMove) -> None:
    """Its tree goes into a directory of its own area: what then stands at the path is empty, as far as others see."""
    tree = os.path.join(retired.retired_path, AREA_NAME, _TREE)
    durable.make_directory(tree)
    with opened_directory(retired.retired_path) as root, opened_directory(tree) as inside:
        move_entries(root, inside)
        os.fchmod(root, 0o700)
        os.fsync(inside)
        os.fsync(root)
    if placeholder.stands_at(move.path, retired):
        placeholder.unseal(move.path)
        os.rmdir(move.path)
    if os.path.lexists(move.path):
        os.rename(retired.retired_path, move.path)  # replaces an empty directory and nothing else
    else:
        durable.rename_new(retired.retired_path, move.path)
    for directory in (os.path.dirname(move.path), os.path.dirname(retired.retired_path)):
        durable.fsync_directory(directory)


def _is_subvolume(path: bytes) -> bool:
    with contextlib.suppress(OSError):
        return btrfs_ioctl.is_subvolume(path)
    return False
