"""`voltool dump`: one dump of each volume named."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import Bandwidth, DryRun, Workers
from voltool.errors import VoltoolError
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.dump import DumpOptions, DumpOutcome


EXAMPLES = (
    ("voltool dump mail", "in full"),
    ("voltool dump --level 1 mail home", "what changed since the last full dump of each"),
    ("voltool --quiet dump --level 5 mail --bandwidth 20M", "for cron: says nothing unless something is wrong"),
    ("voltool dump --dry-run --level 1 mail", "how much it would be"),
)


def dump(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="The volumes.", autocompletion=completing.volumes)
    ],
    level: Annotated[
        int, typer.Option("--level", min=0, max=9, metavar="N", help="What changed since the last lower level.")
    ] = 0,
    store: Annotated[str | None, typer.Option("--store", metavar="URL", help="Where the dump goes.")] = None,
    dry_run: DryRun = False,
    codec: Annotated[str | None, typer.Option("--codec", metavar="lz4|none", help="Compression.")] = None,
    bandwidth: Bandwidth = None,
    nice: Annotated[
        int | None, typer.Option("--nice", min=0, max=19, metavar="N", help="The agent's nice value.")
    ] = None,
    idle_io: Annotated[
        bool | None, typer.Option("--idle-io/--no-idle-io", help="Read only when the disk has nothing else to do.")
    ] = None,
    workers: Workers = None,
) -> int:
    """Dump volumes: in full (level 0) or what changed since the last dump of a lower level. Exit code 3: done, but some files
    could not be read or never settled, or the store has dumps of a later home of the volume (then it says so)."""
    invocation = begin(context, "dump")
    given: dict[str, object] = {
        "level": level,
        "dry_run": dry_run,
        "codec": codec,
        "bandwidth": bandwidth,
        "nice": nice,
        "idle_io": idle_io,
        "workers": workers,
    }
    invocation.fields["dumps"] = []
    first = not dry_run and not invocation.world.catalog.has_dumps()
    for name in dict.fromkeys(names):
        _dump_one(invocation, name, store, given, first=first and not invocation.fields["dumps"])
    for url in dict.fromkeys(dumped["store"] for dumped in invocation.fields["dumps"]):
        invocation.keep_copies(url)
    return invocation.finish()


def _dump_one(invocation: Invocation, name: str, store: str | None, given: dict[str, object], *, first: bool) -> None:
    """One volume; what fails is noted, and the others go on."""
    from voltool.backup.dump import dump_volume
    from voltool.backup.options import dump_options
    from voltool.cli.contact_told import tell_former
    from voltool.remote.follow import at_home

    try:
        volume = invocation.world.catalog.volume(name)
        options = dump_options(invocation.settings, name, invocation.store_url(name, store), given)
        if first:
            _say_where(invocation, options.store, store)
        _warn_of_excludes(invocation, name, volume.excludes)
        if not given.get("dry_run"):
            tell_former(invocation, [volume])
            volume = invocation.world.catalog.volume(name)
        outcome = at_home(invocation.world, volume, lambda home: dump_volume(invocation.world, home, options))
    except VoltoolError as error:
        invocation.failed(error, name)
    else:
        _show(invocation, name, options, outcome)
        if outcome.dump is not None:
            invocation.learn(outcome.dump)


def _say_where(invocation: Invocation, url: str, explicit: str | None) -> None:
    how = (
        ""
        if explicit or invocation.settings.store
        else "; choose another with --store, or `store` in the configuration"
    )
    invocation.output.notice("info", f"the first dump here: the store is {url}{how}")


def _warn_of_excludes(invocation: Invocation, name: str, recorded: tuple[bytes, ...]) -> None:
    wanted = {glob.encode("utf-8", "surrogateescape") for glob in invocation.settings.volume(name).excludes}
    if wanted - set(recorded):
        invocation.output.notice(
            "warning",
            f"{name}: the configuration excludes more than the volume's record does;"
            f" voltool volume set {name} --exclude GLOB... writes it there",
        )


def _show(invocation: Invocation, name: str, options: DumpOptions, outcome: DumpOutcome) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import dump_object

    output = invocation.output
    invocation.codes.append(outcome.exit_code)
    if outcome.dump is not None:
        stored = outcome.dump
        for problem in stored.problems:
            output.notice("warning", f"{name}: {problem.problem.value}: {shown(problem.path)}: {problem.why}")
        invocation.fields["dumps"].append(dump_object(stored))
        totals, header = stored.totals, stored.header
        output.summary(
            f"{name}: dump {header.dump_id} level {header.level} ({header.consistency.value}):"
            f" {display.count(totals.entries, 'entry', 'entries')}, {display.amount(totals.data_bytes)} of data,"
            f" {display.amount(totals.stored_bytes)} stored in {display.duration(stored.seconds)}"
            f" as {stored.store}/{stored.file}"
        )
    elif outcome.totals is not None:
        scan = outcome.totals
        invocation.fields.setdefault("dry_run", []).append(
            {"volume": name, "store": options.store, "entries": scan.entries, "files": scan.files, "bytes": scan.bytes}
        )
        output.summary(
            f"{name}: would read {display.count(scan.files, 'file')} ({display.amount(scan.bytes)})"
            f" of {display.count(scan.entries, 'entry', 'entries')} into {options.store}"
        )
