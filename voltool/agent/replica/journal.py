"""A swap that has begun goes on, whatever is cut off: its journal, and its steps, which can be repeated. Ships to servers.

The journal is written when what is to be served is complete and only needs its name. From then on the replica has that state, and
every start of a session first finishes the swap; before it, what was served goes on being served.

    publish     what is in staging becomes `next`, whole                 (journal: no identity yet)
    exchange    `previous` goes; the path and `next` change places       (journal: the identity of `next`)
    settle      what was served becomes `previous`; the record; the journal goes
"""

from __future__ import annotations

import json
import os
from typing import Optional

from voltool import durable
from voltool.agent.lazy.mounted import is_mounted
from voltool.agent.replica import guard
from voltool.agent.replica.place import ReplicaPlace
from voltool.agent.replica.served import ServedTree
from voltool.errors import AgentError, HostError, RefusedError
from voltool.frozen import dataclass
from voltool.model import ReplicaRecord
from voltool.showing import shown
from voltool.volumes.removal import remove_tree
from voltool.wire.codec import from_plain, to_plain

_FORMAT = 1


@dataclass(frozen=True)
class Swap:
    """``record`` is the replica's once the swap is over; ``identity`` of the tree that is to be served, once it has its name."""

    record: ReplicaRecord
    identity: str = ""


class Journal:
    """The journal of a place."""

    def __init__(self, place: ReplicaPlace) -> None:
        self._place = place

    def read(self) -> Optional[Swap]:
        """The swap that is under way. AgentError where it cannot be read."""
        try:
            with open(self._place.journal, "rb") as file:
                content = json.load(file)
            swap: Swap = from_plain(Swap, content["swap"] if content["format"] == _FORMAT else None)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AgentError) as error:
            raise AgentError(
                "the journal of a replica cannot be read", where=shown(self._place.journal), why=str(error)
            ) from error
        return swap

    def write(self, swap: Swap) -> None:
        """Durably."""
        content = {"format": _FORMAT, "swap": to_plain(swap)}
        durable.write_file(self._place.journal, json.dumps(content, indent=1).encode() + b"\n")

    def remove(self) -> None:
        """It is over. Idempotent."""
        durable.remove_file(self._place.journal)


def exchange(place: ReplicaPlace, identity: str) -> None:
    """Let the tree of that identity be the one at the path, and the one before it `previous`. Repeatable. Raises VoltoolError,
    OSError."""
    if guard.identity_of(place.path) != identity:
        if guard.identity_of(place.next) != identity:
            raise HostError(
                "the new state of a replica is lost",
                where=shown(place.next),
                why="it is neither there nor at the replica's path",
                remedy="voltool replica remove, and add it again",
            )
        _refuse_strangers(place)
        drop_previous(place)
        guard.exchange(place.path, place.next)
    if os.path.lexists(place.next):
        guard.take_mounts_off(place.next)
        if not os.listdir(place.next) and not guard.is_subvolume(place.next):
            os.rmdir(place.next)  # what stood at the path before there was a replica
        else:
            _rename(place.next, place.previous)


def take_away(place: ReplicaPlace) -> None:
    """What is served leaves the path, for good. Repeatable. Raises HostError, OSError."""
    guard.take_mounts_off(place.next)
    remove_tree(place.next)
    guard.take_mounts_off(place.path)
    guard.unprotect(place.path)
    guard.exchange(place.next, place.path)
    guard.take_mounts_off(place.next)


def drop_previous(place: ReplicaPlace) -> None:
    """Give the state before away, for the room it takes. Idempotent. Raises HostError."""
    remove_dropped(place)
    if os.path.lexists(place.previous):
        _rename(place.previous, place.dropped)


def remove_dropped(place: ReplicaPlace) -> None:
    """Take away what was given away. Idempotent. Raises HostError."""
    remove_tree(place.dropped)


def _rename(old: bytes, new: bytes) -> None:
    """Within the place. A read-only subvolume can be renamed where its directory stays the same."""
    durable.rename_new(old, new)
    durable.fsync_directory(os.path.dirname(new))


def _refuse_strangers(place: ReplicaPlace) -> None:
    """At first there may be an empty directory at the path; nothing else that is not ours gives way."""
    if is_mounted(place.path) or ServedTree(place).is_there() or not os.path.lexists(place.path):
        return
    if os.path.islink(place.path) or not os.path.isdir(place.path) or os.listdir(place.path):
        raise RefusedError(
            "something else is where the replica is to be served",
            where=shown(place.path),
            why="it is not the tree that voltool put there, and no empty directory",
            remedy="take it away, then voltool replica sync; or voltool replica remove, and add it at another path",
        )
