"""How a worker opens a regular file, what it reads beside the content, and whether the reading was settled. Ships to
servers.

*Settled* (live trees): the lease test succeeds just before the read, the stamp is equal after it, and the ctime is older
than that moment by more than a tick. Only what is settled may compare as unchanged next time.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import time
from typing import Dict, NamedTuple, Optional, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.frozen import dataclass
from voltool.inodes import FlagReader
from voltool.leases import lease_test
from voltool.origins import Origins, original
from voltool.tree.stamps import FROZEN, SECOND, SETTLED, SHARED, SIZE, encode_stamp
from voltool.tree.walk import OPEN_DIRECTORY, TICK_NS, read_xattrs

_OPEN_ANY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
OPEN_QUIET = _OPEN_ANY | os.O_NOATIME
#: In a frozen image an entry whose ctime is younger than this before the clone may still lack data that was on its way.
FRESH_NS = 60 * SECOND

#: How a file's reading ended.
READ, VANISHED, UNREADABLE, UNSTABLE = 0, 1, 2, 3


#: Descriptors of directories kept open by a worker, where the limit of the process allows as many.
_CACHED_DIRECTORIES = 4096
_SPARE_DESCRIPTORS = 256


def _raise_descriptor_limit() -> int:
    """Ask for as many descriptors as we may have; how many directories can be kept open."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else _CACHED_DIRECTORIES + _SPARE_DESCRIPTORS
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(16, min(_CACHED_DIRECTORIES, limit - _SPARE_DESCRIPTORS))


@dataclass(frozen=True)
class CaptureSettings:
    """What all workers share. ``clone_time_ns`` matters for frozen images; ``key`` keys the block hashes; ``origins`` are
    those of a clone whose inodes are its own."""

    root_fd: int
    live: bool
    clone_time_ns: int
    codec: int
    key: bytes
    leases: bool
    blocks: bytes
    origins: Optional[Origins] = None


class Opened(NamedTuple):
    """An open file: its status at that moment, and what the lease test said (None: not tested, or it says nothing)."""

    descriptor: int
    status: os.stat_result
    lease: Optional[bool]
    opened_ns: int


class Attributes(NamedTuple):
    """What is read through the descriptor after the content; ``status`` last of all."""

    flags: int
    project: int
    xattrs: bytes
    status: os.stat_result


class Opener:
    """Opens files of one tree; caches directories' descriptors."""

    def __init__(self, settings: CaptureSettings) -> None:
        self.settings = settings
        self._directories: Dict[bytes, int] = {}
        self._room = _raise_descriptor_limit()
        self._flags = FlagReader()
        self._device = os.fstat(settings.root_fd).st_dev

    def open(self, directory_fd: int, name: bytes, inode: int) -> Opened:
        """Open ``name``, which was ``inode`` when it was scanned. Raises OSError; FileNotFoundError also for what is no
        regular file any more."""
        try:
            descriptor = os.open(name, OPEN_QUIET, dir_fd=directory_fd)
        except PermissionError:
            descriptor = os.open(name, _OPEN_ANY, dir_fd=directory_fd)
        settings = self.settings
        lease = lease_test(descriptor) if settings.live and settings.leases else None
        opened_ns = time.time_ns() if settings.live else settings.clone_time_ns
        try:
            status = original(settings.origins, os.fstat(descriptor))
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError
        except OSError:
            os.close(descriptor)
            raise
        if status.st_ino != inode:
            lease = None  # replaced by another file since the scan: its content counts, but nothing is settled
        return Opened(descriptor, status, lease, opened_ns)

    def judge(self, opened: Opened, after: bytes) -> Tuple[bool, int]:
        """After the read: whether it was settled, and READ or UNSTABLE."""
        age = opened.opened_ns - opened.status.st_ctime_ns
        if not self.settings.live:
            return self.frozen_settled(opened.status), READ
        still = encode_stamp(opened.status) == after
        if opened.lease is None:
            return False, READ if still else UNSTABLE
        settled = still and opened.lease and age > TICK_NS
        if settled or (still and opened.lease):
            return settled, READ
        return False, UNSTABLE

    def frozen_settled(self, status: os.stat_result) -> bool:
        """Whether a file of a frozen image was at rest when that was made."""
        return is_settled_in_clone(
            self.settings.origins, self.settings.clone_time_ns, status.st_ino, status.st_ctime_ns
        )

    def directory(self, path: bytes) -> int:
        """A descriptor of a directory, cached; raises OSError."""
        descriptor = self._directories.get(path)
        if descriptor is None:
            if len(self._directories) >= self._room:
                os.close(self._directories.pop(next(iter(self._directories))))
            root = self.settings.root_fd
            descriptor = open_beneath(root, path, OPEN_DIRECTORY) if path else os.dup(root)
            self._directories[path] = descriptor
        return descriptor

    def attributes(self, descriptor: int) -> Attributes:
        """Everything but the content of an open file. Raises OSError."""
        flags, project = self._flags.read(descriptor, self._device)
        xattrs = read_xattrs(descriptor)
        return Attributes(flags, project, xattrs, original(self.settings.origins, os.fstat(descriptor)))


def flags_of(settings: CaptureSettings, *, settled: bool) -> int:
    """The flags of the home stamp of what was read whole. No file system knows what differs from a clone made file by file."""
    frozen = not settings.live and settings.origins is None
    return (SETTLED if settled else 0) | (FROZEN if frozen else 0)


def is_settled_in_clone(origins: Optional[Origins], clone_time_ns: int, inode: int, ctime_ns: int) -> bool:
    """Whether what has this inode number and ctime was at rest in a frozen image: who made a clone file by file has looked,
    of a snapshot only the time tells."""
    if origins is not None:
        return origins.settled(inode)
    return clone_time_ns - ctime_ns > FRESH_NS


def encode_file(
    number: int,
    stamp: bytes,
    size: int,
    flags: int,
    project: int,
    state: int,
    content: bytes,
    xattrs: bytes,
) -> bytes:
    """The object record of a regular file with that stamp; ``size`` is what was read of it."""
    shared = stamp[SHARED]
    if stamp[SIZE] != size.to_bytes(8, "big"):
        shared = shared[: SIZE.start] + size.to_bytes(8, "big") + shared[SIZE.stop :]
    return (
        number.to_bytes(8, "big")
        + shared
        + fmt.OBJECT_REST.pack(flags, project, state, content, 0, len(xattrs))
        + xattrs
    )


def reason_of(status: int) -> str:
    """What to tell of a file that ended with that status."""
    return "it was being written to while it was read" if status == UNSTABLE else ""
