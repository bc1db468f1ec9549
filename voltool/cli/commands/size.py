"""`voltool size`: how large a dump would be now, at each level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName

if TYPE_CHECKING:
    from voltool.backup.size import LevelSize, VolumeSize

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool size vol1", "What a dump of vol1 would read now, at each level from 0 to 9."),
    (
        "voltool size vol1 --level 1 --store file:///srv/other",
        "The same of level 1 alone, with the dumps of another store.",
    ),
)


def size(
    context: typer.Context,
    name: VolumeName,
    level: Annotated[
        int | None, typer.Option("--level", min=0, max=9, metavar="N", help="Only this level; else all ten.")
    ] = None,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Where the dump would go.")] = None,
) -> int:
    """Estimate what a dump would hold now, at each level, given the dumps there are.

    The volume is walked once, names and stamps alone, and compared with what its host knows of each level's base; nothing is read
    and nothing is changed. The figures are upper bounds, before compression: of a large file that was changed only what differs
    is dumped.
    """
    from voltool.backup.size import LEVELS, size_of
    from voltool.remote.follow import at_home

    invocation = begin(context, "size")
    world = invocation.world
    levels = LEVELS if level is None else (level,)
    url = invocation.store_url(name, store)
    found = at_home(world, world.catalog.volume(name), lambda home: size_of(world, home, url, levels))
    for line in _lines(found):
        invocation.output.line(line)
    invocation.fields |= {
        "volume": name,
        "store": url,
        "entries": found.entries,
        "levels": [_level_object(one) for one in found.levels],
    }
    return invocation.finish()


def _lines(found: VolumeSize) -> list[str]:
    from voltool.cli import display
    from voltool.cli.table import table

    rows = []
    for one in found.levels:
        base = one.base
        about = "full" if base is None else f"{display.short_id(base.header.dump_id)} (level {base.header.level})"
        age = "" if base is None else display.age(base.header.clone_time_ns)
        if one.estimate is None:
            rows.append(
                [str(one.level), about, age, "?", "?", "every file is compared: the host has no stamps of the base"]
            )
        else:
            size_text = display.amount(one.estimate.bytes)
            rows.append([str(one.level), about, age, str(one.estimate.files), size_text, ""])
    return table(["level", "base", "age", "files", "data", ""], rows, right=(0, 3, 4))


def _level_object(one: LevelSize) -> dict[str, Any]:
    estimate = one.estimate
    return {
        "level": one.level,
        "base": None if one.base is None else one.base.header.dump_id,
        "base_level": None if one.base is None else one.base.header.level,
        "objects": None if estimate is None else estimate.objects,
        "files": None if estimate is None else estimate.files,
        "bytes": None if estimate is None else estimate.bytes,
    }
