"""The tree that will be served next, made from the one that is served now: a writable snapshot where that is a btrfs
subvolume, else a tree of hard links. Ships to servers.

A file that cannot have one more name (it is immutable, or has as many as there can be) is copied. The served tree's content is
never written to.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Dict, List, Tuple

from voltool.beneath import open_beneath, opened_directory
from voltool.volumes import btrfs_ioctl
from voltool.volumes.records import AREA_NAME
from voltool.volumes.reflink_copy import dress_directory, link, make_file

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How link(2) says that this file can have no further name.
_UNLINKABLE = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV})


def snapshot(path: bytes, target: bytes) -> None:
    """A writable snapshot of the subvolume at ``path``; atomic. Raises OSError."""
    with opened_directory(path) as source, opened_directory(os.path.dirname(target)) as directory:
        btrfs_ioctl.create_writable_snapshot(directory, os.path.basename(target), source)


def link_tree(path: bytes, target: bytes, note: bytes) -> None:
    """A tree at ``target`` whose files are those of the tree at ``path``, and whose directories are like its own. ``target`` must
    not exist. Where a file has to be copied, a file ``note`` is made. Raises OSError."""
    os.mkdir(target, 0o700)
    with opened_directory(path) as source, opened_directory(target) as made:
        _Linking(source, made, note).run()


class _Linking:
    """Two passes: downwards names are made, upwards each directory gets its attributes, when nothing in it changes any more."""

    def __init__(self, source: int, target: int, note: bytes) -> None:
        self._note = note
        self._source = source
        self._target = target
        #: Inodes that had to be copied and have more names, by what they were.
        self._copies: Dict[int, bytes] = {}

    def run(self) -> None:
        found = [b""]
        for path in found:  # grows while it is walked through
            found += self._fill(path)
        for path in reversed(found):
            self._dress(path)

    def _fill(self, path: bytes) -> List[bytes]:
        below = []
        source, target = self._open(path)
        try:
            with os.scandir(source) as entries:
                names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_directory in names:
                if not path and name == AREA_NAME:
                    continue
                if is_directory:
                    os.mkdir(name, 0o700, dir_fd=target)
                    below.append(path + b"/" + name if path else name)
                else:
                    self._link(source, target, path, name)
        finally:
            os.close(source)
            os.close(target)
        return below

    def _link(self, source: int, target: int, path: bytes, name: bytes) -> None:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _UNLINKABLE:
                raise
            self._copy(source, target, path, name)

    def _copy(self, source: int, target: int, path: bytes, name: bytes) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EMLINK, "a special file can have no further name", os.fsdecode(name))
        with open(self._note, "wb"):
            pass
        first = self._copies.get(status.st_ino)
        if first is None:
            make_file(source, target, os.fsdecode(name))
            if status.st_nlink > 1:
                self._copies[status.st_ino] = os.path.join(path, name)
            return
        directory, _slash, known = first.rpartition(b"/")
        other = open_beneath(self._target, directory, _OPEN) if directory else os.dup(self._target)
        try:
            link(other, os.fsdecode(known), target, os.fsdecode(name))
        finally:
            os.close(other)

    def _dress(self, path: bytes) -> None:
        source, target = self._open(path)
        try:
            dress_directory(source, target, os.fstat(source))
        finally:
            os.close(source)
            os.close(target)

    def _open(self, path: bytes) -> Tuple[int, int]:
        if not path:
            return os.dup(self._source), os.dup(self._target)
        source = open_beneath(self._source, path, _OPEN)
        try:
            return source, open_beneath(self._target, path, _OPEN)
        except OSError:
            os.close(source)
            raise
