"""`voltool dumps`: the dumps there are, newest last, chains visible; those that were dropped; those that look suspicious."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin
from voltool.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltool.model import StoredDump


EXAMPLES = (
    ("voltool dumps", "all of them"),
    ("voltool dumps mail", "of one volume, with what rests on what"),
    ("voltool dumps --deleted", "those that prune has dropped and that can still be undeleted"),
    ("voltool dumps --accept 12ab34", "I have looked at the suspicious dump: prune the volume again"),
)


def dumps(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of this volume only.", autocompletion=completing.volumes)
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Look into this store too.")] = None,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Those that were dropped and can still be undeleted.")
    ] = False,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept", metavar="ID", help="This suspicious dump is as it should be: the volume is pruned again."
        ),
    ] = None,
) -> int:
    """List dumps, newest last. The level is indented below what the dump rests on.

    With --accept a dump that looked suspicious (it changes or loses far more than is usual) is accepted, so that its volume is
    pruned again; it stays so in the catalog and in the dump's store.
    """
    from voltool.backup.select import dumps_of_name
    from voltool.cli.choose import all_dumps
    from voltool.cli.discarded import accept_dump, show_deleted
    from voltool.cli.json_lines import dump_object

    invocation = begin(context, "dumps")
    invocation.catalog_is_read = accept is None
    if accept is not None:
        return accept_dump(invocation, accept)
    if deleted:
        return show_deleted(invocation, name, store)
    found = all_dumps(invocation, store)
    if name is not None:
        volumes = invocation.world.catalog.volumes()
        found = dumps_of_name(name, volumes, found)
        if not found and name not in {volume.name for volume in volumes}:
            raise NotFoundError(f"there is no volume {name!a}", remedy="voltool volume list")
    for line in _lines(found):
        invocation.output.line(line)
    if not found:
        invocation.output.notice("info", "no dumps yet: voltool dump NAME")
    invocation.fields["dumps"] = [dump_object(dump) for dump in found]
    return invocation.finish()


def _lines(found: Sequence[StoredDump]) -> list[str]:
    from voltool.cli.table import table

    rows = [_row(dump, found) for dump in found]
    heads = ("DUMP", "VOLUME", "LEVEL", "TIME", "STATE", "ENTRIES", "DATA", "STORED", "BASE", "PROBLEMS")
    return table(heads, rows, right=(5, 6, 7)) if rows else []


def _row(dump: StoredDump, found: Sequence[StoredDump]) -> tuple[str, ...]:
    from voltool.cli import display
    from voltool.policy.chain import base_of, depth_of

    header, totals = dump.header, dump.totals
    base = base_of(dump, found)
    missing = f"missing ({display.short_id(header.base_dump_id or '?')})"
    return (
        display.short_id(header.dump_id),
        header.volume_name,
        "  " * depth_of(dump, found) + str(header.level),
        display.local_time(header.clone_time_ns),
        header.consistency.value,
        f"{totals.entries:,}",
        display.amount(totals.data_bytes),
        display.amount(totals.stored_bytes),
        "-" if header.base_state_id is None else display.short_id(base.header.dump_id) if base else missing,
        str(len(dump.problems)) if dump.problems else "-",
    )
