"""The manifest of a volume for a lazy replica: a dump of which only the state is kept, and sent; the bytes are fetched later,
from the clone. Ships to servers.

What the volume's own dumps, or those for another replica, have left of states is taken over as the base (hard links), so that
nothing is read that they have read; only what changed since is hashed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from typing import Callable, List

from voltool import durable
from voltool.agent.bases import MOVE_LEVEL, Base, BaseBook
from voltool.agent.manifest import manifest_of_dump
from voltool.agent.replica.out_place import OutPlace, places
from voltool.errors import RefusedError
from voltool.events import Notice
from voltool.model import VolumeRecord
from voltool.showing import shown
from voltool.tree.state import StateKeeper
from voltool.volumes.directory import DirectoryDriver
from voltool.volumes.records import VolumeHome
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation

#: Makes the dump of a step over a conversation, as `agent.replica.out` does.
MakeDump = Callable[[replicas.StartReplicaDump, Conversation], messages.Message]


def dump_manifest(
    step: replicas.StartReplicaDump, conversation: Conversation, home: VolumeHome, place: OutPlace, make: MakeDump
) -> messages.Message:
    """The conversation of `StartReplicaDump` with ``manifest_only``; the caller holds the place's lock. RefusedError where the
    volume has no clones to fetch from."""
    _refuse_without_clones(home.record)
    base = _base(home, place)
    if not base:
        name = home.record.name
        message = (
            f"{name}: no state of the volume is known on its host (no dump has been made): every file is read first"
        )
        conversation.report(Notice("info", message))
    wanted = dataclasses.replace(step, base_state_id=base, codec="none", bandwidth=0, manifest_only=False)
    keeper = StateKeeper(_states(place.directory))
    return manifest_of_dump(lambda silent: make(wanted, silent), conversation, keeper)


def _refuse_without_clones(record: VolumeRecord) -> None:
    if record.driver == DirectoryDriver.name:
        raise RefusedError(
            "this volume cannot be served lazily",
            where=shown(record.path),
            why=f"its driver ({record.driver}) has no clones: while the files are fetched, they would change",
            remedy="voltool replica add without --lazy; a btrfs subvolume can be cloned, and on XFS --driver reflink",
        )


# ------------------------------------------------------------------------------------------------------- the base


def _base(home: VolumeHome, place: OutPlace) -> str:
    """The state that is compared with, in the place's own states; empty: none."""
    keeper = StateKeeper(_states(place.directory))
    known = BaseBook(place.directory).newest()
    if known is not None and _has(keeper, known.state_id):
        return known.state_id
    with home.lock_to_clone(place.replica_id):
        for directory in _lenders(home, place):
            lent = BaseBook(directory).newest()
            if lent is not None and _take_over(directory, place.directory, lent.state_id):
                BaseBook(place.directory).begin_with(Base(lent.state_id, lent.dump_id, lent.label, MOVE_LEVEL))
                return lent.state_id
    return ""


def _lenders(home: VolumeHome, place: OutPlace) -> List[bytes]:
    """Who may know a state: the volume's own dumps, then the other replicas."""
    others = [other.directory for other in places(home.area) if other.directory != place.directory]
    return [home.area, *others]


def _has(keeper: StateKeeper, state_id: str) -> bool:
    state = keeper.open(state_id)
    if state is None:
        return False
    known = state.stamps is not None
    state.close()
    return known


def _take_over(lender: bytes, borrower: bytes, state_id: str) -> bool:
    """Link a state, its block hashes and the secret that keys them. Whether all of it was there."""
    source, target = _states(lender), _states(borrower)
    made = os.path.join(target, state_id.encode())
    durable.make_directory(os.path.join(target, b"blocks"))
    try:
        durable.write_file(os.path.join(target, b"key"), _content(os.path.join(source, b"key")))
        for name in _content(os.path.join(source, state_id.encode(), b"large")).split(b"\n"):
            if name:
                _link(os.path.join(source, b"blocks", name), os.path.join(target, b"blocks", name))
        os.mkdir(made, 0o700)
        for name in os.listdir(os.path.join(source, state_id.encode())):
            _link(os.path.join(source, state_id.encode(), name), os.path.join(made, name))
    except FileNotFoundError:  # another dump has just dropped it
        shutil.rmtree(made, ignore_errors=True)
        return False
    durable.fsync_directory(target)
    return True


def _link(source: bytes, target: bytes) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(source, target)


def _content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _states(directory: bytes) -> bytes:
    return os.path.join(directory, b"states")
