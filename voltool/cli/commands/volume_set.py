"""`voltool volume set`: follow a renamed, moved or reinstalled server."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import os
from typing import Annotated

import typer

from voltool.cli import completing
from voltool.cli.commands.volume_add import forbidden_places
from voltool.cli.invocation import begin
from voltool.cli.options import Exclude, VolumeName
from voltool.errors import UsageError

EXAMPLES = (
    ("voltool volume set mail --name post", "call it otherwise"),
    ("voltool volume set mail --host mail.example.org", "its host has a new name"),
)


def volume_set(
    context: typer.Context,
    name: VolumeName,
    new_name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Call it otherwise.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", autocompletion=completing.hosts, metavar="HOST", help="The host's new name.")
    ] = None,
    path: Annotated[str | None, typer.Option("--path", metavar="/path", help="Where the tree is now.")] = None,
    exclude: Exclude = None,
    no_excludes: Annotated[bool, typer.Option("--no-excludes", help="Leave nothing out any more.")] = False,
) -> int:
    """Change a volume's record: name, host, path, exclusions. Its identity and its chain of dumps stay."""
    from voltool.backup.volumes import VolumeChange, set_volume
    from voltool.cli.json_lines import volume_object
    from voltool.cli.location import parse_host, parse_path
    from voltool.showing import shown

    invocation = begin(context, "volume set")
    if no_excludes and exclude:
        raise UsageError("--exclude and --no-excludes contradict each other", remedy="one of them")
    globs = () if no_excludes else None if exclude is None else tuple(os.fsencode(glob) for glob in exclude)
    change = VolumeChange(
        name=new_name,
        host=None if host is None else parse_host(host),
        path=None if path is None else parse_path(path),
        excludes=globs,
    )
    if change == VolumeChange():
        # Without anything to change the record is written anew: that is what a reinstalled server needs.
        invocation.output.notice("info", "nothing to change was named: the host's record is written anew")
    volume = set_volume(invocation.world, name, change, forbidden_places(invocation))
    invocation.output.summary(f"{volume.name}: {volume.host}:{shown(volume.path)}, driver {volume.driver}")
    invocation.fields["volume"] = volume_object(volume)
    return invocation.finish()
