"""Makes objects that are not directories, in the flat staging tree: content verified, links, attributes.

Runs in workers (and, for what is too large for one of them, in the coordinator). A path here is always
``dirs/<shard>/<directory object>/<name>`` in our own private staging, the name without a slash: nothing else can be
reached. Part of what is shipped to servers.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Iterable, List, Sequence, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import Extent, ObjectRecord
from voltool.errors import HostError, VoltoolError
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.attributes import SEALS, Attributes, no_space
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SHARD_BITS = 12
#: What a file system answers to an object that it cannot hold at all.
_CANNOT_HOLD = {
    errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EFBIG, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK,
    errno.EOVERFLOW, errno.EEXIST,
}  # fmt: skip
#: A DATA extent with its bytes, or a hole.
Piece = Tuple[Extent, memoryview]


def shard_path(directory: int) -> bytes:
    """Where the flat directories of some neighbouring numbers lie."""
    return b"dirs/%x" % (directory >> _SHARD_BITS)


def flat_path(directory: int) -> bytes:
    """Where a directory object stands until it is moved into its parent."""
    return b"dirs/%x/%x" % (directory >> _SHARD_BITS, directory)


def flat_directory(directory: int) -> bytes:
    """The same, to be opened: the root may be a link to where its tree stands (`staging.Way.INSIDE`)."""
    return flat_path(directory) + b"/."


def translate(error: OSError, what: str) -> VoltoolError:
    """The error a person sees for a failed system call of apply."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return no_space(what)
    return HostError(f"cannot write {what}", why=error.strerror or str(error), remedy="see the host's kernel log")


class FileMaker:
    """Makes files, links and special files under the staging directory ``staging`` (a descriptor)."""

    def __init__(self, staging: int, attributes: Attributes, losses: Losses, *, again: bool) -> None:
        self._staging = staging
        self._attributes = attributes
        self._losses = losses
        self._again = again
        self._directory = -1
        self._prefix = b""

    def path(self, name: Name) -> bytes:
        """The flat path of a name."""
        if name.directory != self._directory:
            self._directory = name.directory
            self._prefix = flat_path(name.directory) + b"/"
        return self._prefix + name.name

    # ------------------------------------------------------------------------------------------------ regular files

    def small(self, record: ObjectRecord, names: Sequence[Name], pieces: Sequence[Piece]) -> None:
        """A whole file of at most CHUNK_SIZE bytes, its content checked before anything is written."""
        data, parts = _assemble(record, pieces)
        if fmt.hash_small(data) != record.content:
            raise fmt.damaged(f"the content of object {record.number} does not match its hash")
        descriptor = self.create(record, names, record.mode & 0o777)
        if descriptor < 0:
            return
        try:
            if len(parts) != 1 or len(parts[0][1]) != record.size:
                os.ftruncate(descriptor, record.size)
            for offset, part in parts:
                write_at(descriptor, part, offset)
            self.complete(descriptor, record, names, has_mode=True)
        except OSError as error:
            raise translate(error, "a file") from error
        finally:
            os.close(descriptor)
        self._verity(record, names)

    def create(self, record: ObjectRecord, names: Sequence[Name], mode: int = 0o600) -> int:
        """An empty file under the first of its names, open for writing; -1 where the target cannot hold it."""
        path = self.path(names[0])
        if self._again and len(names) > 1:
            for name in names:
                self.remove(self.path(name))
        descriptor = self._open_new(path, record.number, mode, again=self._again)
        if descriptor >= 0:
            self._attributes.early(descriptor, record)
        return descriptor

    def _open_new(self, path: bytes, number: int, mode: int, *, again: bool) -> int:
        """What an earlier run left under its name is removed where there is something: mostly there is not."""
        try:
            return os.open(path, _CREATE, mode, dir_fd=self._staging)
        except OSError as error:
            if not again or error.errno != errno.EEXIST:
                self._cannot(error, number, "a file")
                return -1
        self.remove(path)
        return self._open_new(path, number, mode, again=False)

    def complete(self, descriptor: int, record: ObjectRecord, names: Sequence[Name], *, has_mode: bool = False) -> None:
        """Links and attributes of a file whose data is there. In the root the seals wait until it is published."""
        if len(names) > 1:
            self._link(record, names)
        seal = not (record.flags & SEALS and any(name.directory == ROOT_OBJECT for name in names))
        seal = seal and not record.state & fmt.STATE_VERITY
        self._attributes.finish(descriptor, record, seal=seal, has_mode=has_mode)

    def _verity(self, record: ObjectRecord, names: Sequence[Name]) -> None:
        if not record.state & fmt.STATE_VERITY:
            return
        descriptor = os.open(self.path(names[0]), _READ, dir_fd=self._staging)
        try:
            self._attributes.verity(descriptor, record)
            if not any(name.directory == ROOT_OBJECT for name in names):
                self._attributes.seal(descriptor, record)
        finally:
            os.close(descriptor)

    def _link(self, record: ObjectRecord, names: Sequence[Name]) -> None:
        first = self.path(names[0])
        for name in names[1:]:
            self._link_one(record, first, self.path(name))

    def _link_one(self, record: ObjectRecord, first: bytes, other: bytes) -> None:
        staging = self._staging
        try:
            os.link(first, other, src_dir_fd=staging, dst_dir_fd=staging, follow_symlinks=False)
        except OSError as error:
            self._cannot(error, record.number, "a hard link")

    # ------------------------------------------------------------------------------------------------- large files

    def open_again(self, names: Sequence[Name]) -> int:
        """A file made before, open for reading and writing. Raises OSError."""
        return os.open(self.path(names[0]), _REOPEN, dir_fd=self._staging)

    def finish_large(
        self, descriptor: int, record: ObjectRecord, names: Sequence[Name], runs: Sequence[Tuple[int, bytes]]
    ) -> None:
        """Size, root hash, links and attributes of a large file whose chunks in ``runs`` were checked already."""
        os.ftruncate(descriptor, record.size)
        hashes = list(_with_gaps(runs, -(-record.size // fmt.CHUNK_SIZE)))
        for first, count, known in hashes:
            if not known and not _is_zero(descriptor, first, count, record.size):
                raise fmt.damaged(f"object {record.number} has data that no hash covers")
        if fmt.content_hash(record.size, _root_runs(hashes)) != record.content:
            raise fmt.damaged(f"the content of object {record.number} does not match its hash")
        self.complete(descriptor, record, names)

    def end_large(self, record: ObjectRecord, names: Sequence[Name]) -> None:
        """After the last writer has closed it: fs-verity."""
        self._verity(record, names)

    # ----------------------------------------------------------------------------------------------- special files

    def special(self, record: ObjectRecord, names: Sequence[Name]) -> None:
        """A symlink, device, fifo or socket with all its names and attributes."""
        path = self.path(names[0])
        if self._again:
            for name in names:
                self.remove(self.path(name))
        if record.state & fmt.STATE_UNKNOWN:  # nothing is known but its type: there is nothing to make it of
            if not record.state & fmt.STATE_VANISHED:
                self._losses.unread(record.number)
            return
        try:
            if stat.S_ISLNK(record.mode):
                os.symlink(record.target, path, dir_fd=self._staging)
            else:
                os.mknod(path, stat.S_IFMT(record.mode) | 0o600, record.size, dir_fd=self._staging)
        except OSError as error:
            self._cannot(error, record.number, kind_of(record.mode))
            return
        try:
            self._link(record, names)
            self._attributes.finish_at(b"/proc/self/fd/%d/" % self._staging, self._staging, path, record)
        except OSError as error:
            raise translate(error, kind_of(record.mode)) from error

    def remove(self, path: bytes) -> None:
        """Remove what an interrupted restore left under this path, sealed or not."""
        try:
            os.unlink(path, dir_fd=self._staging)
        except FileNotFoundError:
            return
        except PermissionError:
            descriptor = os.open(path, _READ, dir_fd=self._staging)
            try:
                inodes.set_flags(descriptor, 0, SEALS)
            finally:
                os.close(descriptor)
            os.unlink(path, dir_fd=self._staging)

    def _cannot(self, error: OSError, number: int, what: str) -> None:
        if error.errno not in _CANNOT_HOLD:
            raise translate(error, what) from error
        self._losses.object(number, f"the target cannot hold {what}: {error.strerror}")


def kind_of(mode: int) -> str:
    """What an object is, in words."""
    return {
        stat.S_IFLNK: "a symlink", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory",
    }.get(stat.S_IFMT(mode), "a file")  # fmt: skip


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """All of ``data`` at ``offset``. Raises OSError."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)


def _assemble(record: ObjectRecord, pieces: Sequence[Piece]) -> tuple[bytes, List[Tuple[int, memoryview]]]:
    """The logical bytes of a small file, for its hash, and the parts that are data."""
    if len(pieces) == 1:
        (extent, part) = pieces[0]
        if extent.offset == 0 and extent.length == record.size and extent.flags == fmt.EXTENT_FRESH and part:
            return part, [(0, part)]  # type: ignore[return-value]
    if record.size > fmt.CHUNK_SIZE:
        raise fmt.damaged("a large file comes as a small one")
    if pieces and not pieces[0][0].flags & fmt.EXTENT_FRESH:
        raise fmt.damaged("a change of a file comes without the file")
    data = bytearray(record.size)
    parts = []
    for extent, part in pieces:
        if extent.offset + extent.length > record.size:
            raise fmt.damaged("a file has more bytes than its size says")
        if extent.kind == fmt.EXTENT_DATA:
            data[extent.offset : extent.offset + extent.length] = part
            parts.append((extent.offset, part))
    return bytes(data), parts


def check_chunks(descriptor: int, first: int, hashes: bytes, size: int) -> bool:
    """Whether the chunks ``first...`` of a file of ``size`` bytes have these hashes (32 bytes each)."""
    for index in range(len(hashes) // 32):
        at = (first + index) * fmt.CHUNK_SIZE
        length = min(fmt.CHUNK_SIZE, size - at)
        if length <= 0:
            return False
        data = os.pread(descriptor, length, at)
        view = memoryview(data.ljust(length, b"\0"))
        expected = hashes[index * 32 : index * 32 + 32]
        if expected == fmt.ZERO_CHUNK:
            if not fmt.is_zero(view):
                return False
        elif fmt.chunk_hash(fmt.block_hashes(view)) != expected or fmt.is_zero(view):
            return False
    return True


def _with_gaps(runs: Sequence[Tuple[int, bytes]], count: int) -> Iterable[Tuple[int, int, bytes]]:
    """(first chunk, how many, hashes) for all ``count`` chunks in order; hashes empty where no run is."""
    at = 0
    for first, hashes in runs:
        if first < at:
            raise fmt.damaged("the chunks of a file are not in order")
        if first > at:
            yield at, first - at, b""
        at = first + len(hashes) // 32
        yield first, at - first, hashes
    if at > count:
        raise fmt.damaged("a file has more chunks than its size says")
    if at < count:
        yield at, count - at, b""


def _root_runs(parts: Iterable[Tuple[int, int, bytes]]) -> Iterable[Tuple[bytes, int]]:
    for _first, count, hashes in parts:
        if not hashes:
            yield fmt.ZERO_CHUNK, count
        for at in range(0, len(hashes), 32):
            yield hashes[at : at + 32], 1


def _is_zero(descriptor: int, first: int, count: int, size: int) -> bool:
    """Whether chunks hold zeros only; holes are not read (lseek(2), SEEK_DATA)."""
    at = first * fmt.CHUNK_SIZE
    end = min(size, (first + count) * fmt.CHUNK_SIZE)
    while at < end:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True
            raise
        data = os.pread(descriptor, min(fmt.CHUNK_SIZE, max(0, end - at)), at)
        if not fmt.is_zero(memoryview(data)):
            return False
        at += len(data) or 1
    return True
