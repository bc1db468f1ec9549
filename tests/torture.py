"""A directory tree with everything Linux keeps, to be dumped and restored by tests.

``build`` makes what the file system at hand can hold and returns the names of the features it cannot; ``destroy``
removes the tree, immutable files included. Knows nothing of voltool, so that it can judge it.
Sources: ioctl_iflags(2), xattr(7), acl(5), capabilities(7), path_resolution(7), linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: The file whose apparent size is 1 TB; rsync would read all of it.
TERABYTE_FILE = b"sparse/one-terabyte"
TERABYTE = 1 << 40

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=IIIII8x")

IMMUTABLE, APPEND = 0x10, 0x20
#: Letter of chattr(1), FS_*_FL bit.
FILE_FLAGS = {"S": 0x8, "d": 0x40, "A": 0x80, "j": 0x4000, "C": 0x800000, "c": 0x4, "m": 0x400, "x": 0x2000000}
DIRECTORY_FLAGS = {**FILE_FLAGS, "D": 0x10000, "T": 0x20000, "P": 0x20000000, "F": 0x40000000}

_UNSUPPORTED = {
    errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ENOTTY, errno.ENAMETOOLONG, errno.ENOSPC, errno.E2BIG,
    errno.EFBIG, errno.EOVERFLOW, errno.EACCES,
}  # fmt: skip


class _Builder:
    """Makes the tree below ``root`` and remembers what could not be made."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.missing: list[str] = []
        #: Done after everything else, since each later change would undo them.
        self.times: list[tuple[bytes, int]] = []
        self.sealed: list[tuple[bytes, int, str]] = []
        self.random = random.Random(20240229)

    @contextmanager
    def feature(self, name: str) -> Iterator[None]:
        """What fails inside because the file system or our rights lack it is left out."""
        try:
            yield
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self.missing.append(name)

    def path(self, *parts: bytes) -> bytes:
        return os.path.join(self.root, *parts)

    def directory(self, *parts: bytes) -> bytes:
        path = self.path(*parts)
        os.makedirs(path, 0o755, exist_ok=True)
        return path

    def file(self, *parts: bytes, data: bytes = b"content\n", mode: int = 0o644) -> bytes:
        path = self.path(*parts)
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(path, mode)
        return path


def build(root: str | bytes | os.PathLike[str]) -> list[str]:
    """Make the tree in the directory ``root`` (made if missing, else empty); returns the features left out."""
    builder = _Builder(os.path.abspath(os.fsencode(root)))
    os.makedirs(builder.root, 0o755, exist_ok=True)
    for section in _SECTIONS:
        section(builder)
    _apply_times(builder)
    _seal(builder)
    return builder.missing


def destroy(root: str | bytes | os.PathLike[str]) -> None:
    """Remove the tree, clearing +i and +a on the way; a missing one is fine."""
    root = os.path.abspath(os.fsencode(root))
    if not os.path.isdir(root):
        return
    unseal(root)
    shutil.rmtree(root)


def unseal(root: str | bytes | os.PathLike[str]) -> None:
    """Clear +i and +a in the whole tree."""
    for _path, _names, _files, descriptor in os.fwalk(os.fsencode(root), follow_symlinks=False):
        _clear_flags(descriptor)
        for name in os.listdir(descriptor):
            _clear_flags_at(descriptor, os.fsencode(name))


def _clear_flags_at(directory: int, name: bytes) -> None:
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    try:
        _clear_flags(descriptor)
    finally:
        os.close(descriptor)


def _clear_flags(descriptor: int) -> None:
    try:
        flags = get_flags(descriptor)
        if flags & (IMMUTABLE | APPEND):
            set_flags(descriptor, flags & ~(IMMUTABLE | APPEND))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def get_flags(descriptor: int) -> int:
    """FS_IOC_GETFLAGS."""
    return int(struct.unpack("=i", fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, struct.pack("=i", 0)))[0])


def set_flags(descriptor: int, flags: int) -> None:
    """FS_IOC_SETFLAGS."""
    fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, struct.pack("=i", flags))


def get_project(descriptor: int) -> int:
    """The project id (FS_IOC_FSGETXATTR)."""
    return int(_FSXATTR.unpack(fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size)))[3])


def set_project(descriptor: int, project: int) -> None:
    """Set the project id."""
    fields = list(_FSXATTR.unpack(fcntl.ioctl(descriptor, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))))
    fields[3] = project
    fcntl.ioctl(descriptor, FS_IOC_FSSETXATTR, _FSXATTR.pack(*fields))


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The xattr form of an ACL of (tag, permissions, id): 1 owner, 2 user, 4 group owner, 8 group, 16 mask, 32 other."""
    none = 0xFFFFFFFF
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, permissions, number if tag in (2, 8) else none) for tag, permissions, number in entries
    )


def capability(permitted: int) -> bytes:
    """The xattr form of file capabilities, revision 2, effective."""
    return struct.pack("<IIIII", 0x02000001, permitted & 0xFFFFFFFF, 0, permitted >> 32, 0)


def _types(builder: _Builder) -> None:
    base = builder.directory(b"types")
    os.mkfifo(os.path.join(base, b"fifo"), 0o640)
    with builder.feature("sockets"):
        os.mknod(os.path.join(base, b"socket"), stat.S_IFSOCK | 0o755)
    for name, kind, major, minor in (
        (b"null", stat.S_IFCHR, 1, 3),
        (b"loop", stat.S_IFBLK, 7, 99),
        (b"whiteout", stat.S_IFCHR, 0, 0),
        (b"large-numbers", stat.S_IFBLK, 4095, 1048575),
    ):
        with builder.feature("devices" if major < 256 else "device numbers beyond 255"):
            os.mknod(os.path.join(base, name), kind | 0o660, os.makedev(major, minor))
    for name, target in (
        (b"relative", b"../names/x"), (b"absolute", b"/etc/passwd"), (b"dangling", b"nowhere"), (b"self", b"self"),
        (b"to-directory", b".."), (b"not-utf8", b"\xff\xfe\n\x01"), (b"thousand", b"t" * 1000),
    ):  # fmt: skip
        os.symlink(target, os.path.join(base, name))
        os.chown(os.path.join(base, name), 1234, 4321, follow_symlinks=False)
    with builder.feature("symlink targets of 4095 bytes"):
        os.symlink(b"l" * 4095, os.path.join(base, b"longest"))


def _names(builder: _Builder) -> None:
    names = [
        b"\xff\xfe\x80", b"caf\xe9", "żółw".encode(), b"new\nline", b"tab\tand\x01\x1b[31m", b"\n", b" ", b" lead", b"trail ",
        b"-rf", b"--", b"~", b"...", b"..a", b".hidden", b"back\\slash", b"a*b?[c]", b"'\"$(x)`", b"n" * 255,
        b"\xf0" * 255, b"%41", b"{}", b"lost+found",
    ]  # fmt: skip
    names += [bytes([value]) + b"byte" for value in range(1, 256) if value != ord("/")]
    for name in names:
        with builder.feature(f"the name {name!r}"):
            builder.file(b"names", name, data=name)
    for name in (b"dir\nectory", b"\xffdir", b"d" * 255):
        builder.file(b"names-of-directories", name, b"inside", data=name)


def _long_paths(builder: _Builder) -> None:
    """36 levels of 250 bytes: 9,000 bytes, more than twice PATH_MAX."""
    descriptor = os.open(builder.directory(b"long"), os.O_RDONLY | os.O_DIRECTORY)
    for level in range(36):
        name = b"%02d-" % level + b"p" * 247
        os.mkdir(name, 0o755, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    file = os.open(b"deep-file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=descriptor)
    os.write(file, b"beyond PATH_MAX\n")
    os.close(file)
    os.symlink(b"deep-file", b"deep-symlink", dir_fd=descriptor)
    os.link(b"deep-file", b"deep-link", src_dir_fd=descriptor, dst_dir_fd=descriptor)
    os.mkdir(b"deep-empty", dir_fd=descriptor)
    os.utime(b"deep-file", ns=(0, 987654321012345678), dir_fd=descriptor)
    os.close(descriptor)


def _sizes(builder: _Builder) -> None:
    mib = 1 << 20
    for size in (0, 1, 2, 4095, 4096, 4097, 65536, mib - 1, mib, mib + 1, 2 * mib, 3 * mib + 17):
        builder.file(b"sizes", b"random-%d" % size, data=builder.random.randbytes(size))
        builder.file(b"sizes", b"text-%d" % size, data=(b"all work and no play %d\n" % size * (size // 20 + 1))[:size])
    for size in (1, 4096, mib, 3 * mib):
        builder.file(b"sizes", b"zeros-%d" % size, data=bytes(size))


def _holes(builder: _Builder) -> None:
    mib = 1 << 20
    layouts: dict[bytes, tuple[int, list[tuple[int, int]]]] = {
        b"only-hole-small": (10_000, []),
        b"only-hole": (5 * mib, []),
        b"hole-first": (3 * mib, [(2 * mib, mib)]),
        b"hole-last": (3 * mib, [(0, 4096)]),
        b"hole-middle": (8 * mib, [(0, 65536), (6 * mib, 65536)]),
        b"hole-small": (65536, [(16384, 4096)]),
        b"ends-inside-a-block": (mib + 5, [(0, 100), (mib, 5)]),
        b"many": (4 * mib, [(at, 4096) for at in range(0, 4 * mib, 65536)]),
        b"across-chunks": (6 * mib, [(mib - 8192, 16384), (3 * mib - 4096, 8192)]),
    }
    for name, (size, parts) in layouts.items():
        _sparse(builder, builder.file(b"sparse", name, data=b""), size, parts)
    with builder.feature("preallocation"):
        path = builder.file(b"sparse", b"preallocated", data=b"")
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * mib)
            os.pwrite(file.fileno(), b"written", mib)
            os.fsync(file.fileno())  # what is data here depends on the page cache until it is written
    with builder.feature("sparse files of 1 TB"):
        with open(builder.path(b"sparse", b"only-hole"), "rb") as file:
            if os.lseek(file.fileno(), 0, os.SEEK_HOLE):
                raise OSError(errno.EOPNOTSUPP, "nobody can see where holes are")
        ends = [(0, 4096), (TERABYTE // 2 + 4096, 8192), (TERABYTE - 4096, 4096)]
        _sparse(builder, builder.file(TERABYTE_FILE, data=b""), TERABYTE, ends)


def _sparse(builder: _Builder, path: bytes, size: int, parts: list[tuple[int, int]]) -> None:
    with open(path, "r+b") as file:
        os.ftruncate(file.fileno(), size)
        for offset, length in parts:
            os.pwrite(file.fileno(), builder.random.randbytes(length), offset)


def _links(builder: _Builder) -> None:
    first, second, third = (builder.directory(b"links", name) for name in (b"a", b"b", b"c/d"))
    file = builder.file(b"links", b"a", b"file", data=b"three names\n")
    os.link(file, os.path.join(second, b"file"))
    os.link(file, os.path.join(third, b"another name"))
    large = builder.file(b"links", b"b", b"large", data=builder.random.randbytes((1 << 20) + 99))
    os.link(large, os.path.join(first, b"large"))
    empty = builder.file(b"links", b"a", b"empty", data=b"")
    os.link(empty, os.path.join(first, b"empty too"))
    os.symlink(b"file", os.path.join(first, b"symlink"))
    os.mkfifo(os.path.join(first, b"fifo"))
    for name in (b"symlink", b"fifo"):
        os.link(os.path.join(first, name), os.path.join(third, name), follow_symlinks=False)
    with builder.feature("devices"):
        os.mknod(os.path.join(second, b"device"), stat.S_IFCHR | 0o600, os.makedev(1, 5))
        os.link(os.path.join(second, b"device"), os.path.join(first, b"device"))
    # Two files of one content are not links of each other.
    builder.file(b"links", b"a", b"same content", data=b"twin\n")
    builder.file(b"links", b"b", b"same content", data=b"twin\n")


def _owners_and_modes(builder: _Builder) -> None:
    for mode in (0o000, 0o400, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777):
        path = builder.file(b"modes", b"file-%04o" % mode)
        with builder.feature("owners"):
            os.chown(path, 1000, 2000)
        os.chmod(path, mode)
        os.chmod(builder.directory(b"modes", b"directory-%04o" % mode), mode)
    for uid, gid in ((1, 2), (65534, 65534), (4294967294, 4294967294)):
        with builder.feature("owners"):
            os.chown(builder.file(b"owners", b"file-%d" % uid), uid, gid)
            os.chown(builder.directory(b"owners", b"directory-%d" % uid), uid, gid)
            os.mkfifo(builder.path(b"owners", b"fifo-%d" % uid))
            os.chown(builder.path(b"owners", b"fifo-%d" % uid), uid, gid)


def _xattrs(builder: _Builder) -> None:
    file, directory = builder.file(b"xattrs", b"file"), builder.directory(b"xattrs", b"directory")
    symlink, fifo = builder.path(b"xattrs", b"symlink"), builder.path(b"xattrs", b"fifo")
    os.symlink(b"file", symlink)
    os.mkfifo(fifo)
    for namespace in (b"user", b"trusted", b"security"):
        for path in (file, directory, symlink, fifo):
            if namespace == b"user" and path in (symlink, fifo):
                continue  # the kernel allows user.* on files and directories alone
            with builder.feature(f"{namespace.decode()} xattrs"):
                os.setxattr(path, namespace + b".voltool", b"\0binary\xff" + namespace, follow_symlinks=False)
    for name, value in ((b"user.empty", b""), (b"user.\xff\xfe", b"x"), (b"user." + b"n" * 250, b"long name")):
        with builder.feature("user xattrs"):
            os.setxattr(file, name, value)
    many = builder.file(b"xattrs", b"many", data=b"")
    with builder.feature("many xattrs"):
        for number in range(25):
            os.setxattr(many, b"user.number-%d" % number, b"v" * number)
    with builder.feature("xattrs of 60,000 bytes"):
        os.setxattr(builder.file(b"xattrs", b"large"), b"user.large", builder.random.randbytes(60_000))
    with builder.feature("capabilities"):
        path = builder.file(b"xattrs", b"ping", mode=0o755)
        os.chown(path, 1000, 1000)
        os.setxattr(path, b"security.capability", capability(1 << 13))


def _acls(builder: _Builder) -> None:
    access = acl((1, 7, 0), (2, 5, 1000), (4, 5, 0), (8, 6, 2000), (16, 7, 0), (32, 1, 0))
    default = acl((1, 7, 0), (2, 7, 1001), (4, 5, 0), (16, 7, 0), (32, 0, 0))
    with builder.feature("ACLs"):
        os.setxattr(builder.file(b"acls", b"file"), b"system.posix_acl_access", access)
        parent = builder.directory(b"acls", b"parent")
        os.setxattr(parent, b"system.posix_acl_default", default)
        builder.directory(b"acls", b"parent", b"inherits")
        builder.file(b"acls", b"parent", b"inherits", b"inherits")
        with open(os.path.join(parent, b"as created"), "wb"):
            pass
        # What does not have the ACL it would inherit: a restore must take it off again.
        plain = builder.file(b"acls", b"parent", b"plain", mode=0o644)
        if "system.posix_acl_access" not in os.listxattr(plain):
            raise OSError(errno.EOPNOTSUPP, "ACLs are kept, but not inherited")
        os.removexattr(plain, b"system.posix_acl_access")
        os.chmod(plain, 0o664)
        bare = builder.directory(b"acls", b"parent", b"bare")
        os.removexattr(bare, b"system.posix_acl_access")
        os.removexattr(bare, b"system.posix_acl_default")
        os.mkfifo(os.path.join(parent, b"fifo"))


def _directories(builder: _Builder) -> None:
    builder.directory(b"empty")
    builder.directory(b"nested", b"empty", b"of", b"empty", b"directories")
    for number in range(700):
        builder.file(b"crowd", b"%d" % number, data=b"%d" % number * (number % 7))


def _flags(builder: _Builder) -> None:
    for letter, bit in FILE_FLAGS.items():
        _flag(builder, builder.file(b"flags", b"file+" + letter.encode(), data=b""), bit, f"chattr +{letter} on files")
        with open(builder.path(b"flags", b"file+" + letter.encode()), "wb") as opened:
            opened.write(b"written under a flag\n" * 400)
    for letter, bit in DIRECTORY_FLAGS.items():
        path = builder.directory(b"flags", b"directory+" + letter.encode())
        _flag(builder, path, bit, f"chattr +{letter} on directories")
        builder.file(b"flags", b"directory+" + letter.encode(), b"Child", data=b"child\n")
    with builder.feature("project ids"):
        for path in (builder.file(b"flags", b"project"), builder.directory(b"flags", b"project-directory")):
            _with_descriptor(path, lambda descriptor: set_project(descriptor, 4711))
    for letter, bit in (("i", IMMUTABLE), ("a", APPEND)):
        file = builder.file(b"sealed", b"file+" + letter.encode(), data=b"sealed\n")
        os.link(file, builder.path(b"sealed", b"link+" + letter.encode()))
        builder.file(b"sealed", b"directory+" + letter.encode(), b"child")
        for path in (file, builder.path(b"sealed", b"directory+" + letter.encode())):
            builder.sealed.append((path, bit, f"chattr +{letter}"))


def _flag(builder: _Builder, path: bytes, bit: int, feature: str) -> None:
    def change(descriptor: int) -> None:
        set_flags(descriptor, get_flags(descriptor) | bit)
        if not get_flags(descriptor) & bit:
            raise OSError(errno.EOPNOTSUPP, "the file system took the flag and forgot it")

    with builder.feature(feature):
        _with_descriptor(path, change)


def _with_descriptor(path: bytes, use: Callable[[int], None]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        use(descriptor)
    finally:
        os.close(descriptor)


def _times(builder: _Builder) -> None:
    second = 10**9
    moments = {
        b"zero": 0, b"nanosecond": 1, b"now": 1_700_000_000_123_456_789, b"before-1970": -1,
        b"1969": -second - 999_999_999, b"1901": -(2**31) * second, b"2038": 2**31 * second + 5,
        b"2106": 2**32 * second + 123_456_789, b"2242": 2**33 * second - 1,
    }  # fmt: skip
    for name, moment in moments.items():
        paths = [builder.file(b"times", b"file-" + name), builder.directory(b"times", b"directory-" + name)]
        builder.file(b"times", b"directory-" + name, b"child")
        for kind in (b"symlink-", b"fifo-"):
            path = builder.path(b"times", kind + name)
            os.symlink(name, path) if kind == b"symlink-" else os.mkfifo(path)
            paths.append(path)
        builder.times.extend((path, moment) for path in paths)


def _apply_times(builder: _Builder) -> None:
    builder.times.append((builder.path(b"times"), 1_234_567_890_987_654_321))
    builder.times.append((builder.root, 1_111_111_111_111_111_111))
    for path, moment in builder.times:
        with builder.feature(f"the time {moment}"):
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
        if os.stat(path, follow_symlinks=False).st_mtime_ns != moment:
            builder.missing.append(f"the time {moment}")


def _seal(builder: _Builder) -> None:
    for path, bit, feature in builder.sealed:
        _flag(builder, path, bit, feature)


_SECTIONS: tuple[Callable[[_Builder], None], ...] = (
    _types, _names, _long_paths, _sizes, _holes, _links, _owners_and_modes, _xattrs, _acls, _directories, _flags, _times,
)  # fmt: skip
