"""`voltool replica promote`: a replica becomes the volume."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import VolumeName
from voltool.errors import EXIT_FAILED

if TYPE_CHECKING:
    from voltool.replica.contact import Told
    from voltool.replica.promote import PromoteOutcome

EXAMPLES = (
    ("voltool replica promote mail hostB", "hostB's replica is the volume; refused while the old home may be alive"),
    ("voltool replica promote mail hostB --force", "the old home is lost, or shall be replaced all the same"),
)


def replica_promote(
    context: typer.Context,
    name: VolumeName,
    host: Annotated[
        str, typer.Argument(autocompletion=completing.replica_hosts, metavar="HOST", help="Where the replica is.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Also though the old home is alive, or cannot be asked whether it is.")
    ] = False,
    lock_timeout: Annotated[
        int, typer.Option("--lock-timeout", min=0, max=86_400, metavar="S", help="Wait so long for who still writes.")
    ] = 30,
) -> int:
    """Make a replica the volume, with a higher epoch: for when its home is lost. What was written there after the last
    sync is not in the replica.

    Refused while the home answers as such (voltool move is the way then), or cannot be asked, unless --force. A home that
    could not be told accepts writes until it is contacted; then it retires, and what was written there meanwhile is kept
    in its retired copy and named. A lazy replica that is not full is refused in any case: what it lacks is named (with
    --json all of it), and can come out of a dump (voltool replica sync --fill-from). Where two replicas were promoted, both
    are read-only until you choose one with --force."""
    from voltool.cli.json_lines import name_value
    from voltool.replica.promote import LacksFilesError, PromoteWish, promote

    invocation = begin(context, "replica promote")
    hooks = invocation.settings.volume(name).hooks
    wish = PromoteWish(name, host, force, hooks, lock_timeout, name_all=invocation.output.json)
    try:
        outcome = promote(invocation.world, wish)
    except LacksFilesError as error:
        invocation.fields["missing"] = [name_value(path) for path in error.missing]
        raise
    _tell(invocation, name, outcome)
    return invocation.finish()


def _tell(invocation: Invocation, name: str, outcome: PromoteOutcome) -> None:
    from voltool.cli.json_lines import name_value
    from voltool.showing import shown

    record = outcome.record
    place = f"{outcome.host}:{shown(record.path)}"
    invocation.output.summary(f"{name}: lives at {place} now (epoch {record.epoch.number})")
    for host in outcome.untold:
        invocation.output.notice(
            "warning",
            f"{name}: {host} accepts writes as its home until it is contacted (voltool replica sync, list, dump, doctor):"
            " keep its users away",
        )
    if outcome.hook_failed:
        invocation.output.notice("warning", f"{name}: in service, but after_online failed: {outcome.hook_failed}")
        invocation.codes.append(EXIT_FAILED)
    invocation.fields |= {
        "volume": name,
        "host": outcome.host,
        "path": name_value(record.path),
        "epoch": record.epoch.number,
        "sequence": record.sequence,
        "from_host": outcome.old_host,
        "from_path": name_value(outcome.old_path),
        "told": [_told_fields(told) for told in outcome.told],
        "accepts_writes": list(outcome.untold),
        "hook_failed": outcome.hook_failed,
    }


def _told_fields(told: Told) -> dict[str, Any]:
    from voltool.cli.json_lines import name_value

    return {
        "host": told.host,
        "outcome": told.outcome,
        "why": told.why,
        "aside": [name_value(path) for path in told.aside],
        "aside_count": None if told.aside_count < 0 else told.aside_count,
        "aside_path": name_value(told.aside_place) if told.aside_place else None,
    }
