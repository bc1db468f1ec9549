"""Which tree a replica serves: what tells it from others, its state, and whether somebody has changed it. Ships to servers.

``served.json`` in the replica's place. A subvolume that was changed has another generation; of any other tree every stamp is
compared with those taken when it was swapped in. Links that voltool itself makes to the files of a tree, or takes away, change
their ctime and their count of links: while that may be so (``loose``) these two are not compared.
A subvolume's directories have other times than their stamps, which are taken before it is put together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from typing import Optional

from voltool import durable
from voltool.agent.replica import guard
from voltool.agent.replica.place import ReplicaPlace
from voltool.agent.replica.stamping import compare_stamps, take_all_stamps
from voltool.frozen import dataclass
from voltool.tree.state import StateKeeper

_FORMAT = 1


@dataclass(frozen=True)
class Served:
    """``state_id`` of the tree at the path, ``identity`` of that tree (`guard.identity_of`), ``generation`` where it has one.
    ``loose``: see the module."""

    state_id: str
    identity: str
    generation: int = 0
    loose: bool = False


class ServedTree:
    """The tree at a replica's path. ``known`` is None where none has been swapped in yet."""

    def __init__(self, place: ReplicaPlace) -> None:
        self._place = place
        self.known = self._load()

    def _load(self) -> Optional[Served]:
        try:
            with open(self._place.served, "rb") as file:
                content = json.load(file)
            return Served(**content["served"]) if content["format"] == _FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, served: Served) -> None:
        """Durably."""
        content = {"format": _FORMAT, "served": dataclasses.asdict(served)}
        durable.write_file(self._place.served, json.dumps(content).encode() + b"\n")
        self.known = served

    def is_there(self) -> bool:
        """Whether the tree that was swapped in is what stands at the path."""
        return self.known is not None and guard.identity_of(self._place.path) == self.known.identity

    def loosen(self) -> None:
        """Links to its files are about to be made. Durable before the first one."""
        if self.known is not None and not self.known.loose:
            self.save(dataclasses.replace(self.known, loose=True))

    def difference(self) -> Optional[bytes]:
        """The path of something in it that somebody has changed; None where everything is as it was swapped in. Where only
        links were made, its stamps are taken anew. Raises OSError."""
        known = self.known
        assert known is not None
        generation = guard.generation_of(self._place.path)
        if generation and generation == known.generation:
            return None
        state = StateKeeper(self._place.states).open(known.state_id)
        if state is None:
            return b""
        with contextlib.closing(state):
            return compare_stamps(self._place, state, loose=known.loose, directories=not generation)

    def settle(self) -> None:
        """Nobody but voltool has touched it since it was compared: what it is now is what is to be found next time. Raises
        OSError."""
        known = self.known
        assert known is not None
        state = StateKeeper(self._place.states).open(known.state_id)
        if state is None:
            return
        generation = guard.generation_of(self._place.path)
        if not generation or known.loose:
            with contextlib.closing(state):
                take_all_stamps(self._place, state)
        self.save(dataclasses.replace(known, generation=generation, loose=False))


def forget_served(place: ReplicaPlace) -> None:
    """No tree is served any more. Idempotent."""
    if os.path.isdir(place.directory):
        durable.remove_file(place.served)
