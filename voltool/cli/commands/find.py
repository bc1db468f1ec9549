"""`voltool find`: which dumps have which versions of which files."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from voltool.browse.find import Query
    from voltool.browse.history import Found, Version, Window

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool find nginx.conf", "every path with nginx.conf in its last name, in all volumes, with its versions"),
    (
        "voltool find -i '*.ODS' home --since '30 days ago'",
        "spreadsheets in the dumps of the volume home of the last month",
    ),
    ("voltool find '/etc/**/*.conf' root --at 2026-10-05", "below /etc of the volume root, as it was that evening"),
    ("voltool find --json --limit 0 '*' home", "everything that ever was in the dumps of home, one object a line"),
)


def find(
    context: typer.Context,
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name, or a glob; with a / in it, of the path.")
    ],
    name: Annotated[
        str | None, typer.Argument(autocompletion=completing.volumes, metavar="[NAME]", help="In this volume only.")
    ] = None,
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", "-i", help="Upper and lower case are the same.")
    ] = False,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="In each volume's newest dump not later than that.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="In dumps from that time on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="In dumps up to that time.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, metavar="N", help="So many paths; 0: all of them.")] = 200,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Look into this store too.")] = None,
) -> int:
    """Find which dumps have which versions of which files.

    PATTERN is a part of a file's name, anywhere in it. With one of * ? [ in it, it is a glob on the whole name. With a / in it,
    the same goes for the path: a glob then begins at the volume's root where it begins with /, else at any directory; * and ? do
    not reach over a /, ** stands for any number of directories. A \\ takes the next character as it is.

    Each version of a path has a line: mode, size, time of its last change, in how many dumps in a row it is, of the first and of
    the last of them the time; then the last one's id and the path, as they are to be pasted after `voltool cat`, or around the
    target of `voltool restore DUMP HOST:/path --only PATH`. Two versions differ in anything that a dump keeps of a file; of a
    directory the times do not count. The names come out of an index beside the catalog, which learns each dump.
    """
    from voltool.browse.find import find as find_paths
    from voltool.cli.choose import all_dumps

    invocation = begin(context, "find")
    query = _query(pattern, name, ignore_case=ignore_case, window=_window(at, since, until), limit=limit)
    if store is not None or not invocation.world.catalog.has_dumps():
        all_dumps(invocation, store)
    invocation.fields |= {"paths": 0, "more": False}
    for found in find_paths(invocation.world, invocation.names, query):
        if limit and invocation.fields["paths"] == limit:
            invocation.fields["more"] = True
            break
        invocation.fields["paths"] += 1
        _show(invocation, found)
    _close(invocation, pattern, limit)
    return invocation.finish()


def _query(pattern: str, name: str | None, *, ignore_case: bool, window: Window, limit: int) -> Query:
    from voltool.browse.find import Query
    from voltool.browse.patterns import parse_pattern

    return Query(parse_pattern(pattern, ignore_case=ignore_case), name, window, limit)


def _window(at: str | None, since: str | None, until: str | None) -> Window:
    from datetime import datetime

    from voltool.browse.history import Window
    from voltool.cli.when import parse_since, parse_when

    if at is not None and (since is not None or until is not None):
        raise UsageError("--at is one moment, --since and --until are a span of time", remedy="one or the other")
    now = datetime.now().astimezone()
    window = Window(
        at_ns=None if at is None else parse_when(at, now),
        since_ns=None if since is None else parse_since(since, now),
        until_ns=None if until is None else parse_when(until, now, "--until"),
    )
    if window.since_ns is not None and window.until_ns is not None and window.since_ns > window.until_ns:
        raise UsageError("--since is later than --until", remedy="the other way round")
    return window


def _show(invocation: Invocation, found: Found) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import found_object
    from voltool.showing import shown

    output = invocation.output
    output.json_line(found_object(found))
    if output.json:
        return
    output.line(f"{found.volume}: {shown(found.path)}")
    for version in found.versions:
        output.line(f"  {_line(version, found.path)}")
    if found.gone is not None:
        moment = display.local_time(found.gone.time_ns)
        output.line(f"  gone since the dump {display.short_id(found.gone.dump_id)} of {moment}")


def _line(version: Version, path: bytes) -> str:
    from voltool.cli import display
    from voltool.cli.quoting import quoted

    changed = "-" if version.mtime_ns is None else display.local_time(version.mtime_ns)
    first, last = display.local_time(version.first.time_ns), display.local_time(version.last.time_ns)
    span = f"{first} .. {last}" if version.first != version.last else first
    size = "-" if stat.S_ISDIR(version.mode) else f"{version.size:,}"
    count = display.count(version.dumps, "dump")
    word = f"{display.short_id(version.last.dump_id)} {quoted(path)}"
    return f"{stat.filemode(version.mode)} {size:>14}  {changed:<25}  {count:>9}  {span}  {word}"


def _close(invocation: Invocation, pattern: str, limit: int) -> None:
    from voltool.cli import display

    paths = invocation.fields["paths"]
    if not paths:
        raise NotFoundError(
            f"nothing in the dumps matches {pattern!a}",
            remedy="part of the name, a glob such as '*.conf', -i to ignore case; voltool dumps shows what was searched",
        )
    if invocation.output.json:
        return
    if invocation.fields["more"]:
        message = f"there are more: only the first {display.count(limit, 'path')} shown; --limit 0 shows all, or narrow it down"
        invocation.output.notice("warning", message)
    invocation.output.notice(
        "info", "to get one back: voltool cat DUMP PATH, or voltool restore DUMP HOST:/new/path --only PATH"
    )
