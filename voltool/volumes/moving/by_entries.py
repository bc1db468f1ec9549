"""The tree of a mount point leaves entry by entry, into a directory of the volume's area, which lies inside. Ships to servers.

The lock's mount is read-only for everybody, so all of it is done in a private mount namespace in which alone the lock is
taken off. What the renames change of the root is written down before: flags and mtime come back with the tree. The emptied
root is marked and made immutable, as a placeholder is: nothing starts on the old path. See `departure`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import Dict, Iterator

from voltool import durable, inodes
from voltool.beneath import opened_directory
from voltool.errors import HostError
from voltool.model import SourceMove
from voltool.showing import shown
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import beside_lock
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.placeholder import SEALS
from voltool.volumes.records import AREA_NAME

_OPEN_ENTRY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: The longest name there is.
_NAME_MAX = 255


class ByEntries:
    """A `Departure` of a mount point: a file system of its own, a mounted subvolume, a dataset."""

    def __init__(self, book: LockBook, area: bytes) -> None:
        self._book = book
        self._area = area

    def is_away(self, move: SourceMove) -> bool:
        """See `Departure`."""
        if not os.path.isdir(move.retired_path):
            return False
        with opened_directory(move.path) as root:  # the mark says nothing: not every file system can hold it
            return next(_entries(root), None) is None

    def take_away(self, move: SourceMove) -> None:
        """See `Departure`."""
        self._assert_mounted(move)
        try:
            durable.write_file(self._note(move), json.dumps(_root_as_it_is(move.path)).encode())
            durable.make_directory(move.retired_path)
        except OSError as error:
            raise _failed("taken away from", move, error.strerror or str(error)) from error
        failure = beside_lock(self._book.read(), move.path, lambda: _take_away(move))
        if failure:
            raise _failed("taken away from", move, failure)

    def bring_back(self, move: SourceMove) -> None:
        """See `Departure`."""
        self._assert_mounted(move)
        try:
            with open(self._note(move), "rb") as file:
                root: Dict[str, int] = json.load(file)
        except FileNotFoundError:
            return  # it never left, or is back
        except (OSError, ValueError) as error:
            raise _failed("brought back to", move, str(error)) from error
        failure = beside_lock(self._book.read(), move.path, lambda: _bring_back(move, root))
        if failure:
            raise _failed("brought back to", move, failure)
        durable.remove_file(self._note(move))

    def forget(self, move: SourceMove) -> None:
        """See `Departure`."""
        durable.remove_file(self._note(move))

    def _note(self, move: SourceMove) -> bytes:
        return os.path.join(self._area, b"root-" + move.move_id[:12].encode() + b".json")

    def _assert_mounted(self, move: SourceMove) -> None:
        """Of a file system that is not mounted nothing can be said, least of all that its tree is back."""
        if not os.path.isdir(self._area):
            raise HostError(
                "the volume's file system is not mounted",
                where=shown(move.path),
                why=f"voltool's own directory {shown(self._area)} is not there",
                remedy=f"mount it, then voltool move --resume {move.name}",
            )


def _root_as_it_is(path: bytes) -> Dict[str, int]:
    with opened_directory(path) as root:
        return {"mtime_ns": os.fstat(root).st_mtime_ns, "flags": _flags(root) & SEALS}


def _take_away(move: SourceMove) -> None:
    with opened_directory(move.path) as root, opened_directory(move.retired_path) as retired:
        _unseal(root)
        move_entries(root, retired)
    placeholder.keep(move)


def move_entries(root: int, directory: int) -> None:
    """Rename everything in ``root`` but voltool's area into ``directory``, durably. Repeatable. Raises OSError."""
    for name in _entries(root):
        _rename(root, directory, name, name)
    os.fsync(directory)
    os.fsync(root)


def _bring_back(move: SourceMove, noted: Dict[str, int]) -> None:
    """The entries, then what they have changed of the root."""
    with opened_directory(move.path) as root:
        _unseal(root)
        if os.path.isdir(move.retired_path):
            with opened_directory(move.retired_path) as retired:
                for name in _entries(retired):
                    _bring_one(root, retired, name)
                os.fsync(root)
                os.fsync(retired)
            os.rmdir(move.retired_path)
        placeholder.unmark(move.path, move)
        status = os.fstat(root)
        os.utime(root, ns=(status.st_atime_ns, noted["mtime_ns"]))
        if noted["flags"]:
            inodes.set_flags(root, noted["flags"], SEALS)
        os.fsync(root)


def _bring_one(root: int, retired: int, name: bytes) -> None:
    try:
        _rename(retired, root, name, name)
    except FileExistsError:
        _set_aside(root, name)
        _rename(retired, root, name, name)


def _set_aside(root: int, name: bytes) -> None:
    """What somebody has put in an entry's place meanwhile is kept beside it; an empty directory is nothing."""
    with contextlib.suppress(OSError):
        os.rmdir(name, dir_fd=root)
        return
    for number in range(1000):
        suffix = b".found-at-the-old-path-%d" % number
        with contextlib.suppress(FileExistsError):
            _rename(root, root, name, name[: _NAME_MAX - len(suffix)] + suffix)
            return


def _entries(directory: int) -> Iterator[bytes]:
    return (os.fsencode(name) for name in os.listdir(directory) if os.fsencode(name) != AREA_NAME)


def _rename(old: int, new: int, name: bytes, new_name: bytes) -> None:
    """Also of an immutable or append-only entry."""
    try:
        durable.rename_new(name, new_name, old_dir=old, new_dir=new)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        entry = os.open(name, _OPEN_ENTRY, dir_fd=old)
        try:
            seals = _unseal(entry)
            if not seals:
                raise
            try:
                durable.rename_new(name, new_name, old_dir=old, new_dir=new)
            finally:
                inodes.set_flags(entry, seals, SEALS)
        finally:
            os.close(entry)


def _unseal(descriptor: int) -> int:
    """Take +i and +a off; which of them it had."""
    seals = _flags(descriptor) & SEALS
    if seals:
        inodes.set_flags(descriptor, 0, SEALS)
    return seals


def _flags(descriptor: int) -> int:
    return inodes.get_flags(descriptor)[0]


def _failed(what: str, move: SourceMove, why: str) -> HostError:
    return HostError(
        f"the volume cannot be {what} its path",
        where=shown(move.path),
        why=why,
        remedy=f"see what is wrong with the file system, then voltool move --resume {move.name}",
    )
