"""File operations for property tests: what users' programs do to a tree, each chosen by a few small integers.

An operation that is not possible as things stand (no such file, a directory into itself, a file system without the
feature) does nothing, so that any sequence is a valid one and shrinks well.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.torture import FILE_FLAGS, acl, get_flags, set_flags

MIB = 1 << 20
NAMES = [b"a", b"b", b"c", b"d", b"\xff\n", b"long" * 60]
SIZES = [0, 1, 100, 4095, 4096, 4097, 70_000, MIB - 1, MIB, MIB + 1, MIB + 4096, 2 * MIB + 5, 3 * MIB, 5 * MIB + 3]
PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE, KEEP_SIZE = 0x02, 0x08, 0x10, 0x20, 0x01
FICLONE = 0x40049409
RENAME_EXCHANGE = 2
#: What a program may well be refused.
_REFUSALS = {
    errno.EPERM, errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EOPNOTSUPP,
    errno.ENODATA, errno.EXDEV, errno.ENOTTY, errno.EBUSY, errno.EMLINK, errno.EACCES, errno.ENOSPC,
}  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Operation:
    """The operation called ``kind``; ``a`` and ``b`` choose places, ``n`` everything else."""

    kind: str
    a: int
    b: int
    n: int


def operations() -> st.SearchStrategy[Operation]:
    """Any operation."""
    number = st.integers(0, 63)
    return st.builds(Operation, st.sampled_from(sorted(_KINDS)), number, number, st.integers(0, 1 << 16))


def apply(root: bytes, operation: Operation) -> None:
    """Carry it out below ``root``."""
    with contextlib.suppress(_Impossible):
        try:
            _KINDS[operation.kind](_Place(root, operation))
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise


class _Impossible(Exception):  # noqa: N818 - not an error
    pass


class _Place:
    """Where and with what one operation works."""

    def __init__(self, root: bytes, operation: Operation) -> None:
        self.root = root
        self.operation = operation
        self.n = operation.n
        self.random = random.Random(operation.n)

    def existing(self, which: int, wanted: Callable[[int], bool] = lambda _mode: True) -> bytes:
        """One of the paths there are, chosen by ``which``."""
        found = [path for path in _paths(self.root) if wanted(os.lstat(path).st_mode)]
        if not found:
            raise _Impossible
        return found[which % len(found)]

    def file(self) -> bytes:
        return self.existing(self.operation.a, stat.S_ISREG)

    def directory(self, which: int) -> bytes:
        directories = [self.root, *(path for path in _paths(self.root) if stat.S_ISDIR(os.lstat(path).st_mode))]
        return directories[which % len(directories)]

    def new(self) -> bytes:
        """A place for something new: free or not."""
        return os.path.join(self.directory(self.operation.b), NAMES[self.n % len(NAMES)])

    def free(self) -> bytes:
        path = self.new()
        if os.path.lexists(path):
            raise _Impossible
        return path

    def size(self) -> int:
        return SIZES[self.n % len(SIZES)]


def _paths(root: bytes) -> Iterable[bytes]:
    for directory, directories, files in os.walk(root):
        directories.sort()
        if directory == root and b".voltool" in directories:
            directories.remove(b".voltool")
        for name in sorted(directories + files):
            yield os.path.join(directory, name)


def _data(place: _Place, length: int) -> bytes:
    """Random or zero."""
    return bytes(length) if place.n % 7 == 3 else place.random.randbytes(length)


def create(place: _Place) -> None:
    with open(place.new(), "xb") as file:
        file.write(_data(place, place.size()))


def create_sparse(place: _Place) -> None:
    with open(place.new(), "xb") as file:
        for _ in range(place.n % 4):
            file.seek(place.random.randrange(0, 6 * MIB, 512))
            file.write(_data(place, place.random.choice([10, 4096, 100_000])))
        file.truncate(place.size() + file.tell())


def overwrite(place: _Place) -> None:
    """Blocks at random places of what is there."""
    path = place.file()
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(place.n % 5 + 1):
            file.seek(place.random.randrange(0, size, 4096) if size else 0)
            file.write(_data(place, min(4096, max(size - file.tell(), 1))))


def append(place: _Place) -> None:
    with open(place.file(), "ab") as file:
        file.write(_data(place, place.random.choice([1, 5000, 300_000])))


def rewrite(place: _Place) -> None:
    """O_TRUNC, then other content of perhaps the same size."""
    path = place.file()
    size = os.lstat(path).st_size if place.n % 2 else place.size()
    with open(path, "wb") as file:
        file.write(_data(place, size))


def truncate(place: _Place) -> None:
    os.truncate(place.file(), place.size())


def fallocate(place: _Place) -> None:
    modes = [PUNCH_HOLE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE]
    descriptor = os.open(place.file(), os.O_RDWR)
    try:
        size = os.fstat(descriptor).st_size
        offset = place.random.randrange(0, max(size, 1), 4096)
        length = place.random.choice([4096, 65536, MIB])
        _libc.fallocate(
            descriptor, modes[place.n % len(modes)], ctypes.c_long(offset), ctypes.c_long(min(length, size or 1))
        )
    finally:
        os.close(descriptor)


def replace_quietly(place: _Place) -> None:
    """Other content of the same size, and the modification time put back: only the ctime tells."""
    path = place.file()
    before = os.lstat(path)
    with open(path, "r+b") as file:
        file.write(place.random.randbytes(min(before.st_size, 5000)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copy_over(place: _Place) -> None:
    """What an editor does: a new file, renamed over the old one."""
    path = place.file()
    with open(path + b"~", "xb") as file:
        file.write(_data(place, place.size()))
    os.rename(path + b"~", path)


def reflink(place: _Place) -> None:
    source = place.file()
    with open(source, "rb") as old, open(place.free(), "xb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())


def mkdir(place: _Place) -> None:
    os.mkdir(place.new())


def symlink(place: _Place) -> None:
    os.symlink(place.random.choice([b"a", b"../b", b"/nowhere", b"\xfe" * 200]), place.new())


def mknod(place: _Place) -> None:
    kind, device = place.random.choice(
        [(stat.S_IFIFO, 0), (stat.S_IFSOCK, 0), (stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(7, 99))]
    )
    os.mknod(place.new(), kind | 0o640, device)


def link(place: _Place) -> None:
    os.link(place.existing(place.operation.a, lambda mode: not stat.S_ISDIR(mode)), place.free(), follow_symlinks=False)


def rename(place: _Place) -> None:
    os.rename(place.existing(place.operation.a), place.new())


def rename_over(place: _Place) -> None:
    os.rename(place.existing(place.operation.a), place.existing(place.operation.b))


def swap(place: _Place) -> None:
    """Two names exchanged in one step."""
    one, other = place.existing(place.operation.a), place.existing(place.operation.b)
    _libc.renameat2(-100, one, -100, other, RENAME_EXCHANGE)


def swap_directories(place: _Place) -> None:
    one, other = (place.existing(which, stat.S_ISDIR) for which in (place.operation.a, place.operation.b))
    if one == other or one.startswith(other + b"/") or other.startswith(one + b"/"):
        raise _Impossible
    os.rename(one, one + b".t")
    os.rename(other, one)
    os.rename(one + b".t", other)


def move_into_sibling(place: _Place) -> None:
    path = place.existing(place.operation.a)
    siblings = [
        sibling
        for name in sorted(os.listdir(os.path.dirname(path)))
        if stat.S_ISDIR(os.lstat(sibling := os.path.join(os.path.dirname(path), name)).st_mode)
        and sibling != path
        and name != b".voltool"
    ]
    if not siblings:
        raise _Impossible
    os.rename(path, os.path.join(siblings[place.operation.b % len(siblings)], os.path.basename(path)))


def become_a_directory(place: _Place) -> None:
    path = place.existing(place.operation.a, lambda mode: not stat.S_ISDIR(mode))
    os.unlink(path)
    os.mkdir(path)
    with open(os.path.join(path, b"inside"), "wb") as file:
        file.write(_data(place, 50))


def become_a_file(place: _Place) -> None:
    path = place.existing(place.operation.a, stat.S_ISDIR)
    shutil.rmtree(path)
    with open(path, "wb") as file:
        file.write(_data(place, place.size()))


def delete(place: _Place) -> None:
    path = place.existing(place.operation.a)
    shutil.rmtree(path) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)


def delete_and_create(place: _Place) -> None:
    """The inode number is likely to be given out again."""
    path = place.file()
    os.unlink(path)
    with open(path, "xb") as file:
        file.write(_data(place, place.size()))


def chmod(place: _Place) -> None:
    path = place.existing(place.operation.a, lambda mode: not stat.S_ISLNK(mode))
    os.chmod(path, place.random.choice([0o600, 0o755, 0o4755, 0o000, 0o2770, 0o1777]))


def chown(place: _Place) -> None:
    numbers = [0, 1000, 65534]
    os.chown(
        place.existing(place.operation.a),
        place.random.choice(numbers),
        place.random.choice(numbers),
        follow_symlinks=False,
    )


def utime(place: _Place) -> None:
    moment = place.random.choice([0, -1, 10**18, 2**33 * 10**9 + 5])
    os.utime(place.existing(place.operation.a), ns=(moment, moment), follow_symlinks=False)


def root_attributes(place: _Place) -> None:
    os.chmod(place.root, place.random.choice([0o700, 0o755]))
    os.chown(place.root, place.random.choice([0, 1000]), 0)
    os.setxattr(place.root, b"user.root", b"%d" % place.n)


def setxattr(place: _Place) -> None:
    path = place.existing(place.operation.a)
    name = place.random.choice([b"user.one", b"trusted.two", b"security.three"])
    os.setxattr(path, name, place.random.randbytes(place.n % 90), follow_symlinks=False)


def removexattr(place: _Place) -> None:
    path = place.existing(place.operation.a)
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(("user.", "trusted.", "security.three")):
            os.removexattr(path, name, follow_symlinks=False)


def setfacl(place: _Place) -> None:
    path = place.existing(place.operation.a, lambda mode: not stat.S_ISLNK(mode))
    kinds = [b"system.posix_acl_access", b"system.posix_acl_default"]
    os.setxattr(path, kinds[place.n % 2], acl((1, 7, 0), (2, 5, 1000), (4, 5, 0), (16, 7, 0), (32, place.n % 8, 0)))


def chattr(place: _Place) -> None:
    path = place.existing(place.operation.a, lambda mode: stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    bit = FILE_FLAGS[place.random.choice("dAS")]
    descriptor = os.open(path, os.O_RDONLY)
    try:
        set_flags(descriptor, get_flags(descriptor) ^ bit)
    finally:
        os.close(descriptor)


_KINDS: dict[str, Callable[[_Place], None]] = {
    function.__name__: function
    for function in (
        create, create_sparse, overwrite, append, rewrite, truncate, fallocate, replace_quietly, copy_over, reflink, mkdir,
        symlink, mknod, link, rename, rename_over, swap, swap_directories, move_into_sibling, become_a_directory,
        become_a_file, delete, delete_and_create, chmod, chown, utime, root_attributes, setxattr, removexattr, setfacl,
        chattr,
    )
}  # fmt: skip
