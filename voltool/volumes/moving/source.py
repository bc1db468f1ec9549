"""The old home's steps: begin, switch (with the commit), the way back before it, and settle after it. Ships to servers.

The record is the truth. Up to MOVED everything can be undone, the rename too; from MOVED on it only goes forward.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

from voltool.errors import BusyError, RefusedError
from voltool.model import ABORTING, COPYING, MOVED, RETIRED, RETIRING, Epoch, SourceMove
from voltool.showing import shown
from voltool.volumes.moving.ground import SourceGround


class MovingSource:
    """One volume that leaves. The caller holds the volume's own lock file."""

    def __init__(self, ground: SourceGround) -> None:
        self._ground = ground

    def status(self) -> Optional[SourceMove]:
        """The record."""
        return self._ground.load()

    def begin(self, move: SourceMove) -> SourceMove:
        """Begin the move, or go on with it (same id): undo what a switch left half-done. The record.

        BusyError while another move of the volume is under way; RefusedError where this one is over.
        """
        known = self.recover()
        if known is not None and known.phase != RETIRED and known.move_id != move.move_id:
            raise BusyError(
                "the volume is being moved already",
                where=shown(known.path),
                why=f"to {known.target.host}:{shown(known.target.path)}",
                remedy=f"voltool move --resume {known.name}, or --abort {known.name}",
            )
        if known is not None and known.phase == ABORTING:
            raise RefusedError(
                "the move is being undone",
                where=shown(known.path),
                remedy=f"voltool move --abort {known.name}, then begin anew",
            )
        if known is not None and known.move_id == move.move_id:
            return known
        begun = dataclasses.replace(move, phase=COPYING, epoch=None, state_id="")
        self._ground.save(begun)
        return begun

    def switch(self, epoch: Epoch, state_id: str) -> SourceMove:
        """The switch of home; the record that is the commit. Only under our lock, with everything sent and prepared.

        RefusedError where the lock does not hold any more or something has changed: then all is undone but the lock.
        """
        ground = self._ground
        with ground.step():
            move = self._copying()
            ground.assert_locked()
            away = dataclasses.replace(move, phase=RETIRING, epoch=epoch, state_id=state_id)
            ground.save(away)
            try:
                ground.take_away(away)
                ground.assert_unchanged(state_id)
                ground.assert_locked()
            except BaseException:
                ground.bring_back(away)
                ground.save(move)
                raise
            moved = dataclasses.replace(away, phase=MOVED)
            ground.save(moved)
        return moved

    def recover(self) -> Optional[SourceMove]:
        """After a crash: a switch that was not committed is undone. The record, None without a move. Idempotent. Of a home that
        steps down nothing is left then: it is told again.

        A restarted agent does it before anything else, and so does the guardian of the lock when its agent is gone.
        """
        with self._ground.step():
            move = self._ground.load()
            if move is None or move.phase != RETIRING:
                return move
            self._ground.bring_back(move)
            if move.promoted:
                self._ground.remove()
                return None
            back = dataclasses.replace(move, phase=COPYING, epoch=None, state_id="")
            self._ground.save(back)
        return back

    def abort(self) -> None:
        """The move is off: the volume stays here, writable; `forget` when the copy is gone. RefusedError after the commit.

        Idempotent.
        """
        move = self.recover()
        if move is not None and move.phase in (MOVED, RETIRED):
            raise RefusedError(
                "the volume has moved already",
                where=shown(move.path),
                why=f"it lives at {move.target.host}:{shown(move.target.path)}, though it may not be in service there yet",
                remedy=f"voltool move --resume {move.name} brings it into service; then move it back",
            )
        self._ground.unlock()
        with self._ground.step():
            if move is not None and move.phase == COPYING:
                self._ground.save(dataclasses.replace(move, phase=ABORTING))

    def forget(self) -> None:
        """The copy of an aborted move is thrown away: nothing is left of it. Idempotent."""
        move = self._ground.load()
        if move is not None and move.phase == ABORTING:
            self._ground.remove()

    def settle(self) -> SourceMove:
        """The target has published: what is here is the retired copy. Idempotent."""
        move = self._ground.load()
        if move is None or move.phase not in (MOVED, RETIRED):
            raise RefusedError("the volume has not moved", remedy="voltool move --resume")
        self._ground.leave(move)
        retired = dataclasses.replace(move, phase=RETIRED)
        self._ground.save(retired)
        return retired

    def _copying(self) -> SourceMove:
        move = self._ground.load()
        if move is None or move.phase != COPYING:
            raise RefusedError(
                "the volume is not being moved",
                why="the move was aborted" if move is None else f"it is {move.phase}",
                remedy="voltool move --status",
            )
        return move
