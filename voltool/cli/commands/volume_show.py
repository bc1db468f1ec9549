"""`voltool volume show`: a volume as its host has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import VolumeName
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.policy.replicas import ReplicaStanding
    from voltool.wire.messages import VolumeReply

EXAMPLES = (("voltool volume show mail", "what is known here, and what its host says"),)


def volume_show(context: typer.Context, name: VolumeName) -> int:
    """A volume: what is known here, and what its host's own record says."""
    from voltool.backup.volumes import show_volume
    from voltool.cli import display
    from voltool.cli.json_lines import volume_object

    invocation = begin(context, "volume show")
    volume = invocation.world.catalog.volume(name)
    dumps = invocation.world.catalog.dumps(volume.uuid)
    invocation.fields |= {"volume": volume_object(volume), "dumps": len(dumps)}
    lines = [
        ("name", volume.name),
        ("place", f"{volume.host}:{shown(volume.path)}"),
        ("driver", volume.driver),
        ("excludes", " ".join(shown(glob) for glob in volume.excludes) or "nothing"),
        ("uuid", volume.uuid),
        ("dumps", display.count(len(dumps), "dump") if dumps else "none yet"),
        ("store", invocation.store_url(name)),
    ]
    lines += _replicas(invocation, volume.uuid)
    for label, value in lines:
        invocation.output.line(f"{label + ':':<10} {value}")
    _tell_record(invocation, show_volume(invocation.world, name))
    return invocation.finish()


def _tell_record(invocation: Invocation, reply: VolumeReply) -> None:
    """What its host says."""
    from voltool.cli import display
    from voltool.cli.json_lines import held_object, name_value

    record = reply.record
    invocation.output.line(f"{'epoch:':<10} {record.epoch.number} at {record.epoch.host}")
    invocation.output.line(f"{'sequence:':<10} {record.sequence}")
    invocation.output.line(f"{'bases:':<10} {len(reply.states)} kept on the host for incremental dumps")
    if reply.split is not None:
        other = f"{reply.split.home.host}:{shown(reply.split.home.path)}"
        invocation.output.line(f"{'split:':<10} it lives at {other} with that epoch too; both are read-only")
    if reply.lock is not None:
        until = display.local_time(reply.lock.until * 1_000_000_000)
        invocation.output.line(f"{'locked:':<10} by {shown(reply.lock.owner.encode())} until {until}")
    invocation.fields["record"] = {
        "path": name_value(record.path),
        "driver": record.driver,
        "epoch": record.epoch.number,
        "epoch_host": record.epoch.host,
        "sequence": record.sequence,
        "split": None if reply.split is None else reply.split.home.host,
        "lock": held_object(reply.lock),
        "states": list(reply.states),
    }


def _replicas(invocation: Invocation, uuid: str) -> list[tuple[str, str]]:
    from voltool.cli.replica_lines import replica_object
    from voltool.cli.replicas_known import replicas_of

    found = replicas_of(invocation, uuid)
    invocation.fields["replicas"] = [replica_object(each) for each in found]
    return [("replica", _in_words(each)) for each in found]


def _in_words(each: ReplicaStanding) -> str:
    from voltool.backup.replicas import lag_text, place_of
    from voltool.cli import display

    behind = f", {lag_text(each)} behind" if each.lag is not None else ""
    seen = f", seen {display.age(each.known.checked_ns)}" if each.known.checked_ns else ""
    return f"{place_of(each)}: {each.state}{behind}{seen}"
