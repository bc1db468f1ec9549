"""What a lazy move needs besides: who serves the files, how far the fill is, going on with it, and the files of a lost home.

The new home ends the fill by itself (`agent.lazymove.homing`); nobody here has to wait for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from voltool.errors import NotFoundError, UnreachableError, UsageError, VoltoolError
from voltool.events import Notice
from voltool.model import PUBLISHED, KnownVolume, SourceMove, TargetMove
from voltool.move.ports import World
from voltool.move.sessions import SessionSettings, TargetSession
from voltool.remote.doors import NO_DOOR, Coming, Served, let_come
from voltool.remote.paths import RELAY, check_mode
from voltool.wire import messages, moving, replicas, serving
from voltool.wire.conversation import IntroducedConversation, expect
from voltool.wire.doors import Door

#: What is served: the copy that the volume leaves, also before it leaves it.
_COPY = "retired"


class CannotFetchError(UnreachableError):
    """The new home could not fetch from the old one, so a lazy move cannot begin."""


@dataclass(frozen=True)
class Fill:
    """How far the lazy move of ``volume`` is, which lives at its new home already. ``source_fault``: why the old home could not
    be asked to serve; empty: it was not asked, or serves."""

    volume: KnownVolume
    status: moving.FillStatus
    source_fault: str = ""

    @property
    def is_in_service(self) -> bool:
        """Whether the volume is in service at its new home."""
        return self.status.move is not None and self.status.move.phase == PUBLISHED


def refuse_relay(path: str) -> None:
    """UsageError where ``path`` (of `remote.paths`) says that no direct path is to be used: what fetches the files of a lazy move
    outlives the command."""
    if check_mode(path) == RELAY:
        raise UsageError(
            "a lazy move needs a direct path between the hosts",
            why="its files come when the command has ended, so they cannot go through this machine (path: relay)",
            remedy="--path auto with --lazy (one open port at either host is enough); or --path relay without --lazy",
        )


def prepare_to_fetch(
    world: World, volume: KnownVolume, move: SourceMove, target: TargetSession, settings: SessionSettings
) -> None:
    """Let the old home serve, and the new one know how its files come: it connects to the old home or, where it cannot, the old
    home to it. CannotFetchError where neither can: nothing is moved."""
    refuse_relay(settings.path)
    step = moving.FetchFrom((), settings.bandwidth, settings.fetch_timeout, settings.lock_timeout, settings.hooks)
    try:
        with _old_home(world, volume, move) as old_home:
            (source,) = old_home.serve(NO_DOOR).sources
            reached = target.reach(source)
            coming = Coming((source,)) if reached.host else old_home.let_come(source)
        if not coming.sources:
            raise UnreachableError(
                "the new home cannot fetch from the old one", where=f"{volume.host}, {move.target.host}",
                why=f"{reached.why}; the other way round: {coming.why}",
                remedy="let a port through on either host and name it in the configuration ([hosts.NAME] ports = ...);"
                " or without --lazy",
            )  # fmt: skip
        target.fetch_from(dataclasses.replace(step, sources=coming.sources))
    except VoltoolError as error:
        raise CannotFetchError(error.what, where=error.where, why=error.why, remedy=error.remedy) from None
    if not reached.host:
        text = f"{volume.name}: {move.target.host} cannot connect to {volume.host}, which connects to it: {reached.why}"
        world.reporter.report(Notice("info", text))


@dataclass(frozen=True)
class _OldHome:
    """The old home of the ``volume`` as who serves what it leaves to the new one, which shows ``peer``; ``here`` and ``there``:
    agents at both."""

    volume: KnownVolume
    move: SourceMove
    here: IntroducedConversation
    there: IntroducedConversation
    peer: bytes

    def serve(self, door: Door | None) -> Served:
        """Let it serve by a process that outlives all connections, and let that go to the ``door``: see `remote.doors.Serve`."""
        volume, here = self.volume, self.here
        here.send(serving.ServeFiles(volume.uuid, self.move.move_id, _COPY, self.peer, here.ports, door))
        served = expect(here, serving.FilesServed)
        source = replicas.FetchSource(volume.host, served.addresses, served.port, served.certificate)
        return Served((source,), {volume.host: served.fault} if served.fault else {})

    def let_come(self, source: replicas.FetchSource, *, stay: bool = False) -> Coming:
        """Let it connect to the new one."""
        return let_come(self.there, self.move.move_id, (source,), self.serve, stay=stay)


@contextlib.contextmanager
def _old_home(world: World, volume: KnownVolume, move: SourceMove) -> Iterator[_OldHome]:
    with world.hosts.connect(move.target.host) as there, world.hosts.connect(volume.host) as here:
        there.send(serving.MakeIdentity(move.move_id))
        peer = expect(there, serving.IdentityReply).certificate
        yield _OldHome(volume, move, here, there, peer)


def stop_serving(world: World, host: str, move_id: str) -> None:
    """The move is undone: nothing is served any more. Idempotent."""
    with world.hosts.connect(host) as here:
        here.send(serving.StopServing(move_id))
        expect(here, messages.Done)


def fill_of(world: World, name: str, *, paths: int = 0) -> Fill | None:
    """How far the fill is; None where no lazy move is being filled. NotFoundError, UnreachableError."""
    volume = world.catalog.volume(name)
    with world.hosts.connect(volume.host) as there:
        there.send(moving.AskFill(volume.uuid, paths))
        status = expect(there, moving.FillStatus)
    return Fill(volume, status) if status.move is not None else None


def go_on(world: World, name: str, given: bytes = b"") -> Fill:
    """Start again what serves and what fetches, where it does not run; ``given``: a directory on the new home whose files may be
    what is missing. NotFoundError where nothing is being filled."""
    fill = fill_of(world, name)
    if fill is None or fill.status.move is None:
        raise NotFoundError(
            f"nothing of {name} is missing", why="no lazy move of it is under way", remedy=f"voltool where {name}"
        )
    move = fill.status.move
    if not move.lazy:
        return _end(world, fill, move)
    fault = ""
    sources: tuple[replicas.FetchSource, ...] = ()
    try:
        served = _served_again(world, move.source.host, fill)
        sources, fault = served.sources, "; ".join(served.faults.values())
    except VoltoolError as error:
        fault = error.why or error.what
    with world.hosts.connect(fill.volume.host) as there:
        there.send(moving.AskFill(fill.volume.uuid, go_on=True, sources=sources, given=given))
        status = expect(there, moving.FillStatus)
    return Fill(fill.volume, status, fault)


def _end(world: World, fill: Fill, move: TargetMove) -> Fill:
    """All has come: the old home may purge its copy, and the new one needs nothing more for it."""
    with world.hosts.connect(move.source.host) as here:
        here.send(moving.ReleaseRetired(move.uuid, move.move_id))
        expect(here, messages.Done)
    with world.hosts.connect(fill.volume.host) as there:
        there.send(moving.AskFill(fill.volume.uuid, told=True))
        return Fill(fill.volume, expect(there, moving.FillStatus))


def _served_again(world: World, host: str, fill: Fill) -> Served:
    """By the way by which files came before."""
    move = fill.status.move
    assert move is not None
    with world.hosts.connect(host) as here:
        here.send(moving.ListMoves())
        found = expect(here, moving.MovesReply).sources
    left = next((source for source in found if source.move_id == move.move_id), None)
    if left is None:
        raise UnreachableError("the old home does not know the move any more", where=host)
    with _old_home(world, KnownVolume(move.uuid, move.name, host, left.path, ""), left) as old_home:
        served = old_home.serve(None)
        if fill.status.way != replicas.WAY_REVERSE:
            return Served(served.sources, {})
        coming = old_home.let_come(served.sources[0], stay=True)
    sources = tuple(dataclasses.replace(source, comes=True) for source in served.sources)
    return Served(sources, {host: coming.why} if coming.why else {})
