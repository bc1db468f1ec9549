"""The new home's steps: begin, prepare, publish, abort. Ships to servers.

Nothing is published without the source's record that says so; what is only prepared can be thrown away at any time, for
before the commit the source has everything.
"""

from __future__ import annotations

import dataclasses
from typing import Optional

from voltool.errors import BusyError, IntegrityError, NotFoundError, RefusedError
from voltool.model import MOVED, PREPARED, PUBLISHED, RECEIVING, RETIRED, Epoch, SourceMove, TargetMove
from voltool.showing import shown
from voltool.volumes.moving.ground import TargetGround


class MovingTarget:
    """One volume that comes."""

    def __init__(self, ground: TargetGround) -> None:
        self._ground = ground

    def status(self) -> Optional[TargetMove]:
        """The record."""
        return self._ground.load()

    def begin(self, move: TargetMove) -> TargetMove:
        """Begin to receive, or go on (same id). BusyError while another move brings the volume here; RefusedError where
        the target has content, NotFoundError where there is no directory for it: then nothing has begun."""
        known = self._ground.load()
        if known is not None and _is_void(known, move):
            self._ground.discard(known)
            self._ground.remove()
            known = None
        if known is not None and (known.phase != PUBLISHED or known.lazy) and known.move_id != move.move_id:
            raise BusyError(
                "another move brings the volume to this host already",
                where=shown(known.path),
                why=f"from {known.source.host}:{shown(known.source.path)}",
                remedy=f"voltool move --resume {known.name}, or --abort {known.name}",
            )
        if known is not None and known.move_id == move.move_id:
            if known.phase != PUBLISHED:
                self._ground.open_staging(known)
            return known
        begun = dataclasses.replace(move, phase=RECEIVING, epoch=None, state_id="")
        self._ground.save(begun)
        try:
            self._ground.open_staging(begun)
        except (RefusedError, NotFoundError):
            self._ground.remove()
            raise
        return begun

    def reopen(self) -> None:
        """What was prepared is to receive once more, since the source was not switched. Idempotent."""
        move = self._here()
        if move.phase == PREPARED:
            self._ground.save(dataclasses.replace(move, phase=RECEIVING, epoch=None, state_id=""))

    def prepare(self, epoch: Epoch, state_id: str, sequence: int) -> TargetMove:
        """Everything has come: make it ready, durably; the volume's sequence goes on from ``sequence``.

        IntegrityError where it is not ``state_id`` that staging holds.
        """
        move = self._here()
        held = self._ground.held_state()
        if held != state_id:
            raise IntegrityError("the copy is not what the source sent last", where=shown(move.path))
        ready = self._ground.make_ready(move)
        prepared = dataclasses.replace(ready, phase=PREPARED, epoch=epoch, state_id=state_id, sequence=sequence)
        self._ground.save(prepared)
        return prepared

    def publish(self, proof: SourceMove) -> TargetMove:
        """Become the volume's home, given the source's record that it has moved. RefusedError for any other. Idempotent."""
        move = self._here()
        same = (move.move_id, move.uuid) == (proof.move_id, proof.uuid)
        if same and move.phase == PUBLISHED:
            return move
        switched = proof.phase in (MOVED, RETIRED) and (move.epoch, move.state_id) == (proof.epoch, proof.state_id)
        if not same or not switched or move.phase != PREPARED:
            raise RefusedError(
                "the copy is not to be published",
                where=shown(move.path),
                why="the volume's old home has not given it up",
                remedy="voltool move --status",
            )
        self._ground.publish(move)
        published = dataclasses.replace(move, phase=PUBLISHED)
        self._ground.save(published)
        return published

    def abort(self, move_id: str) -> None:
        """Throw the copy away. Only after the source's record is gone. RefusedError when it is published. Idempotent."""
        move = self._ground.load()
        if move is None or move.move_id != move_id:
            return
        if move.phase == PUBLISHED:
            raise RefusedError("the volume lives here already", where=shown(move.path), remedy="voltool move it back")
        self._ground.discard(move)
        self._ground.remove()

    def _here(self) -> TargetMove:
        move = self._ground.load()
        if move is None:
            raise RefusedError("no move brings the volume here", why="it was aborted", remedy="voltool move --status")
        return move


def _is_void(known: TargetMove, move: TargetMove) -> bool:
    """Whether another move from the same home has begun: a home has one move at a time, so this one was undone there, without
    us, and can never be committed."""
    same_home = known.source.machine_id != "" and known.source.machine_id == move.source.machine_id
    return (
        same_home
        and known.source.path == move.source.path
        and known.phase != PUBLISHED
        and known.move_id != move.move_id
    )
