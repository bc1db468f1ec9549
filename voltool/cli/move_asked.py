"""What cannot be asked of `voltool move` together: said, rather than left out of account."""

from __future__ import annotations

from dataclasses import dataclass

from voltool.errors import UsageError


@dataclass(frozen=True)
class Given:
    """Options that go with some of what the command does, and not with the rest."""

    lazy: bool
    dry_run: bool
    fill_from: str | None


def refuse_stray(given: Given, *, begun: bool, resumed: bool) -> None:
    """UsageError for an option that has no meaning; ``begun``: whether a move is to begin, ``resumed``: whether to go on."""
    if given.lazy and not begun:
        raise UsageError(
            "--lazy goes with a move that begins",
            why="one that is under way is lazy, or is not, since it began",
            remedy="voltool move --lazy NAME HOST[:/path]",
        )
    if given.dry_run and not begun:
        raise UsageError("--dry-run plans a move that begins", remedy="voltool move NAME HOST[:/path] --dry-run")
    if given.fill_from is not None and not resumed:
        raise UsageError("--fill-from goes with --resume", remedy="voltool move --resume NAME --fill-from /directory")
