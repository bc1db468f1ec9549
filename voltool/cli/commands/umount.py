"""`voltool umount`: take a mounted volume off."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import os
from typing import Annotated

import typer

from voltool.cli.invocation import begin
from voltool.showing import shown

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool umount /mnt/vol1", "Take it off, if nobody uses it; else who does is named (exit code 4)."),
    ("voltool umount /mnt/vol1 --lazy", "Take it off its path now; those who use it keep it until they are done."),
)


def umount(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where a volume is mounted.")],
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Take it off its path at once, altogether when nobody uses it any more.")
    ] = False,
) -> int:
    """Unmount what voltool mount has mounted, also when the process that served it is dead ("Transport endpoint is not
    connected"). Anything else that is mounted at DIR is left alone."""
    from voltool.browse.mount import take_off

    invocation = begin(context, "umount")
    path = os.fsencode(directory)
    mounted = take_off(path, lazy=lazy)
    invocation.output.summary(f"{shown(mounted.source)}: unmounted from {shown(mounted.path)}")
    invocation.fields |= {"directory": os.fsdecode(mounted.path), "source": os.fsdecode(mounted.source)}
    return invocation.finish()
