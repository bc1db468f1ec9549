"""How the fill of a lazy move is told: in a sentence, in lines, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from voltool.cli import display
from voltool.cli.json_lines import name_value
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.move.lazy import Fill

#: So many of what is missing are named.
NAMED = 10


def in_words(fill: Fill) -> str:
    """One sentence."""
    status = fill.status
    if status.move is None or not status.move.lazy:
        return "all has come" + (
            ", and the old home is being told" if status.running else "; the old home has not been told"
        )
    if not status.missing_files:
        return "all has come; the move is about to end, with a short lock"
    missing = display.count(status.missing_files, "file", "files")
    return f"in service at its new home; {missing} ({display.amount(status.missing_bytes)}) are still to come"


def in_lines(fill: Fill) -> Iterator[str]:
    """What a person is told of it."""
    name = fill.volume.name
    yield f"{name}: {in_words(fill)}"
    for fault in fill.status.faults:
        yield f"  {fault}"
    command = command_of(fill)
    if command:
        yield f"  to go on: {command}"
    for path in fill.status.paths:
        yield f"  missing: {shown(path)}"
    more = fill.status.missing_files - len(fill.status.paths)
    if fill.status.paths and more > 0:
        yield f"  and {more} more"


def command_of(fill: Fill) -> str | None:
    """What goes on with it, where something does not run; it ends by itself."""
    return f"voltool move --resume {fill.volume.name}" if fill.status.faults or not fill.status.running else None


def as_object(fill: Fill) -> dict[str, object]:
    """For --json."""
    status = fill.status
    return {
        "complete": status.move is None or not status.move.lazy,
        "missing_files": status.missing_files,
        "missing_bytes": status.missing_bytes,
        "running": status.running,
        "faults": list(status.faults),
        "missing": [name_value(path) for path in status.paths],
    }
