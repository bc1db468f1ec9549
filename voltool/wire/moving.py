"""The messages of a move: two conversations, one with each host, each a session of steps. Part of what is shipped to servers.

`MoveOut` and `MoveIn` open a session, answered by the host's record; then come steps, one reply each, until `EndMove`,
answered by `Done`. While the session lasts the host holds the volume's lock file. A step that fails ends the session.
"""

from __future__ import annotations

from typing import Optional, Tuple

from voltool.frozen import dataclass
from voltool.model import NO_HOOKS, Epoch, Hooks, SourceMove, TargetMove, VolumeRecord
from voltool.wire.replicas import FetchSource


@dataclass(frozen=True)
class MoveOut:
    """Open a session with the old home. Answered by `SourceStatus`. ``begin``: begin this move or go on with it; without, only
    look. Steps: `StartDump` (its own conversation, `Done` where it found the host without clones), `PrepareLock`,
    `HoldLock`, `ReleaseLock`, `Switch`, `SettleMove`, `AbortMove`, `ForgetMove`."""

    move: SourceMove
    begin: bool


@dataclass(frozen=True)
class SourceStatus:
    """``move``: the record, None where there is none. ``volume``: the volume as it is here, None where it is not (any more).
    ``retired_bytes`` is unknown and 0 unless asked for."""

    move: Optional[SourceMove]
    volume: Optional[VolumeRecord] = None


@dataclass(frozen=True)
class PrepareLock:
    """Do before the lock what would make the dump under it slow, as far as the volume's driver can. Answered by `Done`."""


@dataclass(frozen=True)
class HoldLock:
    """Lock the volume for the rest of the session, for ``seconds`` at the most. Answered by `LockReply`; BusyError with who still
    writes. With ``only_hooks`` nothing is locked: ``before_lock`` must have stopped everybody, and ``after_unlock`` runs in
    the end."""

    owner: str
    seconds: int
    timeout: int
    hooks: Hooks = NO_HOOKS
    only_hooks: bool = False


@dataclass(frozen=True)
class ReleaseLock:
    """Unlock it. Answered by `Done`. Idempotent."""


@dataclass(frozen=True)
class Switch:
    """The switch of home, up to the commit. Answered by `SourceStatus`. Only under `HoldLock`."""

    epoch: Epoch
    state_id: str


@dataclass(frozen=True)
class SettleMove:
    """The new home is in service. Answered by `SourceStatus` or `TargetStatus`."""


@dataclass(frozen=True)
class AbortMove:
    """The move is off. Answered by `Done`. RefusedError after the commit."""


@dataclass(frozen=True)
class ForgetMove:
    """The new home has thrown its copy away: forget the aborted move. Answered by `Done`. Idempotent."""


@dataclass(frozen=True)
class EndMove:
    """End the session. Answered by `Done`."""


@dataclass(frozen=True)
class MoveIn:
    """Open a session with the new home. Answered by `TargetStatus`. ``begin`` as in `MoveOut`; without, only `AbortMove` comes.
    Steps: `SendManifest`, `ReceiveDump`, `GetReady`, `Prepare`, `Publish`, `AbortMove`; of a lazy move `ReceiveManifest` (of
    `wire.replicas`) and `FetchFrom` instead of the first two."""

    move: TargetMove
    begin: bool


@dataclass(frozen=True)
class TargetStatus:
    """``held``: the id of the state that has arrived completely; empty: none. ``hook_failed``: the volume is in service, but
    ``after_online`` failed, and why. ``lost``: as of `Arrived`, of everything, known when it is prepared."""

    move: Optional[TargetMove]
    held: str = ""
    hook_failed: str = ""
    lost: Tuple[str, ...] = ()


@dataclass(frozen=True)
class SendManifest:
    """Give the manifest of the state that is held: data frames, then `EndOfData`."""


@dataclass(frozen=True)
class ReceiveDump:
    """A dump follows: data frames, `EndOfData`; of everything where nothing is held, else an increment to what is held.
    Answered by `Arrived`. ``over_path``: they come over the direct path. ``size``: bytes of the files in it, at the most, for
    what is said where there is no room; 0: not known."""

    bandwidth: int = 0
    workers: int = 0
    over_path: bool = False
    size: int = 0


@dataclass(frozen=True)
class Arrived:
    """The dump is applied. ``entries`` of the state, ``bytes`` of file content written. ``lost``: what the file system there
    cannot hold, each with a count, for people."""

    held: str
    entries: int
    bytes: int
    lost: Tuple[str, ...] = ()


@dataclass(frozen=True)
class GetReady:
    """Do before the lock what would make `Prepare` slow. Another increment may still come. Answered by `Done`."""


@dataclass(frozen=True)
class Prepare:
    """Make the copy ready: publishing cannot fail for space or name any more; then ``before_online`` runs. Answered by
    `TargetStatus`."""

    epoch: Epoch
    state_id: str
    sequence: int
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class Publish:
    """Become the volume's home; ``proof`` is the old home's record that it has moved; then ``after_online`` runs. Answered by
    `TargetStatus`. Can be repeated."""

    proof: SourceMove
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class FetchFrom:
    """A step of `MoveIn` in a lazy move, before `Prepare`: where files will be fetched from, by a process that outlives this
    connection, and how. ``timeout``: seconds after which a read that nobody answers is EIO. ``lock_timeout``, ``hooks``
    (``before_lock``, ``after_unlock``): of the lock in the end. Answered by `TargetStatus`; UnreachableError where no source can
    be reached directly."""

    sources: Tuple[FetchSource, ...]
    bandwidth: int = 0
    timeout: int = 30
    lock_timeout: int = 30
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class AskFill:
    """How far the fill of a lazy move is, at the new home. Answered by `FillStatus`. ``paths``: so many of what is missing are
    named, -1: all. ``go_on``: start what must run for it, where it does not; ``sources``, where given, take the place of
    those that are known. ``given``: a directory on this host with files that may be what is missing (a restored dump), from
    now on; empty: none is added. ``told``: the old home has heard that its copy is needed no more, so that, where all has come,
    the process ends and what is kept for it goes."""

    uuid: str
    paths: int = 0
    go_on: bool = False
    sources: Tuple[FetchSource, ...] = ()
    given: bytes = b""
    told: bool = False


@dataclass(frozen=True)
class FillStatus:
    """``move``: the record; None where no lazy move has brought the volume here. ``missing_files``, ``missing_bytes``: what is
    not here yet; ``paths`` of it. ``running``: whether the process that fetches does; ``faults``: what goes wrong, for people.
    ``way``: see `replicas.way_of`."""

    move: Optional[TargetMove]
    missing_files: int = 0
    missing_bytes: int = 0
    running: bool = True
    faults: Tuple[str, ...] = ()
    paths: Tuple[bytes, ...] = ()
    way: str = ""


@dataclass(frozen=True)
class ReleaseRetired:
    """The new home of a lazy move has everything: the copy that the volume left is served no more, and may be purged. Answered by
    `Done`. Idempotent."""

    uuid: str
    move_id: str


@dataclass(frozen=True)
class ListMoves:
    """What moves this host takes or took part in. Answered by `MovesReply`."""


@dataclass(frozen=True)
class ListRetired:
    """The retired copies on this host. Answered by `RetiredReply`."""


@dataclass(frozen=True)
class PurgeRetired:
    """Delete the retired copy of a volume for good. Answered by `RetiredReply` with what is gone."""

    uuid: str


@dataclass(frozen=True)
class RetiredCopy:
    """A copy that a volume left when it moved; ``bytes`` allocated on disk."""

    move: SourceMove
    bytes: int


@dataclass(frozen=True)
class RetiredReply:
    """Retired copies."""

    copies: Tuple[RetiredCopy, ...]


@dataclass(frozen=True)
class MovesReply:
    """All records."""

    sources: Tuple[SourceMove, ...]
    targets: Tuple[TargetMove, ...]


@dataclass(frozen=True)
class PlanOut:
    """What stands in the way of a move of this volume, and what its lock will cost. Touches nothing. Answered by `SourcePlan`.
    ``only_hooks`` as in `HoldLock`."""

    uuid: str
    path: bytes
    only_hooks: bool = False


@dataclass(frozen=True)
class Obstacle:
    """A reason to refuse."""

    what: str
    where: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Extreme:
    """The most there is of ``what`` in the tree (see `agent.moving.extremes`), and the first path that has so much."""

    what: str
    amount: int
    path: bytes


@dataclass(frozen=True)
class SourcePlan:
    """The volume and its tree. ``recent_bytes`` are of files that changed within the last minute; ``rescan_seconds`` what a
    look at every entry takes, ``lease_seconds`` the lease test of every file. ``owners``: ``user:NAME``, ``group:NAME``;
    ``xattrs``: the namespaces seen; ``extremes``: what the target must be able to hold."""

    record: VolumeRecord
    entries: int
    files: int
    bytes: int
    recent_bytes: int
    rescan_seconds: float
    lease_seconds: float
    owners: Tuple[str, ...]
    xattrs: Tuple[str, ...]
    obstacles: Tuple[Obstacle, ...]
    extremes: Tuple[Extreme, ...] = ()


@dataclass(frozen=True)
class PlanIn:
    """What stands in the way of receiving this. Touches nothing. Answered by `TargetPlan`."""

    move: TargetMove
    bytes: int
    entries: int
    owners: Tuple[str, ...]
    xattrs: Tuple[str, ...]
    extremes: Tuple[Extreme, ...] = ()


@dataclass(frozen=True)
class TargetPlan:
    """``kind`` of the file system there, the ``driver`` that follows from it, what is free (``free_inodes`` -1: as many as
    are wanted), and which owners are not known there by name."""

    kind: str
    driver: str
    free_bytes: int
    free_inodes: int
    unknown_owners: Tuple[str, ...]
    obstacles: Tuple[Obstacle, ...]
