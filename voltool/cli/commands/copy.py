"""`voltool copy`: a new volume, as another one is now."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import Bandwidth, PathMode, VolumeName, Workers

if TYPE_CHECKING:
    from voltool.backup.copy import CopyOutcome


EXAMPLES = (("voltool copy web hostB:/srv/web-test web-test", "a copy to try things on, a volume of its own"),)


def copy(
    context: typer.Context,
    name: VolumeName,
    place: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.hosts, metavar="HOST:/path", help="Where the copy goes; it must not exist."
        ),
    ],
    new_name: Annotated[str, typer.Argument(metavar="NEWNAME", help="What the new volume is called.")],
    numeric_owner: Annotated[bool, typer.Option("--numeric-owner", help="Owners by number, not by name.")] = False,
    bandwidth: Bandwidth = None,
    path: PathMode = None,
    workers: Workers = None,
) -> int:
    """Copy a volume, as it is now, to any host, as a volume of its own. The old one is untouched, and may be in use."""
    from voltool.backup.copy import CopyOptions, copy_volume
    from voltool.backup.volumes import VolumeWish
    from voltool.cli.commands.volume_add import forbidden_places
    from voltool.cli.location import parse_location
    from voltool.config.quantity import parse_bytes
    from voltool.remote.follow import at_home
    from voltool.remote.paths import check_mode

    invocation = begin(context, "copy")
    settings = invocation.settings
    section = settings.volume(name)
    location = parse_location(place)
    options = CopyOptions(
        codec=section.codec or settings.codec,
        workers=settings.workers if workers is None else workers,
        bandwidth=settings.bandwidth if bandwidth is None else parse_bytes(bandwidth),
        numeric_owner=numeric_owner,
        hooks=section.hooks,
        path=check_mode(path or settings.path),
    )
    world = invocation.world
    volume = world.catalog.volume(name)
    wish = VolumeWish(new_name, location.host, location.path, excludes=volume.excludes)
    forbidden = forbidden_places(invocation)
    outcome = at_home(world, volume, lambda home: copy_volume(world, home, wish, options, forbidden))
    _show(invocation, name, outcome)
    return invocation.finish()


def _show(invocation: Invocation, name: str, outcome: CopyOutcome) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import problem_object, volume_object
    from voltool.showing import shown

    made = outcome.volume
    for problem in outcome.problems:
        invocation.output.notice("warning", f"{name}: {problem.problem.value}: {shown(problem.path)}: {problem.why}")
    invocation.output.summary(
        f"{made.name}: a copy of {name} ({outcome.consistency}) at {made.host}:{shown(made.path)}:"
        f" {display.count(outcome.entries, 'entry', 'entries')}, {display.amount(outcome.bytes)}"
        f" in {display.duration(outcome.seconds)}"
    )
    invocation.codes.append(outcome.exit_code)
    invocation.fields |= {
        "volume": volume_object(made),
        "of": name,
        "consistency": outcome.consistency,
        "entries": outcome.entries,
        "bytes": outcome.bytes,
        "seconds": round(outcome.seconds, 3),
        "problems": [problem_object(problem) for problem in outcome.problems],
    }
