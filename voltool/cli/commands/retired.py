"""`voltool retired`: the copies that volumes left behind when they moved."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import begin
from voltool.cli.options import VolumeName
from voltool.errors import UsageError

if TYPE_CHECKING:
    from voltool.move.retired import Retired

EXAMPLES = (
    ("voltool retired list", "what moved volumes left behind, and how much room it takes"),
    ("voltool retired purge mail hostA", "delete it for good"),
)


def retired_list(
    context: typer.Context,
    hosts: Annotated[
        list[str] | None,
        typer.Argument(autocompletion=completing.hosts, metavar="[HOST]...", help="Where to look; all known hosts."),
    ] = None,
) -> int:
    """The retired copies: of which volume, where, how old, how large."""
    from voltool.cli import display
    from voltool.cli.json_lines import name_value
    from voltool.move.retired import list_retired
    from voltool.showing import shown

    invocation = begin(context, "retired list")
    found = list_retired(invocation.world, hosts or [])
    for copy in found:
        place = f"{copy.host}:{shown(copy.path)}"
        age = display.duration(copy.age)
        invocation.output.line(
            f"{copy.name}  {place}  {display.amount(copy.bytes)}  {age} old  (lives on {copy.moved_to}){_aside(copy)}"
        )
    invocation.fields["retired"] = [
        {
            "volume": copy.name,
            "host": copy.host,
            "path": name_value(copy.path),
            "bytes": copy.bytes,
            "age_seconds": copy.age,
            "moved_to": copy.moved_to,
            "aside": None if copy.aside < 0 else copy.aside,
        }
        for copy in found
    ]
    return invocation.finish()


def _aside(copy: Retired) -> str:
    """What of it is nowhere else."""
    if not copy.aside:
        return ""
    count = "nobody knows what of it" if copy.aside < 0 else "1 path" if copy.aside == 1 else f"{copy.aside} paths"
    return f", {count} nowhere else"


def retired_purge(
    context: typer.Context,
    name: VolumeName,
    host: Annotated[
        str, typer.Argument(autocompletion=completing.hosts, metavar="HOST", help="Where the retired copy is.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Delete the retired copy of a volume for good. Then there is no quick way back."""
    from voltool.cli import display
    from voltool.move.retired import find_retired, purge_retired
    from voltool.showing import shown

    invocation = begin(context, "retired purge")
    copy = find_retired(invocation.world, name, host)
    what = f"{shown(copy.path)} on {host} ({display.amount(copy.bytes)}, retired {display.duration(copy.age)} ago{_aside(copy)})"
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("a retired copy is deleted for good", where=what, remedy="--yes says that you mean it")
        if not typer.confirm(f"Delete {what} for good?", err=True):
            invocation.output.summary("nothing was deleted")
            return invocation.finish()
    purge_retired(invocation.world, copy)
    invocation.output.summary(f"{name}: deleted {what}")
    invocation.fields |= {"volume": name, "host": host, "bytes": copy.bytes}
    return invocation.finish()
