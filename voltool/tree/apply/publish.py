"""The last step: the finished tree gets its name. Repeatable after a crash. Part of what is shipped to servers.

*rename*: one rename(2) of the whole tree, which also replaces an empty directory. *entries* (a mount point): the top
entries are renamed one by one, the root's attributes come last. *merge*: into existing directories, where nothing
collides; that is checked for everything before anything is moved. *inside*: the tree has stood at its target all the time.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Iterator, List, Tuple

from voltool import durable
from voltool.errors import RefusedError, VoltoolError
from voltool.showing import shown
from voltool.tree.apply.files import translate
from voltool.tree.apply.staging import Staging, Way

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOST_AND_FOUND = b"lost+found"
_CLOSED = 0o700

#: A name to be moved: descriptors of the directories from and to, and the name.
_Move = Tuple[List[bytes], bytes]


def publish(staging: Staging, root: bytes) -> None:
    """Give the staged tree at ``root`` (relative to the staging directory) its target's name, durably.

    Does nothing where an interrupted publish has done it already. Raises RefusedError where something collides.
    """
    try:
        if staging.way is Way.INSIDE:
            return
        if staging.way is Way.RENAME:
            _rename(staging.descriptor, root, staging.target)
        else:
            if staging.way is Way.MERGE:
                os.makedirs(staging.target, 0o700, exist_ok=True)
            _move(staging, root)
    except OSError as error:
        raise _translate(error, staging.target) from error


def _rename(staging: int, root: bytes, target: bytes) -> None:
    try:
        os.stat(root, dir_fd=staging, follow_symlinks=False)
    except FileNotFoundError:
        return
    if os.path.isdir(os.path.join(target, _LOST_AND_FOUND)):
        os.rmdir(os.path.join(target, _LOST_AND_FOUND))
    if os.path.lexists(target):
        os.rename(root, target, src_dir_fd=staging)  # replaces an empty directory and nothing else
    else:
        durable.rename_new(root, target, old_dir=staging)
    durable.fsync_directory(os.path.dirname(target))


def _move(staging: Staging, root: bytes) -> None:
    try:
        source = os.open(root, _OPEN, dir_fd=staging.descriptor)
    except FileNotFoundError:
        return
    try:
        destination = staging.open_target()
        try:
            if staging.way is Way.ENTRIES:
                os.fchmod(destination, _CLOSED)  # until its own mode is set, when all is there
            moves = list(_moves(source, destination, (), merge=staging.way is Way.MERGE))
            for path, name in moves:
                _move_one(source, destination, path, name)
            os.fsync(destination)
        finally:
            os.close(destination)
    finally:
        os.close(source)


def _moves(source: int, destination: int, path: Tuple[bytes, ...], *, merge: bool) -> Iterator[_Move]:
    """What is to be moved; RefusedError for the first name that exists on the other side."""
    for name in sorted(os.fsencode(name) for name in os.listdir(source)):
        try:
            there = os.stat(name, dir_fd=destination, follow_symlinks=False)
        except FileNotFoundError:
            yield list(path), name
            continue
        here = os.stat(name, dir_fd=source, follow_symlinks=False)
        if not path and name == _LOST_AND_FOUND and stat.S_ISDIR(here.st_mode) and stat.S_ISDIR(there.st_mode):
            yield list(path), name  # the new file system's own, empty: rename replaces it
            continue
        if os.path.samestat(here, there) and not stat.S_ISDIR(here.st_mode):
            yield list(path), name  # moved in two steps and cut off between them
            continue
        if not (merge and stat.S_ISDIR(here.st_mode) and stat.S_ISDIR(there.st_mode)):
            raise RefusedError(
                "the target has something of that name already",
                where=shown(b"/".join([*path, name])),
                remedy="another target, or move what is there out of the way",
            )
        yield from _moves_below(source, destination, (*path, name))


def _moves_below(source: int, destination: int, path: Tuple[bytes, ...]) -> Iterator[_Move]:
    """Both sides have the directory ``path``: what is in it."""
    below = os.open(path[-1], _OPEN, dir_fd=source)
    try:
        other = os.open(path[-1], _OPEN, dir_fd=destination)
        try:
            yield from _moves(below, other, path, merge=True)
        finally:
            os.close(other)
    finally:
        os.close(below)


def _move_one(source: int, destination: int, path: List[bytes], name: bytes) -> None:
    if not path:
        if name == _LOST_AND_FOUND:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=destination)
        else:
            durable.rename_new(name, name, old_dir=source, new_dir=destination)
        return
    below = os.open(path[0], _OPEN, dir_fd=source)
    try:
        other = os.open(path[0], _OPEN, dir_fd=destination)
        try:
            _move_one(below, other, path[1:], name)
            os.fsync(other)
        finally:
            os.close(other)
    finally:
        os.close(below)


def _translate(error: OSError, target: bytes) -> VoltoolError:
    if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
        return RefusedError(
            "the target is not empty any more",
            where=shown(target),
            why="something was put there while the restore ran",
            remedy="take it away and run the same restore again: it goes on where it stopped",
        )
    return translate(error, shown(target))
