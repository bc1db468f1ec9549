"""`voltool dumps`: the dumps there are, newest last, chains visible; those that were dropped; those that look suspicious."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltool.model import StoredDump


EXAMPLES = (
    ("voltool dumps", "the newest of each volume; all, where they are not too many"),
    ("voltool dumps mail", "all of one volume, with what rests on what"),
    ("voltool dumps --all --json", "all there are, for a program"),
    ("voltool dumps --deleted", "those that prune has dropped and that can still be undeleted"),
    ("voltool dumps --accept 12ab34", "I have looked at the suspicious dump: prune the volume again"),
)

#: Without NAME, as many of each volume are shown as fit into so many lines, and at least one.
_LINES = 1000


@dataclass(frozen=True)
class _Listing:
    """The dumps to show; ``left_out``: how many are not; ``bases``: the ids of bases that may be among these."""

    dumps: Sequence[StoredDump]
    left_out: int = 0
    bases: Mapping[str, str] = field(default_factory=dict)


def dumps(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of this volume only.", autocompletion=completing.volumes)
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Look into this store too.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them, however many they are.")] = False,
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

    Without NAME, and where there are more than a thousand dumps, the newest of each volume are listed; --all lists all.

    With --accept a dump that looked suspicious (it changes or loses far more than is usual) is accepted, so that its volume is
    pruned again; it stays so in the catalog and in the dump's store.
    """
    from voltool.cli.discarded import accept_dump, show_deleted
    from voltool.cli.json_lines import dump_object

    invocation = begin(context, "dumps")
    invocation.catalog_is_read = accept is None
    if accept is not None:
        return accept_dump(invocation, accept)
    if deleted:
        return show_deleted(invocation, name, store)
    listing = _of_all(invocation, store, everything=everything) if name is None else _of_one(invocation, name, store)
    for line in _lines(listing):
        invocation.output.line(line)
    if listing.left_out:
        more = f"and {listing.left_out:,} older dumps: voltool dumps NAME, or --all"
        invocation.output.notice("info", more)
    if not listing.dumps:
        invocation.output.notice("info", "no dumps yet: voltool dump NAME")
    invocation.fields |= {"dumps": [dump_object(dump) for dump in listing.dumps], "left_out": listing.left_out}
    return invocation.finish()


def _of_one(invocation: Invocation, name: str, store: str | None) -> _Listing:
    from voltool.backup.discover import dumps_meant
    from voltool.backup.select import dumps_of_name
    from voltool.cli.choose import store_urls

    world = invocation.world
    volumes = world.catalog.volumes()
    found = dumps_of_name(name, volumes, dumps_meant(world, store_urls(invocation, store), name))
    if not found and name not in {volume.name for volume in volumes}:
        raise NotFoundError(f"there is no volume {name!a}", remedy="voltool volume list")
    return _Listing(found)


def _of_all(invocation: Invocation, store: str | None, *, everything: bool) -> _Listing:
    from voltool.backup.discover import learn
    from voltool.cli.choose import store_urls

    catalog = invocation.world.catalog
    seen = learn(invocation.world, store_urls(invocation, store))
    count = catalog.dump_count() - sum(catalog.dump_count(url) for url in seen.away)
    each = max(1, _LINES // max(1, catalog.volume_count()))
    found = catalog.dumps() if everything or count <= _LINES else catalog.newest_dumps(each)
    found = seen.there(found)
    left_out = max(0, count - len(found))
    return _Listing(found, left_out, catalog.bases_of(found) if left_out else {})


def _lines(listing: _Listing) -> list[str]:
    from voltool.cli.table import table
    from voltool.policy.chain import Lineage

    lineage = Lineage(listing.dumps)
    rows = []
    for dump in listing.dumps:
        base = lineage.base_of(dump)
        base_id = base.header.dump_id if base else listing.bases.get(dump.header.dump_id)
        rows.append(_row(dump, lineage.depth_of(dump), base_id))
    heads = ("DUMP", "VOLUME", "LEVEL", "TIME", "STATE", "ENTRIES", "DATA", "STORED", "BASE", "PROBLEMS")
    return table(heads, rows, right=(5, 6, 7)) if rows else []


def _row(dump: StoredDump, depth: int, base: str | None) -> tuple[str, ...]:
    from voltool.cli import display

    header, totals = dump.header, dump.totals
    missing = f"missing ({display.short_id(header.base_dump_id or '?')})"
    return (
        display.short_id(header.dump_id),
        header.volume_name,
        "  " * depth + str(header.level),
        display.local_time(header.clone_time_ns),
        header.consistency.value,
        f"{totals.entries:,}",
        display.amount(totals.data_bytes),
        display.amount(totals.stored_bytes),
        "-" if header.base_state_id is None else display.short_id(base) if base else missing,
        str(len(dump.problems)) if dump.problems else "-",
    )
