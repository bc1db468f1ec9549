"""A home in whose place a replica was promoted steps down: its tree is taken away, as that of a volume that moves. Ships
to servers.

Here nothing depends on the tree's being unchanged: whatever was written to it stays in the retired copy, is found there
and named.
"""

from __future__ import annotations

import dataclasses
from typing import Tuple

from voltool.model import MOVED, RETIRED, RETIRING, SourceMove
from voltool.volumes.moving.ground import SourceGround


class SteppingDown:
    """The caller holds the volume's own lock file."""

    def __init__(self, ground: SourceGround) -> None:
        self._ground = ground

    def leave(self, move: SourceMove) -> SourceMove:
        """Take the tree away, under our lock; the record that is the commit. RefusedError where the lock does not hold any
        more: then all is undone but the lock."""
        ground = self._ground
        with ground.step():
            ground.assert_locked()
            before = ground.load()
            away = dataclasses.replace(move, phase=RETIRING, promoted=True)
            ground.save(away)
            try:
                ground.take_away(away)
                ground.assert_locked()
            except BaseException:
                ground.bring_back(away)
                if before is None:
                    ground.remove()
                else:
                    ground.save(before)
                raise
            moved = dataclasses.replace(away, phase=MOVED)
            ground.save(moved)
        return moved

    def settle(self, move: SourceMove, state_id: str, aside: Tuple[bytes, ...], count: int) -> SourceMove:
        """What is here is only the retired copy, and has so much that is nowhere else. ``state_id``: the state that the
        copy is, so that a way back can use it up; empty where it has something of its own. Idempotent; `leave_retired`
        does what a crash leaves of it."""
        retired = dataclasses.replace(move, phase=RETIRED, state_id=state_id, aside=aside, aside_count=count)
        self._ground.save(retired)
        self._ground.leave(retired)
        return retired

    def leave_retired(self) -> None:
        """Let go of what a home has beside its tree. Idempotent."""
        move = self._ground.load()
        if move is not None and move.promoted and move.phase == RETIRED:
            self._ground.leave(move)
