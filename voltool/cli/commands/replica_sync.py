"""`voltool replica sync`: brings replicas up to date, once or all the time."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import Bandwidth, PathMode, Workers
from voltool.errors import UsageError

if TYPE_CHECKING:
    from voltool.replica.follow import Change
    from voltool.replica.target import SettingsOf, Target

EXAMPLES = (
    ("voltool replica sync mail", "all replicas of one volume"),
    ("voltool replica sync mail hostB", "one of them"),
    ("voltool replica sync mail hostB --bandwidth 5M", "a lazy one that is being filled: slower from now on"),
    ("voltool --quiet replica sync --all", "all replicas of all volumes, for a line of cron: errors only"),
    (
        "voltool replica sync mail hostB --fill-from /srv/mail-from-dump",
        "the home of a lazy replica is lost: what a dump has",
    ),
    ("voltool replica sync --all --follow", "all the time, a second behind, until it is told to end"),
)


def replica_sync(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The volume.", autocompletion=completing.volumes)
    ] = None,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST]", help="Its replica there; without it all of them.", autocompletion=completing.replica_hosts
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All replicas of all volumes.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until a signal comes.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, metavar="SECONDS", help="With --follow: from one round to the next.")
    ] = 1.0,
    bandwidth: Bandwidth = None,
    workers: Workers = None,
    path: PathMode = None,
    fill_from: Annotated[
        str | None,
        typer.Option(
            "--fill-from",
            metavar="DIR",
            help="A directory on HOST (a restored dump) that has what the lazy replica there lacks, when its home is lost.",
        ),
    ] = None,
) -> int:
    """Bring replicas up to date: clone the volume, send what changed since the last time, and serve that at once and whole.
    Replicas on different hosts go side by side; one that fails does not keep others from it, and goes on serving its last good
    state. A lazy replica that is not full is only seen to; where its host reaches no host that has the files, they go through
    this machine, and the command stays until it is full. --bandwidth is what its fill may take from now on (0: as much as it
    can); without it that stays as it was. With --fill-from it is filled from a directory on its own host as well, each file
    where its bytes are the right ones: for when the volume's home is lost, which is not asked then.

    The exit code is the worst of all: 3 where a replica is older than its limit (max_lag) all the same or files could not be
    read, 4 where somebody else works on it, 6 where a host is not reached. With --follow each change of state is a line, what
    fails is tried again with growing pauses, and SIGTERM or Ctrl-C end it with 0."""
    from voltool.cli.contact_told import tell_former
    from voltool.cli.replica_options import settings_of
    from voltool.cli.replica_told import tell_synced, write_metrics
    from voltool.policy.replicas import REPLICA
    from voltool.replica.job import sync, targets_of

    invocation = begin(context, "replica sync")
    if everything is bool(name):
        raise UsageError("which replicas are meant is not clear", remedy="voltool replica sync NAME [HOST], or --all")
    if fill_from is not None:
        return _fill_from(invocation, name or "", host or "", fill_from)
    invocation.read_leniently()
    volumes = [invocation.world.catalog.volume(name)] if name else invocation.world.catalog.volumes()
    told = tell_former(invocation, volumes)
    how = settings_of(invocation, bandwidth, workers, path)
    if follow:
        return _follow(invocation, name or "", host or "", how, interval)
    invocation.fields["synced"] = []
    if told and not any(each.role == REPLICA for each in invocation.world.catalog.replicas(volumes[0].uuid)):
        return invocation.finish()  # to tell them was all that there was to do
    targets = _well_configured(invocation, targets_of(invocation.world, name or "", host or ""))
    if not targets and not invocation.errors:
        invocation.output.notice("info", "no replicas yet: voltool replica add NAME HOST[:/path]")
    try:
        sync(invocation.world, targets, how, lambda done: tell_synced(invocation, done))
    finally:
        write_metrics(invocation)
    return invocation.finish()


def _fill_from(invocation: Invocation, name: str, host: str, directory: str) -> int:
    """The volume's home is not asked: it may be lost."""
    import os

    from voltool.cli import display
    from voltool.replica.lacking import fill_from

    if not name or not host or not os.path.isabs(directory):
        raise UsageError(
            "--fill-from is about one replica, and an absolute path on its host",
            remedy="voltool replica sync NAME HOST --fill-from /path",
        )
    status = fill_from(invocation.world, name, host, os.fsencode(directory))
    for fault in status.faults:
        invocation.output.notice("warning", f"{name}: {fault}")
    invocation.output.summary(
        f"{name}: {host} looks for what is missing ({display.count(status.missing_files, 'file')},"
        f" {display.amount(status.missing_bytes)}) in {directory}; voltool replica list {name} says how far it is"
    )
    invocation.fields["filling"] = {
        "volume": name,
        "host": host,
        "missing_files": status.missing_files,
        "missing_bytes": status.missing_bytes,
        "running": status.running,
        "faults": list(status.faults),
    }
    return invocation.finish()


def _well_configured(invocation: Invocation, targets: list[Target]) -> list[Target]:
    """Those whose configuration can be read; the others have failed: without its hooks a volume is not cloned."""
    lenient = invocation.read_leniently()
    for general in lenient.general:
        invocation.output.notice("warning", str(general))
    good = []
    for target in targets:
        faults = [lenient.volumes.get(target.volume.name)]
        faults += [lenient.hosts.get(host) for host in (target.volume.host, target.replica.host)]
        fault = next((each for each in faults if each is not None), None)
        if fault is None:
            good.append(target)
        else:
            invocation.failed(fault, target.subject)
    return good


def _follow(invocation: Invocation, name: str, host: str, how: SettingsOf, interval: float) -> int:
    from voltool.backup.replicas import max_lag_of
    from voltool.cli.replica_told import write_metrics
    from voltool.replica.follow import FollowOptions, follow
    from voltool.replica.job import targets_of

    lenient = invocation.read_leniently()
    _well_configured(invocation, targets_of(invocation.world, name, host))
    told_of: set[str] = set()

    def look() -> list[Target]:
        """From time to time: which replicas there are; and the metrics are those of now."""
        write_metrics(invocation)
        found = targets_of(invocation.world, name, host)
        hosts = lenient.hosts.keys()
        return [
            each
            for each in found
            if each.volume.name not in lenient.volumes and not hosts & {each.volume.host, each.replica.host}
        ]

    def told(change: Change) -> None:
        told_of.add(change.target.replica.replica_id)
        _tell_change(invocation, change)

    options = FollowOptions(how, interval, lambda volume: max_lag_of(invocation.settings, volume))
    try:
        follow(invocation.world, look, options, told)
    finally:
        write_metrics(invocation)
    invocation.fields["followed"] = len(told_of)
    return invocation.finish()


def _tell_change(invocation: Invocation, change: Change) -> None:
    from voltool.cli import display
    from voltool.replica.follow import GONE, LEVEL

    text = f"{change.target.subject}: {change.state}"
    if change.why:
        text += f": {change.why}"
    if change.pause:
        text += f" (again in {display.duration(change.pause)})"
    if invocation.output.json:
        invocation.output.json_line(
            {
                "event": "follow",
                "volume": change.target.volume.name,
                "host": change.target.replica.host,
                "state": change.state,
                "why": change.why,
            }
        )
    elif change.state in (LEVEL, GONE):
        invocation.output.summary(text)
    else:
        invocation.output.notice("error", text)
