"""The messages of replicas: with the volume's home, and with the host of a replica. Those of lazy ones' sources: `wire.serving`.

Part of what is shipped to servers. `ReplicaOut` and `ReplicaIn` open sessions, as those of a move (`wire.moving`): answered at
once, then steps with one answer each, until `EndReplica`. Unlike a move's, a session with the volume's home holds the volume's
lock file for the moment of the clone alone: a slow replica keeps nobody from dumping the volume, or from another replica.
"""

from __future__ import annotations

from typing import Optional, Tuple

from voltool.frozen import dataclass
from voltool.model import LAZY, NO_HOOKS, Epoch, Heard, Hooks, Peer, ReplicaBase, ReplicaRecord, Split, VolumeRecord

# ------------------------------------------------------------------------------------------------- the volume's home


@dataclass(frozen=True)
class ReplicaOut:
    """Open a session with the volume's home, about one replica. Answered by `ReplicaSource`. Steps: `StartReplicaDump`,
    `KeepReplicaBase`, `ForgetReplica`, `EndReplica`. ``base_age``: seconds that a clone may be kept for a replica (0: for
    ever).
    """

    uuid: str
    path: bytes
    replica_id: str
    replica: Peer
    base_age: int = 0


@dataclass(frozen=True)
class ReplicaSource:
    """``record`` of the volume; ``base``: the state that the home believes the replica to have, empty: none."""

    record: VolumeRecord
    base: str = ""


@dataclass(frozen=True)
class StartReplicaDump:
    """Clone the volume (its lock file is held for that alone), then dump the clone. ``base_state_id``: what the replica holds,
    empty: nothing. The conversation is that of `StartDump`; after the `DumpReply` the clone is kept, and what comes with
    `KeepReplicaBase` says that it is the replica's base now. With ``manifest_only`` the data frames are a manifest (see
    `tree.manifest`, with OWNERS) instead of a dump: the data is fetched from the clone, which is kept until `ForgetReplica` or
    another base. Of the hooks ``before_clone`` and ``after_clone`` are run. ``over_path``: data frames and `EndOfData` go over
    the direct path."""

    dump_id: str
    base_state_id: str = ""
    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    manifest_only: bool = False
    hooks: Hooks = NO_HOOKS
    over_path: bool = False


@dataclass(frozen=True)
class KeepReplicaBase:
    """The replica serves this state now (lazy: it knows its manifest): the clone of it is the base of the next dump, older
    ones go. Answered by `Done`. Idempotent."""

    state_id: str


@dataclass(frozen=True)
class ForgetReplica:
    """There is no such replica any more: its clones and states go. Answered by `Done`. Idempotent."""


@dataclass(frozen=True)
class EndReplica:
    """End the session. Answered by `Done`."""


# --------------------------------------------------------------------------------------------- the host of a replica


@dataclass(frozen=True)
class ReplicaIn:
    """Open a session with the host of a replica. Answered by `ReplicaStatus`. ``begin``: make it, or go on; without, only look.
    Steps: `SendManifest`, `ReceiveDump`, `SwapReplica`, `ReceiveManifest`, `ReachSources`, `ListenTunnel`, `StartLazy`,
    `PromoteReplica`, `RemoveReplica`, `EndReplica`. While the session lasts the host holds the replica's own lock file. Where
    there is no replica and none is begun, the answer's ``phase`` is empty, and `RemoveReplica` has nothing to do.
    ``forbidden``: paths of stores and of voltool's state on that host, which a new replica must not contain or lie in."""

    replica: ReplicaRecord
    begin: bool
    forbidden: Tuple[bytes, ...] = ()


@dataclass(frozen=True)
class ReplicaStatus:
    """``replica``: the record, as it is now. ``held``: the state that lies there completely and can be swapped in, or is
    served; an increment is made against it; empty: none. ``missing_bytes``, ``missing_files``: of a lazy one, what is not
    there yet; ``running``: whether what must run for it does (the lazy mount; the read-only mount of a full one). ``faults``:
    what is not as it should be, for people. ``way``: of a lazy one, see `way_of`."""

    replica: ReplicaRecord
    held: str = ""
    missing_bytes: int = 0
    missing_files: int = 0
    running: bool = True
    faults: Tuple[str, ...] = ()
    way: str = ""


@dataclass(frozen=True)
class SwapReplica:
    """What is held is served from now on, under the replica's path, at once and whole; the state before is kept until the next
    swap, for those who have it open. Answered by `ReplicaStatus`. Repeatable. IntegrityError where it is not ``state_id`` that
    is held."""

    state_id: str
    epoch: Epoch
    sequence: int
    clone_time_ns: int


@dataclass(frozen=True)
class ReceiveManifest:
    """A manifest follows: data frames, `EndOfData`. Answered by `Arrived` (of `wire.moving`), whose ``held`` is its state:
    ``state_id``, where that is known beforehand."""

    state_id: str = ""
    over_path: bool = False


@dataclass(frozen=True)
class FetchSource:
    """A host that serves the files of a lazy replica (`ServeFiles`): the addresses to try, in this order, the port, and the
    certificate (DER) that it will show. ``host`` for people. ``comes``: it comes to the replica's door instead, and cannot be
    connected to (`wire.doors`)."""

    host: str
    addresses: Tuple[str, ...]
    port: int
    certificate: bytes
    comes: bool = False


#: The ways by which files come to a lazy replica: its host connects to those that serve; they connect to it; through the command
#: line.
WAY_DIRECT, WAY_REVERSE, WAY_RELAY = "direct", "reverse", "relay"
_LOOPBACK = "127.0.0.1"


def way_of(sources: Tuple[FetchSource, ...]) -> str:
    """By which way files come from ``sources``; empty: from nowhere. Only a tunnel is at the loopback alone."""
    if any(source.comes for source in sources):
        return WAY_REVERSE
    if any(source.addresses == (_LOOPBACK,) for source in sources):
        return WAY_RELAY
    return WAY_DIRECT if sources else ""


@dataclass(frozen=True)
class ReachSources:
    """Can the replica's host reach one of the ``sources`` directly? Answered by `SourcesReached`."""

    sources: Tuple[FetchSource, ...]


@dataclass(frozen=True)
class SourcesReached:
    """The ``host`` that was reached first; empty: none, and ``why``, for people."""

    host: str = ""
    why: str = ""


@dataclass(frozen=True)
class StartLazy:
    """Serve the manifest that has come: mount it at the replica's path and fill it in the background, by a process that
    outlives this connection; it can go on alone where it reaches one of the ``sources`` directly. Answered by `ReplicaStatus`
    when it is mounted. Repeatable: what runs gets the new sources, and the new ``bandwidth`` of the background fill, bytes/s, 0:
    no limit, None: what it was. ``timeout``: seconds after which a read that nobody answers is EIO. ``state_id`` of the manifest
    that has come, with what `SwapReplica` says of it; empty: the one that is served already. ``writable`` (a lazy move): an
    overlay on top, see `move --lazy`."""

    sources: Tuple[FetchSource, ...]
    bandwidth: Optional[int] = 0
    timeout: int = 30
    writable: bool = False
    state_id: str = ""
    epoch: Optional[Epoch] = None
    sequence: int = 0
    clone_time_ns: int = 0


@dataclass(frozen=True)
class RemoveReplica:
    """The host has no replica of the volume any more. With ``purge`` its tree goes too; else it stays as a plain directory.
    Answered by `Done`. Idempotent."""

    purge: bool


@dataclass(frozen=True)
class ListReplicas:
    """The replicas on this host, what it keeps for replicas elsewhere, and homes that are being filled. Answered by
    `ReplicasReply`. Touches nothing."""


@dataclass(frozen=True)
class FillingHome:
    """The volume ``uuid`` lives on this host, at ``path``, and not all of it is here: its lazy move ``move_id`` is being filled.
    The rest as of `ReplicaStatus`."""

    uuid: str
    move_id: str
    path: bytes
    missing_bytes: int
    missing_files: int
    running: bool
    faults: Tuple[str, ...]
    way: str


@dataclass(frozen=True)
class ReplicasReply:
    """``replicas`` on this host, ``bases`` kept here for others, and ``filling`` homes."""

    replicas: Tuple[ReplicaStatus, ...]
    bases: Tuple[ReplicaBase, ...]
    filling: Tuple[FillingHome, ...] = ()


@dataclass(frozen=True)
class AskMissing:
    """What the lazy replica of the volume on this host lacks. Answered by `MissingReply`, with ``most`` names at the most, in
    their order from the ``first`` on (0 is the first). ``given``: a directory on this host with files that may be what is missing
    (a restored dump): it is looked in from now on, and what fills the replica is started where it does not run; empty: nothing
    is changed. Repeatable."""

    uuid: str
    first: int = 0
    most: int = 0
    given: bytes = b""


@dataclass(frozen=True)
class MissingReply:
    """The replica's ``phase``; of a lazy one what has not come, as it said last: ``missing_files``, ``missing_bytes``;
    ``running``: whether it is served; ``faults``: what goes wrong, for people; ``paths``: names of missing files, one of each."""

    phase: str
    missing_files: int = 0
    missing_bytes: int = 0
    running: bool = True
    faults: Tuple[str, ...] = ()
    paths: Tuple[bytes, ...] = ()

    @property
    def is_lazy(self) -> bool:
        """Whether something may be missing."""
        return self.phase == LAZY


# -------------------------------------------------------------------------------------------------------- promotion


@dataclass(frozen=True)
class PromoteReplica:
    """A step of `ReplicaIn`: become the volume's home, with ``epoch`` (one higher than any that is known) and a sequence of
    ``sequence`` at the least, and ``excludes``. Answered by `Promoted`. Repeatable with the same epoch. ``hooks``:
    ``before_online``, ``after_online``. RefusedError for a replica that is not full, and for one that somebody has changed
    unless ``changed_too``."""

    epoch: Epoch
    sequence: int
    excludes: Tuple[bytes, ...] = ()
    hooks: Hooks = NO_HOOKS
    changed_too: bool = False


@dataclass(frozen=True)
class Promoted:
    """The volume's record at its new home. ``hook_failed`` as of a move."""

    record: VolumeRecord
    hook_failed: str = ""


@dataclass(frozen=True)
class ShowStanding:
    """What the volume is to this host. Answered by `Standing`. Touches nothing, and never fails for what it finds."""

    uuid: str


#: What a volume is to a host: it lives there; so it does by the records, but its file system is not there (not mounted?); it
#: lived there and has heard of another home, but is not done with stepping down; it lived there and is elsewhere; it is on
#: its way elsewhere, in service nowhere; it has no home there.
HOME = "home"
ABSENT = "absent"
LEAVING = "leaving"
AWAY = "away"
BETWEEN = "between"
NOTHING = "nothing"


@dataclass(frozen=True)
class Standing:
    """``standing``: one of the words above. ``epoch``, ``sequence``, ``path`` of the volume as its home has it; for one
    that is away the epoch of the home that it went to, and ``home``; of a home, ``home`` is where it came from; of a
    replica (``nothing``), epoch and home are those it was synced from last. ``began_with``: the state with which the
    volume came to this home, where it came by a move or a promotion. ``split``: it lives elsewhere with the same number of
    epoch too. ``heard``: it has heard of a later home. ``aside_count``: of one that is away, how many paths were written here
    after the state that was promoted."""

    standing: str
    epoch: Optional[Epoch] = None
    sequence: int = 0
    path: bytes = b""
    home: Optional[Peer] = None
    began_with: str = ""
    split: Optional[Split] = None
    heard: Optional[Heard] = None
    aside_count: int = 0


@dataclass(frozen=True)
class SendBeginning:
    """The manifest of the state with which the volume came to this home by a promotion. Answered by data frames, `EndOfData`;
    NotFoundError where it is not kept."""

    uuid: str
    state_id: str


@dataclass(frozen=True)
class HearEpoch:
    """The volume lives at ``home`` with ``epoch`` and was there the state ``state_id`` when it was promoted. Who takes himself
    for the home with a lower epoch retires his copy; with the same number and another token it is a split: he goes read-only.
    In between `NeedManifest`, answered by data frames and `EndOfData` (none: nobody has it). Answered by `EpochHeard`.
    Idempotent. BusyError while somebody writes, with who; ``timeout``: how long to wait for him, seconds. ``hooks``:
    ``before_lock`` and, where nothing comes of it, ``after_unlock``."""

    uuid: str
    epoch: Epoch
    home: Peer
    state_id: str
    owner: str = ""
    timeout: int = 30
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class EpochHeard:
    """What became of it: ``outcome`` ``retired``, ``split``, ``known`` (it was retired before, for ``home`` and
    ``epoch``), ``mine`` (the epoch here is the higher one, or the very same: ``epoch``), ``nothing`` (the volume is not
    here). ``aside``: paths that were written here after the promoted state, kept in the retired copy at ``aside_place``,
    at the most some hundred; ``aside_count``: how many there are, -1: that could not be found out."""

    outcome: str
    epoch: Epoch
    aside: Tuple[bytes, ...] = ()
    aside_count: int = 0
    aside_place: bytes = b""
    home: Optional[Peer] = None


#: The outcomes of `HearEpoch`, beside `NOTHING`.
RETIRED_NOW = "retired"
SPLIT = "split"
KNOWN = "known"
MINE = "mine"


@dataclass(frozen=True)
class ChooseHome:
    """The copy here is the volume, with ``epoch`` and a sequence of ``sequence`` at the least: a split is over, it is writable
    again. RefusedError where the epoch here is not a lower one. Answered by `Promoted`. Repeatable with the same epoch."""

    uuid: str
    epoch: Epoch
    sequence: int
