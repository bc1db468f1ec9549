"""Contact with former homes, for commands that make it: with the volume's hooks, and whatever is wrong is a warning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from voltool.cli.invocation import Invocation
from voltool.errors import VoltoolError

if TYPE_CHECKING:
    from voltool.model import KnownVolume
    from voltool.move.doctor import HostFinding
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


def settle_claims(invocation: Invocation, found: Iterable[HostFinding]) -> list[HostFinding]:
    """For `doctor --fix`: where two hosts claim a volume, the one with the lower epoch is told of the other; of equal ones the
    user has to choose. The findings, with those put right marked."""
    from voltool.move.hosts import all_hosts
    from voltool.replica.contact import UNREACHED, settle_homes
    from voltool.wire.replicas import SPLIT

    world = invocation.world
    settled = []
    for each in found:
        if each.finding.kind == "claims":
            volume = next((known for known in world.catalog.volumes() if known.name == each.finding.volume), None)
            told = [] if volume is None else settle_homes(world, volume, all_hosts(world))
            right = bool(told) and all(one.outcome not in (UNREACHED, SPLIT) for one in told)
            each = replace(each, finding=replace(each.finding, fixed=right, fixable=right))  # noqa: PLW2901
        settled.append(each)
    return settled
