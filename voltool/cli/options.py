"""Options and arguments that several commands share, so that they are called and explained the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli import completing

At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="The newest dump not later: ISO time, date, 'yesterday', '2 hours ago'."),
]
DumpWord = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DUMP", help="A volume (its newest dump) or a dump's id.", autocompletion=completing.words
    ),
]
Place = Annotated[
    str,
    typer.Argument(
        metavar="HOST:/path", help="A host of ~/.ssh/config, user@addr:port, or local.", autocompletion=completing.hosts
    ),
]
HostWord = Annotated[
    str,
    typer.Argument(
        metavar="HOST", help="A name of ~/.ssh/config, user@addr:port, or local.", autocompletion=completing.hosts
    ),
]
VolumeName = Annotated[
    str, typer.Argument(metavar="NAME", help="The volume's name.", autocompletion=completing.volumes)
]
Bandwidth = Annotated[
    str | None, typer.Option("--bandwidth", metavar="RATE", help="At most so many bytes a second, such as 10M.")
]
PathMode = Annotated[
    str | None,
    typer.Option(
        "--path",
        metavar="auto|direct|relay",
        help="From host to host: directly, or through this machine; auto: directly where that can be.",
        autocompletion=completing.path_modes,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, max=64, metavar="N", help="Worker processes; 0: as many as are useful."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave matching names out; may be repeated.")
]
