"""`host clean`: take away all that voltool has on this host, once no volume lives here. Ships to servers.

Only what is known to be voltool's is removed: areas of forgotten volumes, staging in voltool's own directories, the
registry, the cached agents, the log. What else lies in the state directory (on the machine of the command line also its
catalog and default store) stays. docs/footprint.md lists every path.
"""

from __future__ import annotations

import contextlib
import os
from typing import List, Sequence

from voltool import durable
from voltool.agent.host import HostState
from voltool.agent.lazy.examining import remove_daemons
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import RefusedError
from voltool.events import Notice
from voltool.model import PUBLISHED, RETIRED
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.removal import remove_tree
from voltool.volumes.zfs import clear_area
from voltool.wire import messages
from voltool.wire.conversation import Conversation

_STAGING = b"staging-"
#: In the order in which they go: a clean that is interrupted must still find the rest, and needs the agent to the last.
_STATE_PARTS = (b"places", b"locks", b"moves", b"replicas", b"daemons", b"keys", b"volumes", b"log", b"agent")


def clean_host(request: messages.CleanHost, conversation: Conversation, host: HostState) -> messages.CleanReply:
    """Remove (or, with ``dry_run``, list) everything. Idempotent. Raises RefusedError, BusyError, HostError."""
    entries = records.list_entries(host.directory)
    _refuse_living([entry for entry in entries if entry.lives])
    _refuse_moves(MoveBook(host.directory))
    _refuse_replicas(ReplicaBook(host.directory))
    areas = sorted({entry.area for entry in entries if os.path.lexists(entry.area)})
    homes = _own_directories(host, areas)
    doomed = [*areas, *_staging_in(homes, host), *_state_parts(host)]
    for entry in entries:
        if not entry.forgotten and not os.path.lexists(entry.area):
            conversation.report(
                Notice("warning", f"{shown(entry.area)} is not there (not mounted?): it is forgotten, not removed")
            )
    if not request.dry_run:
        remove_daemons(host)
        with contextlib.ExitStack() as stack:
            for path in doomed:
                _lock(path, stack)
            for area in areas:
                clear_area(area)
            for path in doomed:
                remove_tree(path)
        _remove_empty([*homes, host.directory])
    return messages.CleanReply(tuple(doomed))


def _refuse_living(entries: Sequence[records.RegistryEntry]) -> None:
    if entries:
        raise RefusedError(
            "a volume lives on this host",
            where=", ".join(shown(entry.path) for entry in entries),
            why="its records and clones are what the next dump compares with",
            remedy="voltool volume remove NAME first, for each of them",
        )


def _refuse_moves(book: MoveBook) -> None:
    """A move's records and copies are not left-overs: they may be all that there is of a volume."""
    for move in (*book.sources(), *book.archived()):
        if move.phase != RETIRED or os.path.lexists(move.retired_path):
            raise RefusedError(
                "a volume's retired copy, or a move, is on this host",
                where=shown(move.retired_path if move.phase == RETIRED else move.path),
                why=f"{move.name} has moved to {move.target.host}"
                if move.phase == RETIRED
                else f"the move is {move.phase}",
                remedy=f"voltool retired purge {move.name} HOST, or voltool move --resume {move.name}",
            )
    for arriving in book.targets():
        if arriving.phase != PUBLISHED:
            raise RefusedError(
                "a move to this host is under way",
                where=shown(arriving.path),
                remedy=f"voltool move --resume {arriving.name}, or --abort {arriving.name}",
            )


def _refuse_replicas(book: ReplicaBook) -> None:
    """A replica may be all that is left of a volume, and is somebody's to read."""
    known = book.replicas()
    if known:
        raise RefusedError(
            "a replica is on this host",
            where=", ".join(shown(record.path) for record in known),
            why="its tree would lose what keeps it up to date, and nobody would know what it is",
            remedy=f"voltool replica remove {known[0].name} HOST first (its tree stays without --purge)",
        )


def _own_directories(host: HostState, areas: Sequence[bytes]) -> List[bytes]:
    """Every `.voltool` that we know of: of areas and of remembered places."""
    found = {os.path.dirname(area) for area in areas}
    found |= {os.path.dirname(place) for place in records.remembered_areas(host.directory)}
    return sorted(path for path in found if _is_ours(path))


def _is_ours(path: bytes) -> bool:
    """A `.voltool` that somebody else made is not touched."""
    try:
        records.check_own_directory(path)
    except (OSError, RefusedError):
        return False
    return os.path.basename(path) == records.AREA_NAME


def _staging_in(homes: Sequence[bytes], host: HostState) -> List[bytes]:
    found = {
        os.path.join(home, name)
        for home in homes
        for name in os.listdir(home)
        if name.startswith(_STAGING)
    }  # fmt: skip
    found |= {place for place in records.remembered_areas(host.directory) if os.path.lexists(place)}
    return sorted(path for path in found if _is_ours(os.path.dirname(path)))


def _state_parts(host: HostState) -> List[bytes]:
    paths = [os.path.join(host.directory, part) for part in _STATE_PARTS]
    return [path for path in paths if os.path.lexists(path)]


def _lock(path: bytes, stack: contextlib.ExitStack) -> None:
    """Areas and staging have a lock file; whoever works there makes us stop before anything is removed."""
    lock = os.path.join(path, records.LOCK_NAME)
    if os.path.isfile(lock) and not os.path.islink(lock):
        stack.enter_context(durable.FileLock(lock, what=shown(path), owner="voltool host clean"))


def _remove_empty(directories: Sequence[bytes]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            os.rmdir(directory)
