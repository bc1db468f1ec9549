"""`voltool doctor`: what is not as the hosts' records say, and putting it right."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

from typing import Annotated

import typer

from voltool.cli.invocation import begin
from voltool.errors import EXIT_DONE, EXIT_FAILED

EXAMPLES = (
    ("voltool doctor", "what is not as it should be, on all hosts"),
    ("voltool doctor --fix", "and put right what can be"),
)


def doctor(
    context: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Put right what can be, without losing anything.")] = False,
) -> int:
    """Look on all hosts for stale locks, clones, staging, unfinished moves, two claims to one volume, replicas that are not as
    they should be. Exit code 1: something is wrong still."""
    from voltool.cli.contact_told import tell_former
    from voltool.move.doctor import examine
    from voltool.replica.doctor import examine_replicas, settle_claims

    invocation = begin(context, "doctor")
    tell_former(invocation, invocation.world.catalog.volumes())
    found = examine(invocation.world, fix=fix)
    if fix:
        found = settle_claims(invocation.world, found)
    found += examine_replicas(invocation.world, fix=fix)
    for each in found:
        finding = each.finding
        subject = f"{finding.volume}: " if finding.volume else ""
        host = f"{each.host}: " if each.host else ""
        invocation.output.line(f"{host}{subject}{finding.what}: {finding.where}")
        if finding.fixed:
            invocation.output.line("  put right")
        else:
            by = "voltool doctor --fix does it; or " if finding.fixable and not fix else ""
            invocation.output.line(f"  try: {by}{finding.remedy}")
    if not found:
        invocation.output.summary("everything is as the hosts' records say")
    invocation.fields["findings"] = [
        {
            "kind": each.finding.kind,
            "host": each.host,
            "volume": each.finding.volume,
            "where": each.finding.where,
            "what": each.finding.what,
            "remedy": each.finding.remedy,
            "fixable": each.finding.fixable,
            "fixed": each.finding.fixed,
        }
        for each in found
    ]
    invocation.codes.append(EXIT_DONE if all(each.finding.fixed for each in found) else EXIT_FAILED)
    return invocation.finish()
