"""The durable records of a move: one on each host, enough to go on from any machine. Ships to servers.

``<state directory>/moves/<uuid>.source.json`` and ``.target.json``; of the source's a copy lies in the volume's area, beside
the tree, so that a host that lost its state directory still knows. Phases only go forward, or the record is removed.
"""

from __future__ import annotations

import json
import os
from typing import List, Optional, Type, TypeVar

from voltool import durable
from voltool.errors import AgentError
from voltool.model import SourceMove, TargetMove
from voltool.wire.codec import from_plain, to_plain

T = TypeVar("T")


class MoveBook:
    """The moves a host takes part in."""

    def __init__(self, state_directory: bytes) -> None:
        self._directory = os.path.join(state_directory, b"moves")

    def source(self, uuid: str) -> Optional[SourceMove]:
        """The record of a volume that leaves, or left, this host."""
        return _read(self._path(uuid, b"source"), SourceMove)

    def target(self, uuid: str) -> Optional[TargetMove]:
        """The record of a volume that comes, or came, to this host."""
        return _read(self._path(uuid, b"target"), TargetMove)

    def save_source(self, move: SourceMove, area: bytes) -> None:
        """Durably; the copy beside the tree first, so that the record counts when both are there."""
        if os.path.isdir(area):
            durable.write_file(os.path.join(area, b"move.json"), _text(move))
        self._save(move.uuid, b"source", _text(move))

    def save_target(self, move: TargetMove) -> None:
        """Durably."""
        self._save(move.uuid, b"target", _text(move))

    def remove_source(self, uuid: str, area: bytes) -> None:
        """Forget it. Idempotent."""
        durable.remove_file(self._path(uuid, b"source"))
        if os.path.isdir(area):
            durable.remove_file(os.path.join(area, b"move.json"))

    def remove_target(self, uuid: str) -> None:
        """Forget it. Idempotent."""
        durable.remove_file(self._path(uuid, b"target"))

    def archive_source(self, uuid: str, area: bytes) -> None:
        """The volume has come back: a retired copy that is still here is one of an older home from now on. Idempotent."""
        move = self.source(uuid)
        if move is not None:
            if os.path.lexists(move.retired_path):
                self._save(uuid, move.move_id[:12].encode() + b".retired", _text(move))
            self.remove_source(uuid, area)

    def archived(self) -> List[SourceMove]:
        """Records of copies that volumes left here before they came back."""
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        paths = [os.path.join(self._directory, name) for name in names if name.endswith(b".retired.json")]
        return [move for move in (_read(path, SourceMove) for path in paths) if move is not None]

    def remove_archived(self, move: SourceMove) -> None:
        """Its copy is purged. Idempotent."""
        durable.remove_file(self._path(move.uuid, move.move_id[:12].encode() + b".retired"))

    def sources(self) -> List[SourceMove]:
        """All volumes that leave, or left."""
        return [move for move in map(self.source, self._uuids(b".source.json")) if move is not None]

    def targets(self) -> List[TargetMove]:
        """All volumes that come, or came."""
        return [move for move in map(self.target, self._uuids(b".target.json")) if move is not None]

    def _uuids(self, suffix: bytes) -> List[str]:
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        return [os.fsdecode(name[: -len(suffix)]) for name in names if name.endswith(suffix)]

    def _path(self, uuid: str, side: bytes) -> bytes:
        if not uuid.replace("-", "").isalnum():
            raise AgentError("a volume's uuid has a form that no voltool gives it")
        return os.path.join(self._directory, uuid.encode() + b"." + side + b".json")

    def _save(self, uuid: str, side: bytes, text: bytes) -> None:
        durable.make_directory(self._directory)
        durable.write_file(self._path(uuid, side), text)


def _text(move: object) -> bytes:
    return json.dumps(to_plain(move), indent=1).encode() + b"\n"


def _read(path: bytes, kind: Type[T]) -> Optional[T]:
    try:
        with open(path, "rb") as file:
            move: T = from_plain(kind, json.load(file))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AgentError("the record of a move cannot be read", where=os.fsdecode(path), why=str(error)) from None
    return move
