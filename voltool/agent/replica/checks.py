"""May a replica be served at this path? Every reason why not, before anything is made. Ships to servers."""

from __future__ import annotations

import os
from typing import Sequence

from voltool.agent.host import HostState
from voltool.agent.replica.place import ReplicaPlace
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import NotFoundError, RefusedError
from voltool.model import ReplicaRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.mounts import is_mount_point, is_within
from voltool.volumes.moving.by_exchange import check_exchange


def check_path(record: ReplicaRecord, host: HostState, forbidden: Sequence[bytes]) -> None:
    """Whether a new replica may be served at its path. ``forbidden``: what must not lie in it, such as stores. Touches nothing.
    Raises RefusedError, NotFoundError."""
    path = record.path
    if not path.startswith(b"/") or b"\0" in path or os.path.normpath(path) != path or path == b"/":
        raise RefusedError("a replica needs an absolute path", where=shown(path), remedy="HOST:/path")
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        raise NotFoundError(
            f"there is no directory {shown(parent)}", where=shown(path), remedy="make it, or choose another path"
        )
    if os.path.realpath(parent) != parent:
        raise RefusedError(
            "the replica's path goes through a symlink",
            where=shown(path),
            remedy=shown(os.path.join(os.path.realpath(parent), os.path.basename(path))),
        )
    _refuse_overlap(record, host, forbidden)
    _refuse_what_stands(path)


def check_can_exchange(place: ReplicaPlace) -> None:
    """RefusedError where the file system cannot exchange two names; tried in the replica's place, which is there."""
    try:
        check_exchange(place.directory)
    except RefusedError as error:
        raise RefusedError(
            "a replica cannot be kept up to date on this file system",
            where=shown(place.path),
            why="it cannot exchange two names at once, so for a moment nothing would stand at the path",
            remedy="a path on btrfs, ext4, XFS or another file system that can",
        ) from error


def _refuse_overlap(record: ReplicaRecord, host: HostState, forbidden: Sequence[bytes]) -> None:
    path = record.path
    if records.AREA_NAME in path.split(b"/"):
        raise RefusedError("this lies in voltool's own directory", where=shown(path), remedy="a path beside .voltool")
    for place in (*forbidden, host.directory):
        if is_within(os.path.realpath(place), path) or is_within(path, os.path.realpath(place)):
            raise RefusedError(
                "the replica and a directory of voltool would contain each other",
                where=shown(path),
                why=f"{shown(place)} holds dumps, or voltool's own state",
                remedy="another path",
            )
    for entry in records.list_entries(host.directory):
        if entry.lives and (is_within(path, entry.path) or is_within(entry.path, path)):
            raise RefusedError(
                "the replica and a volume would contain each other",
                where=shown(path),
                why=f"this host has a volume at {shown(entry.path)}",
                remedy="another path",
            )
    ReplicaBook(host.directory).refuse_overlap(path, but=record.uuid)


def _refuse_what_stands(path: bytes) -> None:
    if is_mount_point(path):
        raise RefusedError(
            "the replica's path is a mount point",
            where=shown(path),
            why="what is mounted there cannot be exchanged for a newer state",
            remedy="a directory inside what is mounted there",
        )
    if not os.path.lexists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        raise RefusedError("the path exists and is not a directory", where=shown(path), remedy="another path")
    left = os.listdir(path)
    if left:
        raise RefusedError(
            "the directory at the replica's path is not empty",
            where=shown(path),
            why=f"it has {len(left)} entries, {shown(min(left))} among them",
            remedy="another path, or empty this one",
        )
