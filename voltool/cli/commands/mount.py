"""`voltool mount`: a volume's points in time as directories to look into."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import At
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.ports import World
    from voltool.browse.mount import MountOptions
    from voltool.browse.points import Points
    from voltool.events import Event, Reporter

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool mount vol1 /mnt/vol1", "Every point in time of vol1 as a folder; /mnt/vol1/latest is the newest."),
    ("voltool mount vol1 /mnt/vol1 --at yesterday", "One state, directly at /mnt/vol1."),
    ("cp -a /mnt/vol1/latest/home/ann/thesis.odt /tmp/", "Get a file back with the tools you know."),
    ("voltool mount vol1 /mnt/vol1 --allow-other", "Let users look into what modes and ACLs let them see."),
)


def mount(
    context: typer.Context,
    word: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.words, metavar="NAME|DUMP", help="A volume (all its dumps) or one dump's id."
        ),
    ],
    directory: Annotated[str, typer.Argument(metavar="DIR", help="An empty directory to mount on.")],
    at: At = None,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Other users may look, as far as modes and ACLs let them.")
    ] = False,
    numeric_owner: Annotated[bool, typer.Option("--numeric-owner", help="Owners by number, not by name.")] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Serve in this process until it is unmounted or interrupted.")
    ] = False,
) -> int:
    """Mount a volume read-only (FUSE): of NAME each point in time as a folder, of a DUMP, or with --at, that one state at DIR.
    It is usable when the command returns, served by a process in the background that logs to syslog, and stays until voltool
    umount. New dumps appear by themselves. A byte that does not fit its hash is an I/O error. Only a dump that is being looked at
    is kept from prune: five minutes after the last look it may go, and its folder with it."""
    from voltool.browse.background import in_background
    from voltool.browse.mount import MountOptions

    invocation = begin(context, "mount")
    options = MountOptions(allow_other=allow_other, numeric_owner=numeric_owner)
    path = os.path.abspath(os.fsencode(directory))
    invocation.fields["directory"] = os.fsdecode(path)
    if foreground:
        _serve(invocation, word, at, path, options, invocation.output.summary)
        return invocation.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    text = in_background(lambda ready: _serve(invocation, word, at, path, options, ready, background=True))
    invocation.output.summary(text)
    return invocation.finish()


class _Switch:
    """A reporter that speaks to the terminal until the mount is there, then to the syslog."""

    def __init__(self, reporter: Reporter) -> None:
        self.to = reporter

    def report(self, event: Event) -> None:
        self.to.report(event)


def _serve(
    invocation: Invocation,
    word: str,
    at: str | None,
    path: bytes,
    options: MountOptions,
    ready: Callable[[str], None],
    *,
    background: bool = False,
) -> None:
    """Mount and answer; all of it in the process that does it, from the first look into the catalog on."""
    from voltool.browse import mountpoint
    from voltool.browse.background import SyslogReporter
    from voltool.browse.mount import forbidden_places, serve
    from voltool.cli import display

    path = mountpoint.real_path(path)
    switch = _Switch(invocation.output)
    world = dataclasses.replace(invocation.world, reporter=switch)
    points, name = _points(invocation, world, word, at)
    own = [section.store for section in invocation.settings.volumes.values() if section.store]
    urls = [invocation.store_url(), *(invocation.store_url(explicit=url) for url in own)]
    places = forbidden_places(world, points, urls, os.fsencode(invocation.state))
    if mountpoint.prepare(path, places):
        invocation.output.notice("info", f"a mount at {shown(path)} whose process was dead has been taken off")

    def on_ready() -> None:
        folders = points.folders()
        what = (
            display.count(len(folders), "point in time", "points in time")
            if points.single is None
            else points.single.header.dump_id
        )
        if background:
            switch.to = SyslogReporter("voltool-mount")
        ready(f"{name}: mounted at {shown(path)}: {what}")

    serve(world, points, name, path, options, on_ready)


def _points(invocation: Invocation, world: World, word: str, at: str | None) -> tuple[Points, str]:
    """What is shown, and the volume's name."""
    from voltool.backup.select import dumps_of_name
    from voltool.browse.points import AllPoints, OnePoint
    from voltool.cli.choose import all_dumps, choose

    if at is None:
        volumes = world.catalog.volumes()
        known = next((volume.uuid for volume in volumes if volume.name == word), None)
        dumps = [] if known else dumps_of_name(word, volumes, all_dumps(invocation))
        uuid = known or (dumps[0].header.volume_uuid if dumps else None)
        if uuid is not None:
            return AllPoints(world, uuid, word, [invocation.store_url(word)]), word
    dump = choose(invocation, word, at)
    return OnePoint(dump), dump.header.volume_name
