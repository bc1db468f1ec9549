"""The verb AskFill: how far a lazy move's fill is, what is missing by name, and going on with it. Ships to servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Iterator, Tuple

from voltool.agent.daemon import Running
from voltool.agent.door.book import DoorBook
from voltool.agent.host import HostState
from voltool.agent.lazy.lacking import missing_paths
from voltool.agent.lazy.mounted import read_status
from voltool.agent.lazymove import overlay
from voltool.agent.lazymove.home import HomeWishes, LazyHome, let_go
from voltool.errors import RefusedError, VoltoolError
from voltool.model import PUBLISHED
from voltool.showing import shown
from voltool.volumes.moving.records import MoveBook
from voltool.wire.conversation import Conversation
from voltool.wire.moving import AskFill, FillStatus
from voltool.wire.replicas import WAY_REVERSE, way_of


def ask_fill(request: AskFill, conversation: Conversation, host: HostState) -> FillStatus:
    """Handle `AskFill`. RefusedError for a directory that is none."""
    del conversation
    move = MoveBook(host.directory).target(request.uuid)
    if move is None:
        return FillStatus(None)
    home = LazyHome(host, move)
    if not move.lazy and home.daemon.wishes() is None:
        return FillStatus(None)
    if request.told and not move.lazy:
        with home.daemon.controlled():
            home.daemon.remove()
        let_go(home)
        return FillStatus(None)
    if request.go_on or request.sources or request.given:
        _go_on(request, home)
    return status_of(home, request.paths)


def status_of(home: LazyHome, most: int) -> FillStatus:
    """See `FillStatus`; at ``most`` so many paths, -1: all."""
    move, running = home.move, home.daemon.running()
    if not move.lazy:
        return FillStatus(move, running=running is not None)
    status = read_status(home.status_file)
    files, size = (status.missing_files, status.missing_bytes) if status is not None else (0, 0)
    paths: Tuple[bytes, ...] = ()
    if home.is_whole():
        files = size = 0
    elif most or status is None:
        missing = missing_paths(home.staging)
        files = len(missing)
        paths = tuple(missing[:most] if most >= 0 else missing)
    alive = running is not None and running.ready
    way = way_of(home.wishes().sources)
    return FillStatus(move, files, size, alive, tuple(_faults(home, running)), paths, way)


def _faults(home: LazyHome, running: object) -> Iterator[str]:
    last = home.daemon.last()
    if running is None:
        yield "the process that fetches does not run" + (f": {last.fault}" if last is not None and last.fault else "")
    elif isinstance(running, Running) and running.facts.get("waiting"):
        yield f"all has come; it cannot end yet: {running.facts['waiting']}"
    if home.move.phase == PUBLISHED and not overlay.is_mounted(home.layers.path) and not home.is_whole():
        yield f"nothing is mounted at {shown(home.layers.path)}"
    door = DoorBook(home.host.directory, home.move.move_id)
    if way_of(home.wishes().sources) == WAY_REVERSE and door.daemon.running() is None:
        yield "the process that lets the old home come does not run"
    status = read_status(home.status_file)
    if status is not None and status.full:
        yield "the file system is full: what comes cannot be kept"
    if status is not None and status.fault:
        yield status.fault


def _go_on(request: AskFill, home: LazyHome) -> None:
    if request.given and not os.path.isdir(request.given):
        raise RefusedError(
            "there is no such directory", where=shown(request.given), remedy="a directory on the new home"
        )
    with home.daemon.controlled():
        before = wishes = home.wishes()
        if request.sources:
            wishes = dataclasses.replace(wishes, sources=request.sources)
        if request.given and request.given not in wishes.given:
            wishes = dataclasses.replace(wishes, given=(*wishes.given, request.given))
        running = home.daemon.running()
        if running is None or not running.ready:
            start(home, wishes)
        elif wishes != before:
            home.save(wishes)  # it looks


def start(home: LazyHome, wishes: HomeWishes) -> None:
    """Let the process run with these wishes, anew; inside `Daemon.controlled`. HostError where it does not come up."""
    with contextlib.suppress(VoltoolError):
        home.daemon.stop()
    home.save(wishes)
    home.daemon.start(f"voltool: brings {home.move.name} to its new home")
