"""A copy of a volume, on any host, as a volume of its own: a dump that goes straight into a restore. The old one is untouched."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from voltool.backup.ports import World
from voltool.backup.volumes import VolumeWish, add_volume
from voltool.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    AgentError,
    PathBrokenError,
    RefusedError,
    UsageError,
    VoltoolError,
)
from voltool.model import NO_HOOKS, DumpResult, FileProblem, Hooks, KnownVolume
from voltool.remote.paths import AUTO, open_path, until_sent
from voltool.remote.session import RUN_AGAIN
from voltool.showing import shown
from voltool.stores.naming import check_volume_name
from voltool.wire import messages
from voltool.wire.conversation import Conversation, IntroducedConversation, expect


@dataclass(frozen=True)
class CopyOptions:
    """``bandwidth`` in bytes/s (0: unlimited); ``numeric_owner``: owners by number, not by name; ``path``: of `remote.paths`."""

    codec: str = "lz4"
    workers: int = 0
    bandwidth: int = 0
    numeric_owner: bool = False
    hooks: Hooks = NO_HOOKS
    path: str = AUTO


@dataclass(frozen=True)
class CopyOutcome:
    """``volume`` is the new one. ``exit_code`` 3 when something could not be read or held."""

    volume: KnownVolume
    consistency: str
    entries: int
    bytes: int
    seconds: float
    problems: tuple[FileProblem, ...]
    exit_code: int


def copy_volume(
    world: World, volume: KnownVolume, wish: VolumeWish, options: CopyOptions, forbidden: Sequence[bytes] = ()
) -> CopyOutcome:
    """Copy ``volume`` as it is now to the place that ``wish`` names, and adopt it there. ``forbidden`` as in `add_volume`.

    Raises UsageError (the name is taken), RefusedError (the target has content, or lies in the volume), SpaceError; what was
    made of an interrupted copy is staging, never a target.
    """
    began = time.monotonic()
    _check(world, volume, wish)
    with world.hosts.connect(volume.host) as here, world.hosts.connect(wish.host) as there:
        direct = open_path(here, there, options.path, world.reporter, volume.name)
        try:
            result, reply = _transfer(here, there, volume, wish, options, direct=direct)
        except PathBrokenError as error:
            error.remedy = f"{RUN_AGAIN}, or with --path relay; nothing half-done was published"
            raise
    try:
        added = add_volume(world, wish, forbidden)
    except VoltoolError as error:
        error.why = f"{error.why}; the copy itself is complete" if error.why else "the copy itself is complete"
        error.remedy = error.remedy or f"voltool volume add {wish.name} {wish.host}:{shown(wish.path)}"
        raise
    problems = (*result.problems, *reply.problems)
    return CopyOutcome(
        volume=added.volume,
        consistency=result.header.consistency.value,
        entries=reply.entries,
        bytes=reply.bytes,
        seconds=time.monotonic() - began,
        problems=problems,
        exit_code=EXIT_PARTIAL if problems else EXIT_DONE,
    )


def _check(world: World, volume: KnownVolume, wish: VolumeWish) -> None:
    check_volume_name(wish.name)
    if any(known.name == wish.name for known in world.catalog.volumes()):
        raise UsageError(f"there is a volume {wish.name!a} already", remedy="another name for the copy")
    inside = wish.path == volume.path or wish.path.startswith(volume.path.rstrip(b"/") + b"/")
    if wish.host == volume.host and inside:
        raise RefusedError(
            "the copy would lie in the volume itself",
            where=f"{wish.host}:{shown(wish.path)}",
            remedy="a path outside of it",
        )


def _transfer(
    here: IntroducedConversation,
    there: IntroducedConversation,
    volume: KnownVolume,
    wish: VolumeWish,
    options: CopyOptions,
    *,
    direct: bool,
) -> tuple[DumpResult, messages.RestoreReply]:
    dump_id = uuid.uuid4().hex
    here.send(_start_dump(volume, dump_id, options, over_path=direct))
    totals = expect(here, messages.ScanTotals)
    there.send(
        messages.StartRestore(
            target=wish.path,
            volume_uuid=volume.uuid,
            state_id="",
            selection=f"copy {dump_id}",
            numeric_owner=options.numeric_owner,
            workers=options.workers,
            total_bytes=totals.bytes,
            volume_name=wish.name,
            least_bytes=totals.bytes,
            objects=totals.entries,
            over_path=direct,
        )
    )
    expect(there, messages.RestoreReady)
    here.send(messages.Proceed())
    if direct:
        until_sent(here, there.attend)
    else:
        _relay(here, there)
    result = expect(here, messages.DumpReply).result
    if not direct:
        there.send(messages.EndOfData())
    return result, expect(there, messages.RestoreReply)


def _relay(here: Conversation, there: Conversation) -> None:
    while isinstance(received := here.receive(), bytes):
        there.send_data(received)
    if not isinstance(received, messages.EndOfData):
        raise AgentError("something else came where a dump should", why=type(received).__name__)


def _start_dump(volume: KnownVolume, dump_id: str, options: CopyOptions, *, over_path: bool) -> messages.StartDump:
    return messages.StartDump(
        uuid=volume.uuid,
        path=volume.path,
        dump_id=dump_id,
        level=0,
        base_state_id=None,
        base_dump_id=None,
        codec=options.codec,
        workers=options.workers,
        bandwidth=options.bandwidth,
        complete=True,
        hooks=options.hooks,
        over_path=over_path,
    )
