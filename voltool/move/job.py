"""`voltool move`: finds the two homes, opens a session with each, and lets `driver` do the rest. Also resume, abort, status."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from voltool.errors import (
    BusyError,
    InterruptedByUser,
    Interruption,
    NotFoundError,
    PathBrokenError,
    RefusedError,
    UnreachableError,
    VoltoolError,
)
from voltool.events import Notice
from voltool.model import (
    ABORTING,
    COPYING,
    MOVED,
    PREPARED,
    PUBLISHED,
    RECEIVING,
    RETIRED,
    RETIRING,
    KnownVolume,
    Peer,
    SourceMove,
    TargetMove,
)
from voltool.move import driver
from voltool.move.driver import Moved, MoveOptions
from voltool.move.find import find_move
from voltool.move.lazy import CannotFetchError, prepare_to_fetch, stop_serving
from voltool.move.ports import World
from voltool.move.record import MoveUndoneError, record_abort, recorded
from voltool.move.sessions import SessionSettings, SourceSession, TargetSession
from voltool.remote.paths import AUTO, RELAY, open_path
from voltool.remote.session import RUN_AGAIN
from voltool.showing import shown
from voltool.wire import messages, moving
from voltool.wire.conversation import Conversation, expect

#: So often may the direct path break in one move; before the last time the relay is taken, where that is allowed.
_MOST_BREAKS = 3
#: Phases of the old home's record in which all has been sent.
_NOTHING_TO_SEND = (MOVED, RETIRED)
#: Of a record that is only a wish yet.
PLANNED = "planned"


@dataclass(frozen=True)
class MoveWish:
    """Move ``name`` to ``host`` and ``path`` (None: the path it has). ``settings`` and ``options`` say how; ``lazy``: it takes
    over at once, and its files follow."""

    name: str
    host: str
    path: bytes | None
    settings: SessionSettings
    options: MoveOptions
    lazy: bool = False


@dataclass(frozen=True)
class Which:
    """The move of the volume ``name``. Where the catalog does not know it, ``host`` is either of its ends; without that,
    ``others`` are asked."""

    name: str
    host: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ends:
    """Where a move leads from and to."""

    volume: KnownVolume
    source: SourceMove


@dataclass(frozen=True)
class Standing:
    """What the two hosts' records say of a move; ``command`` goes on, ``what`` says it in words."""

    name: str
    source: SourceMove | None
    target: TargetMove | None
    what: str
    command: str


def move_volume(world: World, wish: MoveWish) -> tuple[Moved, Ends]:
    """Move a volume, from the beginning. RefusedError where a move of it is under way already."""
    volume = world.catalog.volume(wish.name)
    path = wish.path or volume.path
    target = Peer(wish.host, "", "", path)
    move = SourceMove(uuid.uuid4().hex, volume.uuid, volume.name, volume.path, target, PLANNED, int(time.time()))
    move = dataclasses.replace(move, lazy=wish.lazy)
    if wish.host == volume.host:
        raise RefusedError(
            "the volume is on that host already",
            where=wish.host,
            remedy="another host; on one host, rename the directory and say so: voltool volume set",
        )
    with recorded(world, volume, move.target) as listening:
        return _carry_out(listening, volume, move, wish.settings, wish.options), Ends(volume, move)


def resume_move(world: World, which: Which, settings: SessionSettings, options: MoveOptions) -> tuple[Moved, Ends]:
    """Go on with the move of a volume, whatever it was that stopped it. NotFoundError where there is none."""
    volume, move = _known_move(world, which)
    with recorded(world, volume, move.target) as listening:
        return _carry_out(listening, volume, move, settings, options), Ends(volume, move)


def abort_move(world: World, which: Which, *, forget_target: bool = False) -> Ends:
    """Undo the move of a volume: it stays where it is. RefusedError after the commit; NotFoundError where there is none.

    ``forget_target``: the new home is not asked, for it is lost."""
    volume, move = _known_move(world, which)
    if forget_target:
        _undo_alone(world, volume, move)
    else:
        try:
            _undo(world, volume, move)
        except UnreachableError as error:
            error.remedy += (
                f"; if {move.target.host} is lost for good: voltool move --abort {volume.name} --forget-target"
            )
            raise
    record_abort(world, volume, move.target)
    return Ends(volume, move)


def standing(world: World, which: Which) -> Standing:
    """What the hosts' records say."""
    volume, source = find_move(world, which.name, which.host, which.others)
    name = which.name
    target = None
    if source is not None:
        with contextlib.suppress(UnreachableError), world.hosts.connect(source.target.host) as agent:
            agent.send(moving.ListMoves())
            found = expect(agent, moving.MovesReply).targets
            target = next((move for move in found if move.move_id == source.move_id), None)
    return Standing(name, source, target, *_in_words(name, volume.host, source, target))


def _in_words(name: str, home: str, source: SourceMove | None, target: TargetMove | None) -> tuple[str, str]:
    if source is None:
        return "no move is under way", ""
    place = f"{source.target.host}:{shown(source.target.path)}"
    go_on = f"voltool move --resume {name}"
    if source.phase == RETIRED:
        return f"no move is under way: it lives at {place}", ""
    if source.phase in (MOVED, RETIRING):
        return f"it is in service nowhere: switched over to {place}, and not published there", go_on
    if source.phase == ABORTING:
        return f"it is in service at {home}; its move to {place} is being undone", f"voltool move --abort {name}"
    arrived = "ready there" if target is not None and target.phase == PREPARED else "arriving there"
    if target is None or target.phase not in (RECEIVING, PREPARED):
        arrived = "nothing is there yet"
    what = f"it is in service at {home} and on its way to {place}: {arrived}"
    return what, f"{go_on}, or voltool move --abort {name}"


def _known_move(world: World, which: Which) -> tuple[KnownVolume, SourceMove]:
    volume, move = find_move(world, which.name, which.host, which.others)
    if move is None:
        raise NotFoundError(
            f"no move of {volume.name} is under way",
            where=volume.host,
            remedy=f"voltool move {volume.name} HOST; voltool move --status {volume.name}",
        )
    return volume, move


def _source_record(world: World, volume: KnownVolume) -> SourceMove | None:
    with world.hosts.connect(volume.host) as agent:
        agent.send(moving.ListMoves())
        found = expect(agent, moving.MovesReply).sources
    return next((move for move in found if move.uuid == volume.uuid), None)


def _carry_out(
    world: World, volume: KnownVolume, move: SourceMove, settings: SessionSettings, options: MoveOptions
) -> Moved:
    try:
        done, moved = _run(world, volume, move, settings, options)
    except Interruption as interruption:
        raise Interruption(_interrupted(world, volume, move, interruption.error)) from None
    except CannotFetchError as error:
        if move.phase == PLANNED:  # nothing of it is anywhere yet
            with contextlib.suppress(VoltoolError):
                _undo(world, volume, _source_record(world, volume) or move)
        raise _with_the_way_on(world, volume, move, error) from None
    except VoltoolError as error:
        raise _with_the_way_on(world, volume, move, error) from None
    world.catalog.put_volume(moved)
    return done


def _run(
    world: World, volume: KnownVolume, move: SourceMove, settings: SessionSettings, options: MoveOptions
) -> tuple[Moved, KnownVolume]:
    """All of the move, and the volume as the catalog shall know it from now on. Where the direct path breaks the sessions begin
    anew, as those of `resume_move`: a lock was undone then, and what has arrived is kept."""
    breaks = 0
    while True:
        try:
            with _sessions(world, volume, move, settings) as (source, target):
                if move.lazy and (source.move is None or source.move.phase not in (MOVED, RETIRED)):
                    prepare_to_fetch(world, volume, source.move or move, target, settings)
                done = driver.run(source, target, options, world.reporter, volume.name)
                return done, _at_its_new_home(volume, move, target)
        except PathBrokenError as error:
            breaks += 1
            if breaks == _MOST_BREAKS:
                raise
            text = f"{volume.name}: {error}; it goes on from what has arrived"
            if breaks == _MOST_BREAKS - 1 and settings.path == AUTO:
                settings = dataclasses.replace(settings, path=RELAY)
                text += ", through this machine"
            world.reporter.report(Notice("warning", text))
        move = _source_record(world, volume) or move


def _at_its_new_home(volume: KnownVolume, move: SourceMove, target: TargetSession) -> KnownVolume:
    host, path = move.target.host, move.target.path
    record = target.ask_for_volume(volume.uuid, path)
    about = target.about
    hostname, machine_id = (about.hostname, about.machine_id) if host == "local" else ("", "")
    return dataclasses.replace(
        volume, host=host, path=path, driver=record.driver, hostname=hostname, machine_id=machine_id
    )


@contextlib.contextmanager
def _sessions(
    world: World, volume: KnownVolume, move: SourceMove, settings: SessionSettings
) -> Iterator[tuple[SourceSession, TargetSession]]:
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(world.hosts.connect(move.target.host))
        here = stack.enter_context(world.hosts.connect(volume.host))
        about_there, about_here = there.agent, here.agent
        if (
            about_here.machine_id
            and about_here.machine_id == about_there.machine_id
            and volume.path == move.target.path
        ):
            raise RefusedError(
                "the volume is on that machine already", where=f"{move.target.host}:{shown(volume.path)}"
            )
        direct = (
            not move.lazy
            and move.phase not in _NOTHING_TO_SEND
            and open_path(here, there, settings.path, world.reporter, volume.name)
        )
        peer = dataclasses.replace(move.target, machine_id=about_there.machine_id, hostname=about_there.hostname)
        source = SourceSession(here, dataclasses.replace(move, target=peer), settings, begin=True)
        back = Peer(volume.host, about_here.machine_id, about_here.hostname, volume.path)
        excludes = source.volume.excludes if source.volume is not None else ()
        arriving = TargetMove(
            move.move_id, volume.uuid, volume.name, move.target.path, back, RECEIVING, int(time.time()), excludes
        )
        arriving = dataclasses.replace(arriving, lazy=move.lazy)
        try:
            target = TargetSession(there, arriving, settings, begin=True, direct=direct)
        except (RefusedError, BusyError, NotFoundError):
            if source.move is not None and source.move.phase == COPYING and move.phase == PLANNED:
                source.abort()
                source.forget()
            raise
        yield source, target
        _end(here)
        target.end()


def _end(agent: Conversation) -> None:
    agent.send(moving.EndMove())
    expect(agent, messages.Done)


def _undo(world: World, volume: KnownVolume, move: SourceMove) -> None:
    with world.hosts.connect(volume.host) as here, world.hosts.connect(move.target.host) as there:
        settings = SessionSettings(owner=world.caller)
        source = SourceSession(here, move, settings, begin=False)
        back = Peer(volume.host, "", "", volume.path)
        arriving = TargetMove(move.move_id, volume.uuid, volume.name, move.target.path, back, RECEIVING, move.since)
        arriving = dataclasses.replace(arriving, lazy=move.lazy)
        target = TargetSession(there, arriving, settings, begin=False)
        driver.abort(source, target)
        if move.lazy:
            stop_serving(world, volume.host, move.move_id)
        for agent in (here, there):
            _end(agent)


def _undo_alone(world: World, volume: KnownVolume, move: SourceMove) -> None:
    with world.hosts.connect(volume.host) as here:
        driver.abort_alone(SourceSession(here, move, SessionSettings(owner=world.caller), begin=False))
        _end(here)


def _interrupted(world: World, volume: KnownVolume, move: SourceMove, error: InterruptedByUser) -> InterruptedByUser:
    """Ctrl-C: before the commit everything is undone; after it, what to do is said."""
    state = ""
    try:
        known = _source_record(world, volume)
        if known is None or known.phase in (COPYING, ABORTING, RETIRING):
            world.reporter.report(Notice("warning", f"{volume.name}: interrupted; the move is being undone"))
            _undo(world, volume, known or move)
            return MoveUndoneError(
                "interrupted", why=error.why, remedy=f"nothing: the move is undone, {volume.name} is where it was"
            )
        state = f"the volume was switched over to {move.target.host} already"
    except VoltoolError as failure:
        state = f"the hosts could not be told: {failure}"
    return InterruptedByUser("interrupted", why=f"{error.why}; {state}", remedy=f"voltool move --resume {volume.name}")


def _with_the_way_on(world: World, volume: KnownVolume, move: SourceMove, error: VoltoolError) -> VoltoolError:
    """The error, with what state the move is in and the command that goes on, where there is a move."""
    try:
        now = standing(world, Which(volume.name, volume.host))
        what, command = now.what, now.command
    except VoltoolError:
        what, command = _seen_from_the_target(world, volume, move)
    if command and command not in error.remedy:
        error.why = f"{error.why}; {what}" if error.why else what
        keep = error.remedy and not error.remedy.startswith(RUN_AGAIN)
        error.remedy = f"{error.remedy}; then {command}" if keep else command
    return error


def _seen_from_the_target(world: World, volume: KnownVolume, move: SourceMove) -> tuple[str, str]:
    """What can be said where the old home cannot be asked: nothing is switched over before the new one is prepared."""
    place = f"{move.target.host}:{shown(move.target.path)}"
    go_on = f"voltool move --resume {volume.name}, when {volume.host} answers"
    look = f"voltool move --status {volume.name}"
    try:
        phase = _target_phase(world, move)
    except VoltoolError:
        return f"neither {volume.host} nor {move.target.host} can be asked where it is in service", look
    if phase is None:
        return f"nothing of it is at {move.target.host}: it is in service at {volume.host}", look
    if phase == PUBLISHED:
        return f"it is in service at {place}, which {volume.host} may not know", go_on
    if phase == PREPARED:
        what = f"{volume.host} cannot be asked whether it has switched over: it is in service there, or nowhere until"
        return f"{what} the move goes on; a lock that stands there ends by itself", go_on
    return f"it is in service at {volume.host}, where a lock that still stands ends by itself", go_on


def _target_phase(world: World, move: SourceMove) -> str | None:
    with world.hosts.connect(move.target.host) as agent:
        agent.send(moving.ListMoves())
        found = expect(agent, moving.MovesReply).targets
    return next((target.phase for target in found if target.move_id == move.move_id), None)
