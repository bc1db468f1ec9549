"""How the fill of a lazy move is told, and gone on with: what `voltool move` does about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from voltool.cli import display
from voltool.cli.json_lines import name_value
from voltool.showing import shown
from voltool.wire.replicas import WAY_REVERSE

if TYPE_CHECKING:
    from voltool.cli.invocation import Invocation
    from voltool.move.lazy import Fill

#: So many of what is missing are named.
NAMED = 10


def in_words(fill: Fill) -> str:
    """One sentence."""
    status = fill.status
    if status.move is None:
        return "all has come, and the old home knows it"
    if not status.move.lazy:
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
    if fill.status.way == WAY_REVERSE and fill.status.missing_files:
        yield "  its files come by connections that the old home makes"
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
        "way": status.way or None,
        "faults": list(status.faults),
        "missing": [name_value(path) for path in status.paths],
    }


def is_filling(invocation: Invocation, name: str) -> bool:
    """Whether the volume lives at the new home of a lazy move that has not ended."""
    from voltool.errors import NotFoundError
    from voltool.move.lazy import fill_of

    try:
        fill = fill_of(invocation.world, name)
    except NotFoundError:
        return False
    return fill is not None and fill.is_in_service


def go_on_filling(invocation: Invocation, name: str, given: str | None) -> int:
    """Start again what does not run; ``given``: a directory on the new home with files that may be missing. The exit code."""
    import os

    from voltool.move.lazy import go_on

    fill = go_on(invocation.world, name, os.fsencode(os.path.abspath(given)) if given else b"")
    if fill.source_fault:
        invocation.output.notice("warning", f"{name}: the old home does not serve: {fill.source_fault}")
    invocation.output.summary(f"{name}: {in_words(fill)}")
    invocation.fields |= {"volume": name, "fill": as_object(fill)}
    return invocation.finish()


def tell_what_follows(invocation: Invocation, name: str) -> None:
    """After the switch: what is still to come."""
    from voltool.move.lazy import fill_of

    fill = fill_of(invocation.world, name)
    if fill is not None:
        invocation.output.line(f"{name}: {in_words(fill)}")
        invocation.fields["fill"] = as_object(fill)


def show_fill(invocation: Invocation, name: str) -> dict[str, object] | None:
    """Tell how far the fill of a lazy move is, where there is one, whether its old home answers or not; with --json all that is
    missing by name. None: there is none, or nobody could be asked."""
    from voltool.errors import VoltoolError
    from voltool.move.lazy import fill_of

    try:
        fill = fill_of(invocation.world, name, paths=-1 if invocation.output.json else NAMED)
    except VoltoolError:
        return None
    if fill is None or not fill.is_in_service:
        return None
    for line in in_lines(fill):
        invocation.output.line(line)
    return {
        "volume": name,
        "source": None,
        "target": "published",
        "what": in_words(fill),
        "command": command_of(fill),
        "fill": as_object(fill),
    }
