"""What the steps of a move stand on, as narrow protocols: so a whole move runs in one process, and crashes everywhere, in a
test. Ships to servers. Every operation is durable when it returns, and may be repeated after a crash."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Optional, Protocol

from voltool.model import SourceMove, TargetMove


class SourceGround(Protocol):
    """The old home."""

    def load(self) -> Optional[SourceMove]:
        """The record of this volume's move, if there is one."""

    def save(self, move: SourceMove) -> None:
        """Replace it."""

    def remove(self) -> None:
        """Forget it. Idempotent."""

    def step(self) -> AbstractContextManager[None]:
        """Inside, nobody else changes record, lock or tree: the guardian of the lock neither."""

    def assert_locked(self) -> None:
        """RefusedError unless our lock stands, with its lease and its guardian. Inside `step`."""

    def assert_unchanged(self, state_id: str) -> None:
        """RefusedError unless every stamp of the tree, wherever it stands, is that of the scan of ``state_id``."""

    def is_away(self, move: SourceMove) -> bool:
        """Whether the tree stands at ``retired_path``."""

    def take_away(self, move: SourceMove) -> None:
        """Exchange the locked tree with an empty directory; it stays read-only for everybody. Inside `step`."""

    def bring_back(self, move: SourceMove) -> None:
        """Exchange again. Idempotent. Inside `step`."""

    def unlock(self) -> None:
        """Undo our lock, if it stands: the tree is writable again, after_unlock runs. Idempotent. Not inside `step`."""

    def leave(self, move: SourceMove) -> None:
        """The volume lives elsewhere: take the lock's mounts off the retired tree without making it writable, and the
        volume out of the registry. Idempotent."""


class TargetGround(Protocol):
    """The new home."""

    def load(self) -> Optional[TargetMove]:
        """The record of this volume's move, if there is one."""

    def save(self, move: TargetMove) -> None:
        """Replace it."""

    def remove(self) -> None:
        """Forget it. Idempotent."""

    def open_staging(self, move: TargetMove) -> None:
        """Make the staging, or find it again; what an interruption left of an arrival or an increment is brought to a
        state that can be gone on from. RefusedError where the target has content."""

    def held_state(self) -> str:
        """The id of the state that staging holds; empty where it holds none."""

    def make_ready(self, move: TargetMove) -> TargetMove:
        """Assemble, take home stamps, sync, keep the name: publishing cannot fail for space or name any more."""

    def publish(self, move: TargetMove) -> None:
        """The staged tree becomes the volume: name, area, states, registry. Idempotent."""

    def discard(self, move: TargetMove) -> None:
        """Remove staging, and the directory that kept the name. Idempotent."""
