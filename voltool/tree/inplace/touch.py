"""Single changes of names in a tree that stands, each only if what is there is still what was seen. Ships to servers.

What is immutable or append-only is freed for the moment of the change; an inode that lives on under other names is sealed
again. A change that is not possible raises `NotTouched`; nothing has happened then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Callable, Iterator, List, Optional, Tuple

from voltool import durable, inodes
from voltool.tree.apply.attributes import SEALS
from voltool.tree.apply.files import translate
from voltool.tree.inplace.ground import Ground, Seen

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHANGED = "it was changed after it had been compared"
_GONE_ON = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class NotTouched(Exception):  # noqa: N818 - no error: the result names it
    """A name was left as it is; the text says why."""


class Toucher:
    """Changes names of the tree ``ground``. ``staging``: a descriptor of the staging directory, on the same file system."""

    def __init__(self, ground: Ground, staging: int) -> None:
        self._ground = ground
        self._staging = staging

    def move_in(self, staged: bytes, path: bytes, seen: Optional[Seen]) -> None:
        """Give a staged object the name ``path``, in place of what was ``seen`` there (None: nothing)."""

        def rename(directory: int, name: bytes) -> None:
            if seen is None:
                durable.rename_new(staged, name, self._staging, directory)
            else:
                os.rename(staged, name, src_dir_fd=self._staging, dst_dir_fd=directory)

        self._change(path, seen, rename)

    def link_in(self, link: Callable[[bytes], None], path: bytes, seen: Optional[Seen]) -> None:
        """The same with a new hard link, which ``link`` makes at the path it is given, relative to staging."""
        temporary = b"links/new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._staging)
        link(temporary)
        try:
            self.move_in(temporary, path, seen)
        finally:
            with contextlib.suppress(FileNotFoundError):  # rename(2) does nothing where both are the same inode
                os.unlink(temporary, dir_fd=self._staging)

    def remove(self, path: bytes, seen: Seen) -> None:
        """Delete a file or an empty directory; what is gone already is no matter."""

        def unlink(directory: int, name: bytes) -> None:
            if stat.S_ISDIR(seen.mode):
                os.rmdir(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)

        if self._ground.status(path) is not None:
            self._change(path, seen, unlink)

    def make_directory(self, path: bytes, seen: Optional[Seen]) -> None:
        """Make a directory, in place of a file that was ``seen`` there. One that has been made meanwhile serves as well."""
        if seen is not None:
            self.remove(path, seen)
        status = self._ground.status(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return
        self._change(path, None, lambda directory, name: os.mkdir(name, 0o700, dir_fd=directory))

    def _change(self, path: bytes, seen: Optional[Seen], act: Callable[[int, bytes], None]) -> None:
        try:
            directory, name = self._ground.parent(path)
            self._check(directory, name, seen)
            try:
                act(directory, name)
            except PermissionError:
                with _unsealed(directory, name):
                    act(directory, name)
        except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotTouched(_CHANGED) from None
        except OSError as error:
            raise not_touched(error) from error

    @staticmethod
    def _check(directory: int, name: bytes, seen: Optional[Seen]) -> None:
        try:
            now = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            if seen is not None:
                raise NotTouched(_CHANGED) from None
            return
        if seen is None or not seen.is_still(now):
            raise NotTouched(_CHANGED)


def not_touched(error: OSError) -> Exception:
    """What a failed system call means: one name less, or (a full or broken disk) the end."""
    if error.errno in _GONE_ON:
        return translate(error, "into the directory that is restored")
    if error.errno == errno.ENOTEMPTY:
        return NotTouched("something is in it that was not there when it was looked at")
    if error.errno in {errno.EBUSY, errno.EXDEV}:
        return NotTouched("something is mounted there, or it belongs to another project")
    return NotTouched(error.strerror or str(error))


@contextlib.contextmanager
def _unsealed(directory: int, name: bytes) -> Iterator[None]:
    """Take +i and +a off a directory and what has that name in it. An inode that still has names afterwards gets them back."""
    freed: List[Tuple[int, int]] = []
    try:
        inodes.set_flags(directory, 0, SEALS)  # it is sealed at the end, as the dump has it
        with contextlib.suppress(OSError):  # nothing has the name, or it cannot be opened and so has no flags
            descriptor = os.open(name, _READ, dir_fd=directory)
            mine = inodes.get_flags(descriptor)[0] & SEALS
            freed.append((descriptor, mine))
            inodes.set_flags(descriptor, 0, SEALS)
        yield
    finally:
        for descriptor, mine in freed:
            with contextlib.suppress(OSError):
                if mine and os.fstat(descriptor).st_nlink:
                    inodes.set_flags(descriptor, mine, SEALS)
            os.close(descriptor)
