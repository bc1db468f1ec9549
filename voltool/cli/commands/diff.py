"""`voltool diff`: what changed between two points in time."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import stat
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.errors import NotFoundError
from voltool.showing import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltool.browse.diff_records import Outcome
    from voltool.model import StoredDump

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool diff home", "what the newest dump of home brought, against the one before it"),
    ("voltool diff home@2026-10-01 home", "everything since that day"),
    ("voltool diff 'home@2 weeks ago' home@yesterday --only alice --stat", "how much changed below alice"),
    ("voltool diff 3f2a91bc web2", "a dump, by its id, against the newest one of another volume"),
)
_KINDS = ("added", "removed", "changed", "renamed")


def diff(
    context: typer.Context,
    one: Annotated[str, typer.Argument(metavar="A", help="A volume or a dump's id, a volume also with @TIME.")],
    other: Annotated[
        str | None, typer.Argument(metavar="[B]", help="The same; without it A and the dump before.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATH", help="Only this file or tree; may be repeated.")
    ] = None,
    stat_only: Annotated[bool, typer.Option("--stat", help="Only how many, not which.")] = False,
) -> int:
    """Show what changed between two points in time.

    A and B are each a volume (its newest dump), NAME@TIME (its newest dump not later than TIME, which is understood as by --at),
    or a dump's id; B is the later one. Without B, what A's dump brought: against the dump of the volume before it. They may be
    of two volumes.

    One line for each difference, sorted by path: + added, - removed, M other content, U other attributes only, T another type of
    file, R renamed (old -> new). What lies below a renamed directory is not told again. A renamed file is known where both dumps
    rest on a dump that has it; between two that rest on different full dumps only paths are compared. A - at a path says that
    what stood there is gone, also where something else has its name now. Of directories the times do not count.
    """
    from voltool.browse.diff import diff as differences
    from voltool.cli.choose import announce
    from voltool.cli.commands.ls import path_in_volume

    invocation = begin(context, "diff")
    old, new = _points(invocation, one, other)
    announce(invocation, old)
    announce(invocation, new)
    counts: Counter[str] = Counter()
    invocation.fields |= {"from": old.header.dump_id, "to": new.header.dump_id} | _totals(counts)
    for outcome in differences(invocation.world, old, new, [path_in_volume(path) for path in only or ()]):
        _count(counts, outcome)
        invocation.fields |= _totals(counts)
        if not stat_only:
            invocation.output.json_line(_object(outcome))
            invocation.output.line(_line(outcome))
    invocation.output.summary(_summary(counts))
    return invocation.finish()


def _points(invocation: Invocation, one: str, other: str | None) -> tuple[StoredDump, StoredDump]:
    """The two dumps, the earlier one first."""
    from voltool.cli.choose import all_dumps

    dumps = all_dumps(invocation)
    first = _point(invocation, one, dumps)
    if other is not None:
        return first, _point(invocation, other, dumps)
    before = [
        dump for dump in dumps if dump.header.volume_uuid == first.header.volume_uuid and _age(dump) < _age(first)
    ]
    if not before:
        raise NotFoundError(
            f"the dump {first.header.dump_id[:12]} is the first one of {first.header.volume_name}: there is nothing before it",
            remedy=f"voltool dumps {first.header.volume_name}, and two of them",
        )
    return max(before, key=_age), first


def _point(invocation: Invocation, word: str, dumps: Sequence[StoredDump]) -> StoredDump:
    from voltool.backup.select import choose_dump
    from voltool.cli.when import parse_when

    name, mark, time = word.partition("@")
    at_ns = parse_when(time, datetime.now().astimezone(), f"{name}@") if mark else None
    return choose_dump(name, at_ns, invocation.world.catalog.volumes(), dumps)


def _age(dump: StoredDump) -> tuple[int, int]:
    return dump.header.sequence, dump.header.clone_time_ns


def _object(outcome: Outcome) -> dict[str, object]:
    from voltool.cli.json_lines import difference_object

    return difference_object(outcome)


def _line(outcome: Outcome) -> str:
    from voltool.browse.diff_records import Change

    kind, changes = outcome.kind, outcome.changes
    name = shown(outcome.path)
    if kind in ("added", "removed"):
        return f"{'+' if kind == 'added' else '-'} {name}{_slash(outcome)}"
    told = [change.value for change in changes]
    if Change.CONTENT in changes and (old := _size(outcome.old)) != (new := _size(outcome.new)):
        told.append(f"{old:,} -> {new:,} bytes")
    about = f"  ({', '.join(told)})" if told else ""
    if outcome.old_path is not None:
        return f"R {shown(outcome.old_path)} -> {name}{_slash(outcome)}{about}"
    mark = "T" if Change.TYPE in changes else "M" if Change.CONTENT in changes else "U"
    return f"{mark} {name}{_slash(outcome)}{about}"


def _slash(outcome: Outcome) -> str:
    from voltool.dumpfile.format import decode_object

    return "/" if stat.S_ISDIR(decode_object(outcome.new or outcome.old).mode) else ""


def _size(record: bytes) -> int:
    """Bytes of a regular file; of all else none."""
    from voltool.dumpfile.format import decode_object

    decoded = decode_object(record) if record else None
    return decoded.size if decoded is not None and stat.S_ISREG(decoded.mode) else 0


def _count(counts: Counter[str], outcome: Outcome) -> None:
    from voltool.browse.diff_records import Change

    kind = outcome.kind
    counts[kind] += 1
    if kind == "added" or not {Change.CONTENT, Change.TYPE}.isdisjoint(outcome.changes):
        counts["new_bytes"] += _size(outcome.new)
    if kind == "removed" or not {Change.CONTENT, Change.TYPE}.isdisjoint(outcome.changes):
        counts["old_bytes"] += _size(outcome.old)


def _totals(counts: Counter[str]) -> dict[str, int]:
    return {key: counts[key] for key in (*_KINDS, "new_bytes", "old_bytes")}


def _summary(counts: Counter[str]) -> str:
    from voltool.cli import display

    if not any(counts[kind] for kind in _KINDS):
        return "no difference"
    numbers = ", ".join(f"{counts[kind]:,} {kind}" for kind in _KINDS)
    return (
        f"{numbers}; {display.amount(counts['new_bytes'])} new, {display.amount(counts['old_bytes'])} gone or replaced"
    )
