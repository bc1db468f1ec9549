"""`voltool export`: a point in time as a tar archive."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import At, DumpWord
from voltool.errors import EXIT_PARTIAL, UsageError
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.browse.archive import Archived
    from voltool.model import StoredDump

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool export vol1 -o vol1.tar", "The newest dump of vol1 as a tar archive."),
    (
        "voltool export vol1 --at yesterday | zstd > vol1.tar.zst",
        "An older state, compressed on the way; the end is missing when anything fails.",
    ),
    ("voltool export vol1 --only etc --only home/ann -o part.tar", "A part of it, with the directories above."),
    (
        "voltool export vol1 | ssh hostB 'tar --xattrs --xattrs-include=* --acls -xpf - -C /srv/vol1'",
        "Unpack it where there is no voltool, with everything a tar archive can hold.",
    ),
)


def export(
    context: typer.Context,
    word: DumpWord,
    at: At = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A new file; without it, or with -, stdout.")
    ] = "-",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATH", help="Only this file or tree; may be repeated.")
    ] = None,
) -> int:
    """Write a dump, with all it rests on, as a pax tar archive that GNU tar restores, with extended attributes, ACLs, hard
    links, holes, devices and nanoseconds: tar --xattrs --xattrs-include='*' --acls -xpf FILE. Each byte is checked against
    its hash first. FILE appears only when it is complete; into a pipe an archive that fails is cut off so that tar fails too.
    What tar cannot hold is left out: sockets (named, exit code 3), inode flags (chattr), project ids, fs-verity."""
    from voltool.browse.archive import export_dump
    from voltool.cli.choose import choose

    invocation = begin(context, "export")
    if output == "-":
        _require_pipe(invocation)
    dump = choose(invocation, word, at)
    archived = export_dump(
        invocation.world,
        dump,
        sys.stdout.buffer if output == "-" else os.fsencode(output),
        only=tuple(os.fsencode(path) for path in only or ()),
    )
    _show(invocation, dump, output, archived)
    return invocation.finish()


def _require_pipe(invocation: Invocation) -> None:
    remedy = "-o FILE"
    if invocation.output.json:
        raise UsageError("with --json the archive cannot go to stdout", why="the result goes there", remedy=remedy)
    if sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal", remedy=f"{remedy}, or a pipe")


def _show(invocation: Invocation, dump: StoredDump, target: str, archived: Archived) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import name_value, problem_object

    exported = archived.exported
    output = invocation.output
    for path in exported.sockets:
        output.notice("warning", f"left out, since tar has no sockets: {shown(path)}")
    for problem in exported.problems:
        output.notice("warning", f"{problem.problem.value}: {shown(problem.path)}: {problem.why}")
    if exported.unnamed:
        output.notice("warning", f"and {exported.unnamed:,} more that are not named")
    text = (
        f"{dump.header.volume_name}: exported{'' if target == '-' else ' to ' + shown(os.fsencode(target))}:"
        f" {display.count(exported.members, 'member')}, {display.amount(archived.archive_bytes)}"
        f" from {display.count(len(archived.dump_ids), 'dump')} in {display.duration(archived.seconds)}"
    )
    if target == "-":  # stdout is the archive
        output.notice("info", text)
    else:
        output.summary(text)
    if exported.sockets or exported.problems or exported.unnamed:
        invocation.codes.append(EXIT_PARTIAL)
    invocation.fields |= {
        "dumps": list(archived.dump_ids),
        "file": os.path.abspath(target),
        "members": exported.members,
        "bytes": exported.content_bytes,
        "archive_bytes": archived.archive_bytes,
        "seconds": round(archived.seconds, 3),
        "sockets": [name_value(path) for path in exported.sockets],
        "problems": [problem_object(problem) for problem in exported.problems],
        "unnamed": exported.unnamed,
    }
