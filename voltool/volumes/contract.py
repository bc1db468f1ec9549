"""The driver contract: how a file system clones, detects changes and publishes. tests/volumes/test_conformance.py
holds every driver to it. A driver knows nothing of dumps, manifests or the wire. Part of what is shipped to servers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Callable, FrozenSet, Iterator, List, Optional, Protocol, Tuple

from voltool.frozen import dataclass
from voltool.model import Consistency, VolumeRecord
from voltool.origins import Origins


@dataclass(frozen=True)
class Clone:
    """A frozen image of a volume, or (directory driver) the live tree itself.

    ``label`` is unique for the volume and names what the clone is for (the dump id that made it); ``path`` is where it
    stands; ``uuid`` is the file system's own identity of it (btrfs: the snapshot's UUID), empty where there is none.
    ``time_ns`` is the host's clock just before it was made: what has a ctime older than that by more than a tick, and is
    settled, is in it. ``live``: nothing is frozen. A clone made file by file is not live, though its ``consistency`` may be.
    """

    label: str
    path: bytes
    time_ns: int
    live: bool
    consistency: Consistency
    uuid: str = ""


#: Of an inode number, whether its bytes are the same.
SameBytes = Callable[[int], bool]
Telling = AbstractContextManager[Optional[SameBytes]]
#: Whoever reads all files sets all access times, and what file systems have to say of each takes long.
MOST_TIMED = 2_000


@dataclass(frozen=True)
class Changes:
    """What differs between two clones: inode numbers (in the newer clone) with one current path each.

    Complete: an inode that is not listed has the content, attributes and (for a directory) the listing it had in the
    base. Deleted inodes are not listed; the directories they were in are. ``path`` is relative to the root, ``b""`` for
    the root itself.

    ``timed``: those of them of which the file system says no more than that their times were set: bytes and names are as in
    the base, and so is everything else but what it takes for a change of times (flags, room that is reserved).
    """

    inodes: Tuple[Tuple[int, bytes], ...]
    timed: FrozenSet[int] = frozenset()


@dataclass(frozen=True)
class ByteRange:
    """``length`` bytes at ``offset``."""

    offset: int
    length: int


class Driver(Protocol):
    """One kind of volume. All paths are absolute bytes. Every method raises `HostError`, `RefusedError` or
    `SpaceError` with a remedy; an OSError never escapes."""

    name: str
    #: Whether an older clone may tell what changed since; else none is kept as the base of later dumps.
    compares: bool

    def adopt(self, path: bytes) -> None:
        """Check that ``path`` can be a volume of this driver (a subvolume, no nested subvolumes, rights). Touches
        nothing. Idempotent."""

    def prepare(self, volume: VolumeRecord) -> None:
        """Do beforehand what would make the next `clone` slow: to be called before a lock, or a hook that stops the
        volume's users. It is only a help: repeatable, and left undone where nothing is to be gained."""

    def clone(self, volume: VolumeRecord, label: str) -> Clone:
        """Make the clone ``label``: ``syncfs`` first, then one image, atomic or as its ``consistency`` says. Not
        idempotent: a clone of that label must not exist (``drop`` it first). After a crash the clone exists whole or not
        at all."""

    def find(self, volume: VolumeRecord, label: str) -> Optional[Clone]:
        """The existing clone ``label``, or None. What it lacks for certain (its time) comes from the record kept beside
        it. Read-only."""

    def clones(self, volume: VolumeRecord) -> List[Clone]:
        """All clones of the volume on this host. Read-only."""

    def open(self, clone: Clone) -> int:
        """A directory file descriptor of the clone's root; the caller closes it."""

    def origins(self, clone: Clone) -> Optional[Origins]:
        """What the clone's inodes were in the volume; None: its inodes are the volume's own. Read-only."""

    def drop(self, volume: VolumeRecord, clone: Clone) -> None:
        """Delete the clone. Idempotent. The live tree (directory driver) is never touched."""

    def changes(
        self, volume: VolumeRecord, base: Clone, clone: Clone, most_timed: int = MOST_TIMED
    ) -> Optional[Changes]:
        """What changed, where the file system knows; None: scan and compare. Read-only, retryable. Never incomplete: an
        unknown or unexpected record means None. The base must be ours (checked by its UUID), else None. Where of more than
        ``most_timed`` objects the times were set alone, to compare is quicker: None."""

    def changed_ranges(self, base: Clone, clone: Clone, path: bytes) -> Optional[List[ByteRange]]:
        """Which bytes of the regular file ``path`` (of the same inode of the volume in both) may differ; sorted, disjoint;
        None: compare. Also where `changes` knows nothing."""

    def path_of(self, clone: Clone, inode: int) -> Optional[bytes]:
        """A path of ``inode`` in the clone, relative to its root; None: it has none, or nobody knows. Read-only."""

    def same_bytes(self, base: Clone, clone: Clone) -> Telling:
        """While the context lasts: what tells for certain whether a regular file, by its inode number, has the same bytes in
        both clones, as far as its size is the same; where the file system knows without reading; None: it does not.
        Read-only. It raises OSError."""


class LeaseTest(Protocol):
    """Whether nobody has a file open for writing (fcntl F_SETLEASE, F_RDLCK)."""

    def __call__(self, descriptor: int) -> bool:
        """True only when it is certain; False also where leases do not work."""


def iterate_inodes(changes: Changes) -> Iterator[int]:
    """The inode numbers alone."""
    return (number for number, _path in changes.inodes)
