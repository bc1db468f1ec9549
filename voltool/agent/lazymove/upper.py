"""What stands in the upper directory of an overlay, and directories' attributes. Ships to servers.

Source: Documentation/filesystems/overlayfs, fs/overlayfs/overlayfs.h (the names of attributes), fs/overlayfs/xattrs.c (escaping).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Iterator, List, Optional, Union

from voltool import inodes
from voltool.beneath import open_beneath, opened_directory
from voltool.frozen import dataclass

PREFIX = b"trusted.overlay."
#: How the kernel keeps attributes that somebody has given such names through the overlay.
_ESCAPED = PREFIX + b"overlay."
_ORIGIN, _OPAQUE, _REDIRECT = "trusted.overlay.origin", "trusted.overlay.opaque", "trusted.overlay.redirect"
_WHITEOUT, _METACOPY, _PROTECTED = "trusted.overlay.whiteout", "trusted.overlay.metacopy", "trusted.overlay.protattr"
#: What voltool notes on directories; no attribute of the tree.
OURS = "trusted.voltool."
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Entry:
    """One entry of the upper directory: its path there, its name in the open ``directory``."""

    path: bytes
    directory: int
    name: bytes
    status: os.stat_result

    @property
    def reached(self) -> bytes:
        """As `reach`."""
        return reach(self.directory, self.name)

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it says that the name is gone."""
        if stat.S_ISCHR(self.status.st_mode):
            return self.status.st_rdev == 0
        empty = stat.S_ISREG(self.status.st_mode) and self.status.st_size == 0
        return empty and attribute(self.reached, _WHITEOUT) is not None

    @property
    def is_opaque(self) -> bool:
        """Of a directory: whether it hides what is below, instead of being merged with it."""
        return attribute(self.reached, _OPAQUE) == b"y"

    @property
    def redirect(self) -> Optional[bytes]:
        """Of a directory that was renamed: where it was below, from the root of it (with a slash), or beside (a name)."""
        return attribute(self.reached, _REDIRECT)

    @property
    def is_hollow(self) -> bool:
        """Whether the file has attributes and no data (metacopy): not with our options."""
        return stat.S_ISREG(self.status.st_mode) and attribute(self.reached, _METACOPY) is not None

    def strip(self) -> None:
        """Take the overlay's own attributes off."""
        for text in os.listxattr(self.reached, follow_symlinks=False):
            name = os.fsencode(text)
            if name.startswith(PREFIX) and not name.startswith(_ESCAPED):
                os.removexattr(self.reached, name, follow_symlinks=False)


def protection(where: Union[int, bytes]) -> str:
    """The letters of chattr(1), i and a, of what was made immutable or append-only through the overlay."""
    return (attribute(where, _PROTECTED) or b"").decode("ascii", "replace")


def copy_attributes(source: bytes, target: bytes) -> None:
    """Owner, attributes, mode and times of a directory; not those that are the overlay's own. Raises OSError."""
    with opened_directory(source) as old, opened_directory(target) as new:
        copy_attributes_at(old, new)


def copy_attributes_at(old: int, new: int) -> None:
    """The same of two open directories; what ``new`` has beyond that goes. Flags are added, none is taken off."""
    status = os.fstat(old)
    os.chown(new, status.st_uid, status.st_gid)
    wanted = {name for name in inodes.list_xattrs(old) if _is_of_the_tree(name)}
    for name in inodes.list_xattrs(new):
        if name not in wanted and _is_of_the_tree(name):
            os.removexattr(new, name)
    for name in wanted:
        os.setxattr(new, name, os.getxattr(old, name))
    os.chmod(new, stat.S_IMODE(status.st_mode))
    flags = inodes.get_flags(old)[0]
    if flags:
        with contextlib.suppress(OSError):
            inodes.set_flags(new, flags, flags)
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def _is_of_the_tree(name: str) -> bool:
    """XFS shows each ACL a second time as trusted.SGI_ACL_*: it goes with the first."""
    return not name.startswith(("trusted.overlay.", "trusted.SGI_ACL_", OURS))


def forget_origins(upper: bytes) -> None:
    """Take what an older lazy mount was called off everything in the upper directory: see `overlay`. Repeatable."""
    with opened_directory(upper) as root:
        _forget(root)
        for entry in walk(root):
            _forget(entry.reached)


def _forget(where: Union[int, bytes]) -> None:
    try:
        if isinstance(where, int):
            os.removexattr(where, _ORIGIN)
        else:
            os.removexattr(where, _ORIGIN, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise


def entries(directory: int, path: bytes, *, in_use: bool = False) -> Iterator[Entry]:
    """What is in one open directory of it, which is at ``path``; ``in_use``: what goes meanwhile is passed over. Raises
    OSError."""
    for name in names(directory):
        status = stat_or_none(directory, name) if in_use else os.lstat(name, dir_fd=directory)
        if status is not None:
            yield Entry(os.path.join(path, name), directory, name, status)


def walk(root: int, *, in_use: bool = False) -> Iterator[Entry]:
    """What is below ``root``, a directory before what is in it; ``in_use``: see `entries`. Raises OSError."""
    stack = [b""]
    gone = (FileNotFoundError, NotADirectoryError) if in_use else ()
    while stack:
        path = stack.pop()
        with contextlib.suppress(*gone), opened_at(root, path) as directory:
            for entry in entries(directory, path, in_use=in_use):
                yield entry
                if entry.is_directory:
                    stack.append(entry.path)


def names(directory: int) -> List[bytes]:
    """What is in an open directory."""
    return [os.fsencode(name) for name in os.listdir(directory)]


def reach(directory: int, name: bytes) -> bytes:
    """A path to an entry of an open directory, for calls that take no descriptor of one."""
    return b"/proc/self/fd/%d/" % directory + name


def stat_or_none(directory: int, name: bytes) -> Optional[os.stat_result]:
    """lstat(2) of an entry; None where there is none."""
    try:
        return os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None


def attribute(where: Union[int, bytes], name: str) -> Optional[bytes]:
    """An extended attribute of what is open, or of what a path leads to, itself; None where it has none."""
    try:
        return os.getxattr(where, name) if isinstance(where, int) else os.getxattr(where, name, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return None


@contextlib.contextmanager
def opened_at(root: int, path: bytes) -> Iterator[int]:
    """The directory ``path`` beneath ``root``; empty: itself."""
    descriptor = open_beneath(root, path, OPEN) if path else os.dup(root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def unescape(target: Union[int, bytes], source: Union[int, bytes]) -> None:
    """Attributes ``trusted.overlay.x`` that were set through the overlay get that name again; of what is its own source, the
    other one goes."""
    for text in _listed(source):
        name = os.fsencode(text)
        if not name.startswith(_ESCAPED):
            continue
        value = attribute(source, text)
        if isinstance(target, int):
            os.setxattr(target, PREFIX + name[len(_ESCAPED) :], value or b"")
        else:
            os.setxattr(target, PREFIX + name[len(_ESCAPED) :], value or b"", follow_symlinks=False)
            os.removexattr(target, name, follow_symlinks=False)


def _listed(where: Union[int, bytes]) -> List[str]:
    return os.listxattr(where) if isinstance(where, int) else os.listxattr(where, follow_symlinks=False)
