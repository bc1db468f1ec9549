"""`voltool prune`: lets old dumps go, as the configuration's retention rules say."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import DryRun
from voltool.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltool.backup.prune import PruneOutcome, PurgeOutcome
    from voltool.model import StoredDump

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool prune --dry-run", "what would go and what stays, each with the reason"),
    ("voltool prune", "drop what no rule keeps, and remove for good what was dropped longer ago than the grace period"),
    ("voltool prune mail", "the same, of one volume"),
    ("voltool prune --purge-now --yes", "make room at once: what has been dropped cannot be undeleted any more"),
)


def prune(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Of this volume only.", autocompletion=completing.volumes)
    ] = None,
    dry_run: DryRun = False,
    purge_now: Annotated[
        bool, typer.Option("--purge-now", help="Remove what was dropped for good now, whatever the grace period says.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Drop the dumps that no retention rule keeps.

    The rules stand in the configuration, in [keep] or [volumes.NAME.keep]; without any, nothing is ever dropped. What a kept
    dump rests on stays, and so does the last good full dump. Dropped dumps can be undeleted for the grace period; after that
    the next prune removes them. Nothing of a volume goes while it has a suspicious dump that nobody has accepted.
    """
    from voltool.backup.keeping import keeping_of
    from voltool.backup.prune import names_of, prune_volume
    from voltool.cli.choose import all_dumps

    invocation = begin(context, "prune")
    invocation.catalog_is_read = True
    if purge_now and not dry_run:
        _ask(invocation, yes=yes)
    found = _wanted(invocation, name, all_dumps(invocation))
    invocation.fields |= {"dry_run": dry_run, "decisions": [], "dropped": [], "spared": [], "purged": [], "waiting": []}
    names = {volume.uuid: volume.name for volume in invocation.world.catalog.volumes()}
    frozen: set[str] = set()
    now_ns = time.time_ns()
    of_volume: dict[str, list[StoredDump]] = {}
    for dump in found:
        of_volume.setdefault(dump.header.volume_uuid, []).append(dump)
    for uuid, known in of_volume.items():
        keeping = keeping_of(invocation.settings, names.get(uuid, known[-1].header.volume_name))
        outcome = prune_volume(invocation.world, uuid, known, keeping, now_ns, dry_run=dry_run)
        if keeping.rules.keeps_all:
            message = f"{outcome.volume}: no retention rule, so nothing goes; see [keep] in the configuration"
            invocation.output.notice("info", message)
        if outcome.alarms:
            frozen |= names_of(known)
        _show(invocation, outcome, dry_run=dry_run)
    only = None if name is None else names_of(found) | {name}
    _show_purge(
        invocation, _purge(invocation, found, only, frozen, at_once=purge_now, dry_run=dry_run), dry_run=dry_run
    )
    return invocation.finish()


def _ask(invocation: Invocation, *, yes: bool) -> None:
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("what was dropped is removed for good", remedy="--yes says that you mean it")
    if not invocation.output.ask("Remove all dumps that were dropped for good, so that none can be undeleted?"):
        raise UsageError("nothing was done", why="you said no")


def _wanted(invocation: Invocation, name: str | None, found: Sequence[StoredDump]) -> Sequence[StoredDump]:
    from voltool.backup.select import dumps_of_name
    from voltool.errors import NotFoundError

    if name is None:
        return found
    volumes = invocation.world.catalog.volumes()
    of_name = dumps_of_name(name, volumes, found)
    if not of_name and name not in {volume.name for volume in volumes}:
        raise NotFoundError(f"there is no volume {name!a}", remedy="voltool volume list")
    return of_name


def _purge(
    invocation: Invocation,
    known: Sequence[StoredDump],
    only: set[str] | None,
    frozen: set[str],
    *,
    at_once: bool,
    dry_run: bool,
) -> PurgeOutcome:
    from voltool.backup.prune import purge_expired
    from voltool.cli.choose import store_urls

    return purge_expired(
        invocation.world,
        known,
        lambda volume: invocation.settings.keep_of(volume).grace,
        time.time_ns(),
        urls=store_urls(invocation),
        only=only,
        spare=frozen,
        at_once=at_once,
        dry_run=dry_run,
    )


def _show(invocation: Invocation, outcome: PruneOutcome, *, dry_run: bool) -> None:
    from voltool.cli import discarded, display

    output, fields = invocation.output, invocation.fields
    fields["decisions"] += [discarded.decision_object(decision) for decision in outcome.decisions]
    fields["dropped"] += [dump.header.dump_id for dump in outcome.dropped]
    fields["spared"] += [discarded.spared_object(spared) for spared in outcome.spared]
    for alarm in outcome.alarms:
        if dry_run:
            output.notice("warning", alarm)
        else:
            remedy = "look at it; then voltool dumps --accept ID"
            error = RefusedError("nothing is pruned of a volume with a suspicious dump", why=alarm, remedy=remedy)
            invocation.failed(error, outcome.volume)
    for spared in outcome.spared:
        which = display.short_id(spared.dump.header.dump_id)
        output.notice("warning", f"{outcome.volume}: dump {which} should go and stays: {spared.why}")
    if dry_run:
        for line in discarded.decision_lines(outcome.decisions):
            output.line(line)
        return
    gone = discarded.total([dump.totals.stored_bytes for dump in outcome.dropped])
    stay = len(outcome.decisions) - len(outcome.dropped)
    if outcome.decisions:
        output.summary(f"{outcome.volume}: {gone} dropped, {display.count(stay, 'dump')} kept")


def _show_purge(invocation: Invocation, outcome: PurgeOutcome, *, dry_run: bool) -> None:
    from voltool.cli import discarded

    output = invocation.output

    def grace_of(volume: str) -> int:
        return invocation.settings.keep_of(volume).grace

    for key, found in (("purged", outcome.purged), ("waiting", outcome.waiting)):
        invocation.fields[key] = [discarded.discarded_object(each, grace_of) for each in found]
    for fault in outcome.faults:
        output.notice("warning", fault)
    if outcome.purged:
        done = "would be removed" if dry_run else "removed"
        output.summary(f"{discarded.total([each.size for each in outcome.purged])} {done} for good")
    if outcome.waiting:
        output.summary(
            f"{discarded.total([each.size for each in outcome.waiting])} can still be undeleted (voltool dumps --deleted);"
            " voltool prune --purge-now would free that at once"
        )
