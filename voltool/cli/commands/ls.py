"""`voltool ls`: what a directory in a dump holds, without restoring it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import At, DumpWord
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.browse import ListedEntry


EXAMPLES = (
    ("voltool ls mail", "the top of the newest dump"),
    ("voltool ls mail lists --at '2026-10-05 14:00'", "a directory as it was then"),
)


def ls(
    context: typer.Context,
    word: DumpWord,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="In the volume; relative or from its root.")] = "",
    at: At = None,
) -> int:
    """List a directory of a dump."""
    from voltool.backup.browse import list_directory
    from voltool.cli.choose import choose
    from voltool.cli.json_lines import entry_object

    invocation = begin(context, "ls")
    dump = choose(invocation, word, at)
    entries = 0
    for entry in list_directory(invocation.world, dump, path_in_volume(path)):
        entries += 1
        invocation.output.json_line(entry_object(entry.name, entry.record, entry.target))
        if not invocation.output.json:
            invocation.output.line(_line(entry))
    invocation.fields |= {"dump": dump.header.dump_id, "entries": entries}
    return invocation.finish()


def path_in_volume(path: str) -> bytes:
    """A path as jobs take it: relative to the volume's root, without a slash at its ends."""
    return os.fsencode(os.path.normpath("/" + path).strip("/"))


def _line(entry: ListedEntry) -> str:
    from voltool.cli import display

    record = entry.record
    size = f"{os.major(record.size)}, {os.minor(record.size)}" if _is_device(record.mode) else str(record.size)
    arrow = f" -> {shown(entry.target)}" if stat.S_ISLNK(record.mode) else ""
    moment = display.local_time(record.mtime_s * 1_000_000_000 + record.mtime_ns)
    name = shown(entry.name)
    return f"{stat.filemode(record.mode)} {record.uid:>6} {record.gid:>6} {size:>12} {moment} {name}{arrow}"


def _is_device(mode: int) -> bool:
    return stat.S_ISBLK(mode) or stat.S_ISCHR(mode)
