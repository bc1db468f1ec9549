"""Every message between CLI and agent: one frozen dataclass each. The CLI asks, the agent answers.

A request is answered by any number of `Progress` events and data frames, then by exactly one reply or a `Failure`.
Which reply belongs to which request stands in the request's docstring. No I/O. Part of what is shipped to servers.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Union

from voltool.errors import VoltoolError, error_from_fields
from voltool.events import Event, Notice, PhaseEnded, PhaseStarted, Progressed
from voltool.frozen import dataclass
from voltool.model import NO_HOOKS, CloneInfo, DumpHeader, DumpResult, FileProblem, Hooks, Split, VolumeRecord
from voltool.wire import codec
from voltool.wire.doors import AwaitGuests, CloseDoor, ComeIn, DoorOpened, Guests, OpenDoor
from voltool.wire.moving import (
    AbortMove,
    Arrived,
    AskFill,
    EndMove,
    FetchFrom,
    FillStatus,
    ForgetMove,
    GetReady,
    HoldLock,
    ListMoves,
    ListRetired,
    MoveIn,
    MoveOut,
    MovesReply,
    PlanIn,
    PlanOut,
    Prepare,
    PrepareLock,
    Publish,
    PurgeRetired,
    ReceiveDump,
    ReleaseLock,
    ReleaseRetired,
    RetiredReply,
    SendManifest,
    SettleMove,
    SourcePlan,
    SourceStatus,
    Switch,
    TargetPlan,
    TargetStatus,
)  # fmt: skip
from voltool.wire.paths import (
    AwaitPath,
    ClosePath,
    JoinPath,
    ListenForPath,
    PathListening,
    PathPrepared,
    PathState,
    PreparePath,
)  # fmt: skip
from voltool.wire.replicas import (
    AskMissing,
    ChooseHome,
    EndReplica,
    EpochHeard,
    ForgetReplica,
    HearEpoch,
    KeepReplicaBase,
    ListReplicas,
    MissingReply,
    Promoted,
    PromoteReplica,
    ReachSources,
    ReceiveManifest,
    RemoveReplica,
    ReplicaIn,
    ReplicaOut,
    ReplicaSource,
    ReplicasReply,
    ReplicaStatus,
    SendBeginning,
    ShowStanding,
    SourcesReached,
    Standing,
    StartLazy,
    StartReplicaDump,
    SwapReplica,
)  # fmt: skip
from voltool.wire.serving import FilesServed, IdentityReply, MakeIdentity, ServeFiles, StopServing
from voltool.wire.tunnel import EndTunnel, EnterTunnel, LeaveTunnel, ListenTunnel, TunnelListening, TunnelOver

# ------------------------------------------------------------------------------------------------------ the basics


@dataclass(frozen=True)
class Hello:
    """The first request on a connection. Answered by `HelloReply`. ``caller`` says who asks, for locks and logs.
    From here on both sides send beats; ``silence`` seconds without one end the connection (0: none are sent or missed)."""

    caller: str
    silence: float = 0.0


@dataclass(frozen=True)
class HelloReply:
    """Who the agent is. ``lz4`` is ``package``, ``liblz4`` or empty."""

    version: str
    python: str
    hostname: str
    machine_id: str
    boot_id: str
    uid: int
    lz4: str


@dataclass(frozen=True)
class Done:
    """The request is carried out; nothing more to say."""


@dataclass(frozen=True)
class EndOfData:
    """No more data frames follow (both directions)."""


@dataclass(frozen=True)
class Failure:
    """The request failed; the fields are those of `VoltoolError`."""

    kind: str
    what: str
    where: str
    why: str
    remedy: str


# -------------------------------------------------------------------------------------------------------- hosts


@dataclass(frozen=True)
class CheckHost:
    """What can voltool do there? Answered by `HostReport`. ``paths`` are places to look at (volumes, a target)."""

    paths: Tuple[bytes, ...] = ()


@dataclass(frozen=True)
class HostFact:
    """One line of a host check; ``remedy`` says what to do where ``ok`` is false."""

    topic: str
    ok: bool
    value: str
    remedy: str = ""


@dataclass(frozen=True)
class HostReport:
    """Answer to `CheckHost`."""

    facts: Tuple[HostFact, ...]


@dataclass(frozen=True)
class CleanHost:
    """Remove agent, records, clones and staging; refused while a volume lives there. Answered by `CleanReply`."""

    dry_run: bool


@dataclass(frozen=True)
class CleanReply:
    """What was removed, or would be."""

    paths: Tuple[bytes, ...]


# ------------------------------------------------------------------------------------------------------- volumes


@dataclass(frozen=True)
class AdoptVolume:
    """Adopt the tree at ``path`` as a volume where it stands. Answered by `VolumeReply`.

    Idempotent for equal values. ``driver`` may be ``auto``. ``forbidden``: stores and state directories of the CLI on
    this host, which must not lie inside the volume. ``replace``: take over a record lost or left by another host
    (``volume set`` after a reinstallation), keeping ``uuid``.
    """

    uuid: str
    name: str
    path: bytes
    driver: str
    excludes: Tuple[bytes, ...]
    forbidden: Tuple[bytes, ...] = ()
    replace: bool = False
    sequence: int = 0


@dataclass(frozen=True)
class ShowVolume:
    """Answered by `VolumeReply`; NotFoundError where the host has no such volume."""

    uuid: str
    path: bytes


@dataclass(frozen=True)
class ListVolumes:
    """All volumes this host has records of. Answered by `VolumesReply`."""


@dataclass(frozen=True)
class ForgetVolume:
    """Forget the volume; its data stays. Answered by `ForgetReply`."""

    uuid: str
    path: bytes


@dataclass(frozen=True)
class LockInfo:
    """A lock that stands: whose, and since and until when (seconds since the epoch, the host's clock)."""

    owner: str
    since: int
    until: int


@dataclass(frozen=True)
class VolumeReply:
    """The volume as its host's record has it; ``states`` are the state ids whose home stamps the host keeps. ``split``: it lives
    elsewhere with the same number of epoch too, and both are read-only."""

    record: VolumeRecord
    states: Tuple[str, ...]
    lock: Optional[LockInfo] = None
    split: Optional[Split] = None


@dataclass(frozen=True)
class VolumesReply:
    """Answer to `ListVolumes`."""

    records: Tuple[VolumeRecord, ...]


@dataclass(frozen=True)
class ForgetReply:
    """The paths of clones and records that stay on the host."""

    left: Tuple[bytes, ...]


# --------------------------------------------------------------------------------------------------------- dumps


@dataclass(frozen=True)
class StartDump:
    """Dump a volume. The conversation:

    agent: `NeedManifest` if it has no home stamps for ``base_state_id`` → CLI: the base's complete manifest as a
    dump without data (data frames, `EndOfData`); agent: `ScanTotals` → CLI: `Proceed` (or it hangs up);
    agent: data frames, `EndOfData`, `DumpReply`. With ``dry_run`` it ends after `ScanTotals` with `Done`.

    ``bandwidth`` in bytes/s, 0: unlimited. ``nice`` 0 to 19; ``idle_io``: ionice class idle. ``codec`` ``lz4`` or ``none``.
    ``for_move``: it goes to a new home, not to a store: nothing is excluded, and it takes the place of no level's base.
    ``complete``: nothing is excluded. ``over_path``: data frames and `EndOfData` of the dump go over the direct path.
    ``manifest_only``, in the session of a lazy move: the data frames are the manifest of what was read (see `tree.manifest`, with
    OWNERS); what it is compared with the agent chooses itself. Of the hooks ``before_clone`` and ``after_clone`` are run, around
    the clone; where there is none, around the reading.
    """

    uuid: str
    path: bytes
    dump_id: str
    level: int
    base_state_id: Optional[str]
    base_dump_id: Optional[str]
    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    nice: int = 0
    idle_io: bool = False
    dry_run: bool = False
    for_move: bool = False
    complete: bool = False
    hooks: Hooks = NO_HOOKS
    over_path: bool = False
    manifest_only: bool = False


@dataclass(frozen=True)
class NeedManifest:
    """The agent has no home stamps for this state: send its manifest; the dump will take longer."""

    state_id: str


@dataclass(frozen=True)
class ScanTotals:
    """What the scan found: entries of the tree, files to be read, their bytes (before compression)."""

    entries: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Proceed:
    """Go on."""


@dataclass(frozen=True)
class DumpReply:
    """The dump is complete. Its home stamps are kept by the host until `KeepState` or the next dump."""

    result: DumpResult


@dataclass(frozen=True)
class EstimateDump:
    """What would a dump read now, against each of these states, and in full? Answered by `EstimateReply`; nothing is changed."""

    uuid: str
    path: bytes
    base_state_ids: Tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """Objects that are new or not as they were, files among them, their bytes. Not ``known``: the host has no home stamps of the
    state, and the figures are those of a full dump."""

    objects: int
    files: int
    bytes: int
    known: bool


@dataclass(frozen=True)
class EstimateReply:
    """``entries``: names in the tree; ``against``: one for each state asked about, in that order."""

    entries: int
    full: Estimate
    against: Tuple[Estimate, ...]


@dataclass(frozen=True)
class KeepState:
    """The store has published the dump: keep clone and home stamps as the base for later levels (at most one a level).

    After a merge: what the incremental of that state left becomes the base of ``level``. Answered by `Done`. Idempotent.
    """

    uuid: str
    path: bytes
    state_id: str
    level: int
    dump_id: str


# -------------------------------------------------------------------------------------------------------- restores


@dataclass(frozen=True)
class StartRestore:
    """Restore one complete dump stream (level 0, or a merged chain) to ``target``. The conversation:

    agent: `RestoreReady` → CLI: data frames of the dump, whose data for objects up to ``resume_after`` may be left
    out, `EndOfData`; agent: `RestoreReply`. The target appears only after the trailer was checked.

    ``into_existing`` (``--only``): the target may be a directory with content where nothing collides.
    ``volume_uuid`` and ``state_id`` name what is restored: an interrupted restore of the same to the same target goes on.
    ``selection`` distinguishes different ``--only`` selections (a digest; empty: everything). ``total_bytes`` is what
    files will hold when all is restored, and ``volume_name`` the subject, for the progress events. ``least_bytes`` and
    ``objects``: what the target needs room for at the least (0: nobody knows); SpaceError before anything is written.
    ``over_path``: data frames and `EndOfData` come over the direct path.
    """

    target: bytes
    volume_uuid: str
    state_id: str
    selection: str = ""
    into_existing: bool = False
    numeric_owner: bool = False
    workers: int = 0
    bandwidth: int = 0
    total_bytes: int = 0
    volume_name: str = ""
    least_bytes: int = 0
    objects: int = 0
    over_path: bool = False


@dataclass(frozen=True)
class RestoreReady:
    """Staging is made (or found again); ``resume_after`` is the highest object number whose data is safely there."""

    resume_after: int


@dataclass(frozen=True)
class RestoreReply:
    """The target is published. ``problems``: files whose content was unknown, flags the file system does not have, …"""

    entries: int
    bytes: int
    problems: Tuple[FileProblem, ...]


@dataclass(frozen=True)
class StartInPlace:
    """Bring the directory ``target``, which must exist, to a dump's state, writing only what differs. The conversation:

    → data frames: the state's complete manifest (of the selected part: ``state_id``), a dump without data, `EndOfData`;
    ← any number of `PlannedNames`, `InPlacePlan`, then data: the numbers of the objects that are needed, 8 bytes each,
    `EndOfData`. With ``dry_run`` it ends here with `Done`, and so it does when `EndOfData` comes instead of `Proceed`. Else
    → `Proceed`; where the plan says ``transfer`` → data frames: a level 0 dump of these objects alone, each under its number
    in the root, `EndOfData`; where it says ``patches`` → data: of each chunk asked for the object's number, its index (8 bytes
    each), its length (4 bytes, 0: a hole) and its bytes, `EndOfData`; ← `InPlaceReply`. These chunks follow the numbers: ← data,
    16 bytes each, number and index, `EndOfData`. Nothing of the directory is touched before all of it has come and was checked.

    ``only``: selected paths from the root on (empty: everything); ``selection`` stands for them in the name of staging.
    ``delete``: what is there and not in the dump goes, but what ``excludes`` names. ``limit``: how many names of each kind
    the plan tells.
    """

    target: bytes
    volume_uuid: str
    state_id: str
    selection: str = ""
    only: Tuple[bytes, ...] = ()
    excludes: Tuple[bytes, ...] = ()
    delete: bool = False
    numeric_owner: bool = False
    dry_run: bool = False
    workers: int = 0
    bandwidth: int = 0
    limit: int = 0
    volume_name: str = ""


@dataclass(frozen=True)
class PlannedNames:
    """Some names of a plan, relative to the target. ``kind``: ``create``, ``write``, ``change``, ``link``, ``delete``,
    ``leave``."""

    kind: str
    paths: Tuple[bytes, ...]


@dataclass(frozen=True)
class InPlacePlan:
    """What a restore in place would do: names created, files written (``bytes``: their sizes), objects whose attributes alone
    change, names linked anew, names deleted; ``kept``: names that the dump does not have and that stay. ``transfer``: data is
    needed, ``needed_bytes`` at the least; of objects up to ``resume_after`` it may be left out. ``patches``: of some large files
    only chunks are needed."""

    created: int
    written: int
    bytes: int
    changed: int
    linked: int
    deleted: int
    kept: int
    transfer: bool
    needed_bytes: int
    resume_after: int = 0
    patches: bool = False


@dataclass(frozen=True)
class InPlaceReply:
    """It is done. ``problems``: what is not as in the dump, and why; ``left`` among them was not touched."""

    problems: Tuple[FileProblem, ...]


# --------------------------------------------------------------------------------------------------------- clones


@dataclass(frozen=True)
class MakeClone:
    """Clone the volume; ``id`` is the clone's. Answered by `ClonesReply` with this one. RefusedError without clones.
    Of the hooks ``before_clone`` and ``after_clone`` are run."""

    uuid: str
    path: bytes
    id: str
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class ListClones:
    """All clones of the volume. Answered by `ClonesReply`."""

    uuid: str
    path: bytes


@dataclass(frozen=True)
class DropClone:
    """Delete a clone made by `MakeClone`. Answered by `ClonesReply` with those that are left."""

    uuid: str
    path: bytes
    id: str


@dataclass(frozen=True)
class ClonesReply:
    """Clones, oldest first."""

    clones: Tuple[CloneInfo, ...]


# ------------------------------------------------------------------------------------------------------- progress


@dataclass(frozen=True)
class Progress:
    """An event of the agent; exactly one field is set."""

    started: Optional[PhaseStarted] = None
    progressed: Optional[Progressed] = None
    ended: Optional[PhaseEnded] = None
    notice: Optional[Notice] = None


# --------------------------------------------------------------------------------------------------------- locks


@dataclass(frozen=True)
class ReadActs:
    """What agents did on this host: the last ``limit`` acts, of volume ``uuid`` (empty: of all). Answered by `ActsReply`."""

    uuid: str
    limit: int


@dataclass(frozen=True)
class Act:
    """One act of the host's record: ``time`` as it is written there, with its zone; ``act`` the request; ``what`` it was about
    beside the volume; ``result`` ``done``, ``begin`` (not ended yet, or killed), or why it failed."""

    time: str
    act: str
    uuid: str
    name: str
    what: str
    result: str
    login: str
    caller: str


@dataclass(frozen=True)
class ActsReply:
    """Oldest first."""

    acts: Tuple[Act, ...]


@dataclass(frozen=True)
class Examine:
    """What on this host is not as its records say; with ``fix``, put right what can be. Answered by `ExamineReply`."""

    fix: bool = False


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: ``kind`` ``lock``, ``clone``, ``staging``, ``move``, ``volume`` or ``note``; ``remedy`` what
    helps. ``fixable``: `Examine` with ``fix`` can; ``fixed``: it has."""

    kind: str
    volume: str
    where: str
    what: str
    remedy: str
    fixable: bool = False
    fixed: bool = False


@dataclass(frozen=True)
class ExamineReply:
    """All findings; none: everything is in order."""

    findings: Tuple[Finding, ...]


@dataclass(frozen=True)
class LockVolume:
    """Make the volume read-only for ``seconds``, waiting up to ``timeout`` seconds for who still writes. Answered by
    `LockReply`; BusyError names the writers. A guardian on the host undoes it when the time is over.

    Of the hooks ``before_lock`` and ``after_unlock`` are run.
    """

    uuid: str
    path: bytes
    owner: str
    seconds: int
    timeout: int
    hooks: Hooks = NO_HOOKS


@dataclass(frozen=True)
class LockReply:
    """The volume is locked until ``until`` (seconds since the epoch, the host's clock). ``unexamined`` counts processes
    that even root may not look into; ``leaseless`` files on which nobody can tell whether they are open for writing."""

    until: int
    unexamined: int
    leaseless: int


@dataclass(frozen=True)
class UnlockVolume:
    """Undo the volume's lock, whoever made it. Answered by `UnlockReply`. Idempotent."""

    uuid: str
    path: bytes


@dataclass(frozen=True)
class UnlockReply:
    """``owner`` is who had locked it; empty: it was not locked."""

    owner: str


Message = Union[
    Hello, HelloReply, Done, EndOfData, Failure, CheckHost, HostReport, CleanHost, CleanReply, AdoptVolume,
    ShowVolume, ListVolumes, ForgetVolume, VolumeReply, VolumesReply, ForgetReply, StartDump, NeedManifest,
    ScanTotals, Proceed, DumpReply, KeepState, StartRestore, RestoreReady, RestoreReply, MakeClone, ListClones,
    DropClone, ClonesReply, LockVolume, LockReply, UnlockVolume, UnlockReply, PlanOut, SourcePlan, PlanIn, TargetPlan,
    ReadActs,
    ActsReply, Examine, ExamineReply, Progress, MoveOut, SourceStatus,
    PrepareLock, HoldLock, ReleaseLock, Switch, SettleMove, AbortMove, ForgetMove, EndMove, MoveIn, TargetStatus,
    SendManifest, ReceiveDump, Arrived, GetReady, Prepare, Publish, ListMoves, MovesReply, ListRetired, PurgeRetired,
    RetiredReply, StartInPlace, PlannedNames, InPlacePlan, InPlaceReply, EstimateDump,
    EstimateReply,
    AskFill, FetchFrom, FillStatus, ReleaseRetired,
    EndReplica, EpochHeard, FilesServed, ForgetReplica, HearEpoch, IdentityReply, KeepReplicaBase, ListReplicas,
    MakeIdentity, PromoteReplica, Promoted, ReceiveManifest, RemoveReplica, ReplicaIn, ReplicaOut, ReplicaSource,
    ReplicaStatus, ReplicasReply, ServeFiles, StartLazy, StartReplicaDump, StopServing, SwapReplica,
    AskMissing, MissingReply, ChooseHome, SendBeginning, ShowStanding, Standing,
    PreparePath, PathPrepared, ListenForPath, PathListening, JoinPath, AwaitPath, PathState, ClosePath,
    ReachSources, SourcesReached, ListenTunnel, TunnelListening, EnterTunnel, LeaveTunnel, TunnelOver, EndTunnel,
    OpenDoor, DoorOpened, AwaitGuests, Guests, CloseDoor, ComeIn,
]  # fmt: skip

KNOWN: Dict[str, type] = {cls.__name__: cls for cls in Message.__args__}  # type: ignore[attr-defined]

__all__ = [
    "KNOWN",
    "DumpHeader",
    "Message",
    "decode",
    "encode",
    "event_of",
    "failure_of",
    "raise_failure",
    "wrap_event",
]


def encode(message: Message) -> bytes:
    """The JSON of a message."""
    return codec.encode_message(message)


def decode(data: bytes) -> Any:
    """The message of a JSON text; AgentError for one that is not known."""
    return codec.decode_message(data, KNOWN)


def failure_of(error: VoltoolError) -> Failure:
    """An error as it crosses the wire."""
    return Failure(error.kind, error.what, error.where, error.why, error.remedy)


def raise_failure(failure: Failure) -> None:
    """Raise the error that the other side reported."""
    raise error_from_fields(failure.kind, failure.what, failure.where, failure.why, failure.remedy)


def wrap_event(event: Event) -> Progress:
    """An event as it crosses the wire."""
    if isinstance(event, PhaseStarted):
        return Progress(started=event)
    if isinstance(event, Progressed):
        return Progress(progressed=event)
    if isinstance(event, PhaseEnded):
        return Progress(ended=event)
    assert isinstance(event, Notice), "steps are of a whole move, which no agent sees"
    return Progress(notice=event)


def event_of(progress: Progress) -> Event:
    """The event inside."""
    event = progress.started or progress.progressed or progress.ended or progress.notice
    assert event is not None
    return event
