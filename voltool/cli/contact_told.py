"""Contact with former homes, for commands that make it: with the volume's hooks, and whatever is wrong is a warning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from voltool.cli.invocation import Invocation
from voltool.errors import VoltoolError

if TYPE_CHECKING:
    from voltool.model import KnownVolume
    from voltool.replica.contact import Told


def tell_former(invocation: Invocation, volumes: Iterable[KnownVolume]) -> list[Told]:
    """Tell the homes that promotions of ``volumes`` have replaced; nothing is asked where there are none."""
    from voltool.replica.contact import TellSettings, tell_former_homes

    told: list[Told] = []
    for volume in volumes:
        try:
            settings = TellSettings(invocation.settings.volume(volume.name).hooks)
            told += tell_former_homes(invocation.world, volume, settings)
        except VoltoolError as error:
            text = f"{volume.name}: its former homes were not told: {error.what}"
            invocation.output.notice("warning", f"{text}: {error.why}" if error.why else text)
    return told
