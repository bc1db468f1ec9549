"""`voltool volume add`: adopt a directory, subvolume or dataset where it stands."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import Exclude, Place, VolumeName

EXAMPLES = (
    ("voltool volume add mail hostA:/var/mail", "adopt what stands there"),
    ("voltool volume add web hostA:/srv/web --exclude '*.tmp' --exclude cache", "leave names out"),
    ("voltool volume add data hostB:/data --driver reflink", "on XFS: dump from a clone of its files"),
)


class Driver(StrEnum):
    """How a volume is cloned; ``auto`` finds out."""

    AUTO = "auto"
    BTRFS = "btrfs"
    DIRECTORY = "directory"
    REFLINK = "reflink"
    ZFS = "zfs"


def volume_add(
    context: typer.Context,
    name: VolumeName,
    place: Place,
    driver: Annotated[Driver, typer.Option("--driver", help="How to clone; auto: the best that works.")] = Driver.AUTO,
    exclude: Exclude = None,
) -> int:
    """Adopt a directory or subvolume as a volume, where it stands. The same again changes nothing."""
    from voltool.backup.volumes import VolumeWish, add_volume
    from voltool.cli.json_lines import volume_object
    from voltool.cli.location import parse_location
    from voltool.showing import shown

    invocation = begin(context, "volume add")
    location = parse_location(place)
    globs = exclude if exclude is not None else list(invocation.settings.volume(name).excludes)
    wish = VolumeWish(name, location.host, location.path, driver.value, tuple(os.fsencode(glob) for glob in globs))
    outcome = add_volume(invocation.world, wish, forbidden_places(invocation))
    volume = outcome.volume
    done = "added" if outcome.created else "is there already, unchanged"
    invocation.output.summary(f"{name}: {done}: {volume.host}:{shown(volume.path)}, driver {volume.driver}")
    invocation.fields |= {"volume": volume_object(volume), "created": outcome.created}
    return invocation.finish()


def forbidden_places(invocation: Invocation) -> list[bytes]:
    """Stores and state directory of this machine: a volume must not contain them."""
    settings = invocation.settings
    urls = [invocation.store_url(), *(section.store for section in settings.volumes.values() if section.store)]
    stores = [invocation.world.stores.open(url).path_on_this_host() for url in urls]
    return list(dict.fromkeys([os.fsencode(os.path.realpath(invocation.state)), *(path for path in stores if path)]))
