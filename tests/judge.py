"""Whether two trees are equal, judged by rsync and by a comparer of our own; neither uses any code of voltool.

rsync's dry run sees content, owners, modes, times, xattrs, ACLs and hard links; the comparer sees those again, and
what rsync does not: holes, inode flags, project ids, link groups of everything, paths beyond PATH_MAX, and files too
large to be read byte by byte. Access and change times are never looked at.

Sources: rsync(1) (FILTER RULES, ``--itemize-changes``), lseek(2) (SEEK_DATA), ioctl_iflags(2).
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from tests.torture import get_flags, get_project

#: What chattr(1) sets and both file systems should show; the rest (extents, inline data, index) is the kernel's own.
FLAGS = {
    "c": 0x4, "S": 0x8, "i": 0x10, "a": 0x20, "d": 0x40, "A": 0x80, "m": 0x400, "j": 0x4000, "D": 0x10000, "T": 0x20000,
    "C": 0x800000, "x": 0x2000000, "P": 0x20000000, "F": 0x40000000,
}  # fmt: skip
Tree = str | bytes | os.PathLike[str]
_BLOCK = 4096
_PIECE = 1 << 20
#: rsync is kept away from larger files and longer paths.
_RSYNC_FILE = 1 << 30
_RSYNC_PATH = 1500

#: Every aspect that ``ignore`` of `compare` can name; ``flags:LETTERS`` and ``xattrs:PREFIX`` narrow two of them.
ASPECTS = (
    "rsync", "type", "mode", "owner", "size", "mtime", "rdev", "target", "xattrs", "flags", "project", "links", "holes",
    "content",
)  # fmt: skip


def compare(a: Tree, b: Tree, *, ignore: Collection[str] = (), skip: Collection[bytes] = (b".voltool",)) -> list[str]:
    """What differs between the trees ``a`` and ``b``, one line each; empty: they are equal.

    ``ignore`` names aspects (`ASPECTS`; ``flags:Cj``, ``xattrs:security.``); ``skip`` are names left out at the top.
    """
    unknown = {aspect.partition(":")[0] for aspect in ignore} - set(ASPECTS)
    if unknown:
        raise ValueError(f"no such aspect: {sorted(unknown)}")
    comparison = _Comparison(os.path.abspath(os.fsencode(a)), os.path.abspath(os.fsencode(b)), set(ignore), set(skip))
    comparison.run()
    if "rsync" not in comparison.ignore:
        comparison.found += _rsync(comparison, comparison.a, comparison.b)
        comparison.found += _rsync(comparison, comparison.b, comparison.a)
    return comparison.found


@dataclass
class _Comparison:
    a: bytes
    b: bytes
    ignore: set[str]
    skip: set[bytes]
    found: list[str] = field(default_factory=list)
    #: Paths rsync must not look at.
    too_much: list[bytes] = field(default_factory=list)
    #: For each side: the first path of each inode with several links, and the group (first path) of each such path.
    first_paths: tuple[dict[tuple[int, int], bytes], dict[tuple[int, int], bytes]] = field(
        default_factory=lambda: ({}, {})
    )

    def differ(self, aspect: str, path: bytes, one: object, other: object) -> None:
        if aspect not in self.ignore and one != other:
            self.found.append(f"{aspect}: {os.fsdecode(path) or '.'!r}: {_shown(one)} != {_shown(other)}")

    def run(self) -> None:
        roots = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.a, self.b)]
        try:
            self._attributes(b"", roots[0], b".", roots[1], b".")
            self._directories(b"", roots[0], roots[1])
        finally:
            for root in roots:
                os.close(root)

    def _directories(self, path: bytes, one: int, other: int) -> None:
        names = [{os.fsencode(name) for name in os.listdir(directory)} for directory in (one, other)]
        if not path:
            names = [listed - self.skip for listed in names]
        self.found += [f"only in the first: {os.path.join(path, name)!r}" for name in sorted(names[0] - names[1])]
        self.found += [f"only in the second: {os.path.join(path, name)!r}" for name in sorted(names[1] - names[0])]
        for name in sorted(names[0] & names[1]):
            below = os.path.join(path, name)
            if self._attributes(below, one, name, other, name):
                children = [os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=d) for d in (one, other)]
                try:
                    self._directories(below, *children)
                finally:
                    for child in children:
                        os.close(child)

    def _attributes(self, path: bytes, one: int, name: bytes, other: int, other_name: bytes) -> bool:
        """Compare one object; whether it is a directory on both sides."""
        a = os.stat(name, dir_fd=one, follow_symlinks=False)
        b = os.stat(other_name, dir_fd=other, follow_symlinks=False)
        self.differ("type", path, stat.S_IFMT(a.st_mode), stat.S_IFMT(b.st_mode))
        if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
            return False
        self.differ("mode", path, oct(a.st_mode), oct(b.st_mode))
        self.differ("owner", path, (a.st_uid, a.st_gid), (b.st_uid, b.st_gid))
        self.differ("mtime", path, a.st_mtime_ns, b.st_mtime_ns)
        self.differ("xattrs", path, self._xattrs(one, name), self._xattrs(other, other_name))
        if not stat.S_ISDIR(a.st_mode):
            self._links(path, a, b)
        if stat.S_ISREG(a.st_mode) or stat.S_ISDIR(a.st_mode):
            self._opened(path, (one, name), (other, other_name), stat.S_ISREG(a.st_mode))
        elif stat.S_ISLNK(a.st_mode):
            self.differ("target", path, os.readlink(name, dir_fd=one), os.readlink(other_name, dir_fd=other))
        else:
            self.differ("rdev", path, a.st_rdev, b.st_rdev)
        if a.st_size > _RSYNC_FILE or len(path) > _RSYNC_PATH:
            self.too_much.append(path)
        return stat.S_ISDIR(a.st_mode)

    def ignored_xattrs(self) -> tuple[str, ...]:
        """Prefixes of names. XFS shows each ACL twice, the second time under a name of its own."""
        chosen = [aspect.partition(":")[2] for aspect in self.ignore if aspect.startswith("xattrs:")]
        return ("trusted.SGI_ACL_", *chosen)

    def _xattrs(self, directory: int, name: bytes) -> dict[str, bytes]:
        prefixes = self.ignored_xattrs()
        path = b"/proc/self/fd/%d/%s" % (directory, name)
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return {}
        return {
            name: os.getxattr(path, os.fsencode(name), follow_symlinks=False)
            for name in sorted(names)
            if not name.startswith(prefixes)
        }

    def _links(self, path: bytes, a: os.stat_result, b: os.stat_result) -> None:
        """Paths come in one order on both sides, so two link groups are equal when their first paths are."""
        groups = [
            known.setdefault((found.st_dev, found.st_ino), path) if found.st_nlink > 1 else path
            for known, found in zip(self.first_paths, (a, b), strict=True)
        ]
        self.differ("links", path, *groups)

    def _opened(self, path: bytes, a: tuple[int, bytes], b: tuple[int, bytes], regular: bool) -> None:
        descriptors = [os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME, dir_fd=d) for d, name in (a, b)]
        try:
            one, other = descriptors
            mask = sum(bit for letter, bit in FLAGS.items() if letter not in self._ignored_flags())
            self.differ("flags", path, _letters(one, mask), _letters(other, mask))
            self.differ("project", path, _project(one), _project(other))
            if regular:
                self._bytes(path, one, other)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _ignored_flags(self) -> str:
        return "".join(aspect.partition(":")[2] for aspect in self.ignore if aspect.startswith("flags:"))

    def _bytes(self, path: bytes, one: int, other: int) -> None:
        sizes = os.fstat(one).st_size, os.fstat(other).st_size
        self.differ("size", path, *sizes)
        if sizes[0] != sizes[1] or "content" in self.ignore:
            return
        maps = [list(_data_ranges(descriptor, sizes[0])) for descriptor in (one, other)]
        self.differ("holes", path, *maps)
        for start, end in _union(maps[0] + maps[1]):
            for at in range(start, end, _PIECE):
                length = min(_PIECE, end - at)
                if os.pread(one, length, at) != os.pread(other, length, at):
                    self.differ("content", path, f"differs within {length} bytes at {at}", None)
                    return


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "..."


def _letters(descriptor: int, mask: int) -> str:
    try:
        flags = get_flags(descriptor) & mask
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
        return ""
    return "".join(letter for letter, bit in FLAGS.items() if flags & bit)


def _project(descriptor: int) -> int:
    try:
        return get_project(descriptor)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
        return 0


def _data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The file's data as the file system sees it, rounded out to 4 KiB, neighbours joined."""
    start, end = 0, 0
    at = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        hole = os.lseek(descriptor, at, os.SEEK_HOLE)
        first, last = at // _BLOCK * _BLOCK, min(-(-hole // _BLOCK) * _BLOCK, size)
        if first > end or start == end:
            if end > start:
                yield start, end
            start = first
        end = last
        at = hole
    if end > start:
        yield start, end


def _union(ranges: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _rsync(comparison: _Comparison, source: bytes, target: bytes) -> list[str]:
    """What rsync would do to make ``target`` like ``source``."""
    ignore = comparison.ignore
    letters = {"H": "links", "p": "mode", "g": "owner", "o": "owner", "t": "mtime", "X": "xattrs", "A": "xattrs"}
    options = "-rlDin" + "".join(letter for letter, aspect in letters.items() if aspect not in ignore)
    excluded = [b"/" + name for name in comparison.skip] + [_pattern(path) for path in comparison.too_much]
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(pattern + b"\0" for pattern in excluded))
        file.flush()
        command = ["rsync", options, "--checksum", "--delete", "--numeric-ids", "--modify-window=-1", "--from0"]
        command += [f"--exclude-from={file.name}", "--filter=-x system.*"]
        command += [f"--filter=-x {prefix}*" for prefix in comparison.ignored_xattrs()]
        done = subprocess.run([*command, source + b"/", target + b"/"], capture_output=True, check=False)
    lines = done.stdout.split(b"\n")
    found = [f"rsync: {os.fsdecode(line)!r}" for line in lines if line]
    if done.returncode:
        found.append(f"rsync: exit {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return found


def _pattern(path: bytes) -> bytes:
    """The path as an rsync filter rule that matches it alone: a backslash escapes only where a wildcard is."""
    if any(wildcard in path for wildcard in (b"*", b"?", b"[")):
        for special in (b"\\", b"*", b"?", b"["):
            path = path.replace(special, b"\\" + special)
    return b"/" + path
