"""`voltool merge`: a synthetic full dump out of a chain, without reading the volume."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import At, DumpWord

if TYPE_CHECKING:
    from voltool.backup.keeping import Keeping
    from voltool.backup.merge import MergeOutcome

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool merge mail", "a full dump of the newest point in time, out of the newest dump and all it rests on"),
    ("voltool merge mail --at 2026-10-31", "of the state at the end of October"),
    ("voltool merge mail --replace", "and then drop the dumps that are not needed any more"),
)


def merge(
    context: typer.Context,
    word: DumpWord,
    at: At = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Then drop what the new dump makes redundant; it can be undeleted.")
    ] = False,
) -> int:
    """Make one full dump out of an incremental and all it rests on, in the same store.

    The volume's host need not be reached, and nothing of the volume is read again. The new dump is read back, and every hash in
    it checked, before it appears. It restores to exactly what the chain does, and later incrementals fit it. With --replace the
    dump of the same point in time is dropped, and of the chain what the retention rules let go and nothing else rests on.
    """
    from voltool.backup.keeping import keeping_of
    from voltool.backup.merge import merge_dump
    from voltool.cli.choose import choose
    from voltool.cli.json_lines import dump_object

    invocation = begin(context, "merge")
    dump = choose(invocation, word, at)
    keeping = keeping_of(invocation.settings, dump.header.volume_name)
    outcome = merge_dump(invocation.world, dump, keeping)
    invocation.fields |= {"dump": dump_object(outcome.dump), "made": outcome.made, "chain": list(outcome.chain)}
    invocation.fields |= {"dropped": [], "spared": []}
    _show(invocation, outcome)
    if replace:
        _replace(invocation, outcome, keeping)
    return invocation.finish()


def _show(invocation: Invocation, outcome: MergeOutcome) -> None:
    from voltool.cli import display

    header, totals = outcome.dump.header, outcome.dump.totals
    if not outcome.made:
        invocation.output.summary(
            f"{header.volume_name}: {display.local_time(header.clone_time_ns)} has a full dump already, {header.dump_id}"
        )
        return
    invocation.output.summary(
        f"{header.volume_name}: full dump {header.dump_id} of {display.local_time(header.clone_time_ns)} made out of"
        f" {display.count(len(outcome.chain), 'dump')}: {display.count(totals.entries, 'entry', 'entries')},"
        f" {display.amount(totals.stored_bytes)} stored and verified in {display.duration(outcome.seconds)}"
        f" as {outcome.dump.store}/{outcome.dump.file}"
    )


def _replace(invocation: Invocation, outcome: MergeOutcome, keeping: Keeping) -> None:
    from voltool.backup.merge import replace_merged
    from voltool.cli import discarded, display

    dropped, spared = replace_merged(invocation.world, outcome, keeping, time.time_ns())
    for each in spared:
        which = display.short_id(each.dump.header.dump_id)
        invocation.output.notice("warning", f"dump {which} is redundant and stays: {each.why}")
    name = outcome.dump.header.volume_name
    invocation.output.summary(f"{name}: {discarded.total([dump.totals.stored_bytes for dump in dropped])} dropped")
    invocation.fields["dropped"] = [dump.header.dump_id for dump in dropped]
    invocation.fields["spared"] = [discarded.spared_object(each) for each in spared]
