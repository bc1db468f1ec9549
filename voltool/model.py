"""Frozen value types that the parts of voltool pass to each other.

Names and paths are ``bytes``: Linux names need not be UTF-8. Times are integers of nanoseconds since the epoch (UTC).
Ids are text: volume UUIDs and dump ids in hex, state ids as 64 hex digits. Part of what is shipped to servers.
"""

from __future__ import annotations

import enum
from typing import Optional, Tuple

from voltool.frozen import dataclass

#: The object number of a volume's root directory; 0 never names an object.
ROOT_OBJECT = 1


class Consistency(enum.Enum):
    """How the image that was dumped relates to the volume's users."""

    SNAPSHOT = "snapshot"
    LOCKED = "locked"
    LIVE = "live"


@dataclass(frozen=True)
class Epoch:
    """Who is the volume's home: the higher ``number`` wins; same number, other ``token``: a split."""

    number: int
    token: str
    host: str


@dataclass(frozen=True)
class Hooks:
    """The user's own programs around a job: argument lists, empty for none, run on the volume's host (``*_online``: on its new
    home). Each may take ``timeout`` seconds."""

    before_clone: Tuple[str, ...] = ()
    after_clone: Tuple[str, ...] = ()
    before_lock: Tuple[str, ...] = ()
    after_unlock: Tuple[str, ...] = ()
    before_online: Tuple[str, ...] = ()
    after_online: Tuple[str, ...] = ()
    timeout: int = 60


NO_HOOKS = Hooks()


@dataclass(frozen=True)
class VolumeRecord:
    """What a host knows durably of a volume that lives on it. ``path`` is absolute and free of symlinks."""

    uuid: str
    name: str
    path: bytes
    driver: str
    epoch: Epoch
    sequence: int
    excludes: Tuple[bytes, ...] = ()
    created_ns: int = 0


@dataclass(frozen=True)
class KnownVolume:
    """A volume as the catalog remembers it. ``host`` as the user wrote it: a name of ~/.ssh/config, an address, ``local``.

    ``machine_id`` and ``hostname`` say which machine ``local`` is (empty for other hosts, and where nobody knows).
    """

    uuid: str
    name: str
    host: str
    path: bytes
    driver: str
    excludes: Tuple[bytes, ...] = ()
    hostname: str = ""
    machine_id: str = ""


@dataclass(frozen=True)
class DumpHeader:
    """What the first frame of a dump says. See docs/dump-format.md for each field."""

    dump_id: str
    volume_uuid: str
    volume_name: str
    level: int
    sequence: int
    epoch: Epoch
    clone_time_ns: int
    boot_id: str
    host: str
    driver: str
    consistency: Consistency
    source_path: bytes
    base_state_id: Optional[str] = None
    base_dump_id: Optional[str] = None
    excludes: Tuple[bytes, ...] = ()
    hash_algorithm: str = "sha256-tree"
    tool_version: str = ""
    machine_id: str = ""


@dataclass(frozen=True)
class DumpTotals:
    """What the trailer of a dump says, known only when everything was read.

    ``entries`` and ``objects`` count the complete state (not only what changed); ``data_bytes`` are bytes of file
    content in this dump before compression; ``stored_bytes`` is the length of the whole dump.
    """

    state_id: str
    entries: int
    objects: int
    data_bytes: int
    stored_bytes: int


class Problem(enum.Enum):
    """Why the content of a file is not in a dump as it stood at one instant; LEFT: why a restore in place has not touched
    it."""

    UNREADABLE = "unreadable"
    UNSTABLE = "unstable"
    LEFT = "left"


@dataclass(frozen=True)
class FileProblem:
    """One file whose content is unknown or never settled; ``path`` is relative to the volume's root."""

    problem: Problem
    path: bytes
    why: str


@dataclass(frozen=True)
class CloneInfo:
    """A clone as its host tells of it. ``purpose`` is ``user`` (asked for with `voltool clone`, kept until dropped), ``dump``
    (the base of the next incremental dump; ``id`` is that dump's) or ``replica`` (what a replica has). ``time_ns`` is the host's
    clock."""

    id: str
    path: bytes
    time_ns: int
    consistency: Consistency
    purpose: str


@dataclass(frozen=True)
class DumpResult:
    """A finished dump as the agent reports it."""

    header: DumpHeader
    totals: DumpTotals
    problems: Tuple[FileProblem, ...] = ()


@dataclass(frozen=True)
class StoredDump:
    """A complete dump in a store."""

    header: DumpHeader
    totals: DumpTotals
    store: str
    file: str
    seconds: float = 0.0
    problems: Tuple[FileProblem, ...] = ()


#: Source: the volume is in service; so it is, and the copy elsewhere is to be thrown away; it is (perhaps) away from its
#: path; it lives elsewhere (the commit); and is published there, so that what is here is only the retired copy.
COPYING = "copying"
ABORTING = "aborting"
RETIRING = "retiring"
MOVED = "moved"
RETIRED = "retired"
#: Target: a copy arrives; it only waits for its name; it is the volume.
RECEIVING = "receiving"
PREPARED = "prepared"
PUBLISHED = "published"


@dataclass(frozen=True)
class Peer:
    """The other host of a move: as the user wrote it, its machine-id and host name, and the volume's path there."""

    host: str
    machine_id: str
    hostname: str
    path: bytes


@dataclass(frozen=True)
class SourceMove:
    """What the old home knows. ``root_inode`` is the volume's root, by which it is recognised wherever it stands;
    ``retired_path`` where it goes; ``by_entries``: the path is a mount point, so not the tree is renamed but its top entries.
    ``epoch`` and ``state_id`` are those of the switch, from RETIRING on. ``promoted``: it is no move, a replica took the
    volume's place at ``target``; ``aside``: paths that were written here after the state that was promoted, and are in the
    retired copy alone: the first of them, and how many there are (-1: nobody knows). ``lazy``: the new home fetches from the
    retired tree what it does not have yet; false again when it has told that it has everything."""

    move_id: str
    uuid: str
    name: str
    path: bytes
    target: Peer
    phase: str
    since: int
    root_inode: int = 0
    retired_path: bytes = b""
    epoch: Optional[Epoch] = None
    state_id: str = ""
    by_entries: bool = False
    promoted: bool = False
    aside: Tuple[bytes, ...] = ()
    aside_count: int = 0
    lazy: bool = False


@dataclass(frozen=True)
class TargetMove:
    """What the new home knows. ``sequence`` and ``excludes`` become the volume's; ``reserved``: an empty directory was made
    at ``path`` to keep the name; ``container``: what was made there for the volume to be put into (`agent.moving.container`).
    ``lazy``: it is in service, or will be, before its files have come; false again when all is there and in its place."""

    move_id: str
    uuid: str
    name: str
    path: bytes
    source: Peer
    phase: str
    since: int
    excludes: Tuple[bytes, ...] = ()
    epoch: Optional[Epoch] = None
    state_id: str = ""
    sequence: int = 0
    reserved: bool = False
    container: str = ""
    lazy: bool = False


@dataclass(frozen=True)
class Split:
    """Two homes of one volume with the same epoch number: ``mine`` is the epoch here, ``other`` that of ``home``. Both are
    read-only until the user chooses one of them, which gets a higher epoch. ``since`` in seconds since the epoch of clocks."""

    mine: Epoch
    other: Epoch
    home: Peer
    since: int


@dataclass(frozen=True)
class Heard:
    """A home has heard that the volume lives at ``home``, with the higher ``epoch``, and could not retire yet."""

    epoch: Epoch
    home: Peer


#: A replica: its first copy arrives; it is served; it is mounted and its files come when they are read, and in the background;
#: a lazy move's new home until everything is there; it becomes the volume's home.
FILLING = "filling"
SERVING = "serving"
LAZY = "lazy"
LAZY_HOME = "lazy home"
PROMOTING = "promoting"


@dataclass(frozen=True)
class ReplicaRecord:
    """What its host knows durably of a replica. ``path``: where it is served. ``home``: where the volume lived when it was last
    asked. ``state_id`` is what is served, with the ``sequence``, ``epoch`` and clone time (its home's clock) of that state;
    ``synced_ns`` (this host's clock): when it was swapped in. What begins with ``next``:
    what it becomes the home with (PROMOTING)."""

    replica_id: str
    uuid: str
    name: str
    path: bytes
    home: Peer
    phase: str
    since: int
    epoch: Optional[Epoch] = None
    state_id: str = ""
    sequence: int = 0
    clone_time_ns: int = 0
    synced_ns: int = 0
    next_epoch: Optional[Epoch] = None
    next_sequence: int = 0
    next_excludes: Tuple[bytes, ...] = ()


@dataclass(frozen=True)
class ReplicaBase:
    """What a volume's home keeps for a replica: the clone (``label``; empty: it was given up, and the next sync compares
    manifests) of the state ``state_id``."""

    replica_id: str
    uuid: str
    replica: Peer
    state_id: str
    sequence: int
    clone_time_ns: int
    label: str = ""


@dataclass(frozen=True)
class KnownReplica:
    """A replica as the catalog remembers it. ``role``: ``replica``, or ``former``: a home that was replaced by force and has
    not heard of it; ``epoch`` is then the number of the one that replaced it. The rest is what was seen last:
    ``checked_ns`` by our clock (0: never), ``sequence`` and ``clone_time_ns`` of the state that was served then,
    ``home_sequence`` of the volume; ``phase`` its host's word; ``fault``: why it could not be brought up to date then."""

    replica_id: str
    volume_uuid: str
    host: str
    path: bytes
    role: str = "replica"
    phase: str = FILLING
    sequence: int = 0
    clone_time_ns: int = 0
    home_sequence: int = 0
    checked_ns: int = 0
    missing_bytes: int = 0
    fault: str = ""
    epoch: int = 0
