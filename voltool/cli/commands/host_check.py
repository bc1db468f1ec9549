"""`voltool host check`: what voltool can do on a host, and the remedy for each thing it cannot."""

from __future__ import annotations

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import HostWord

EXAMPLES = (("voltool host check hostA", "before the first volume there"),)


def host_check(context: typer.Context, host: HostWord) -> int:
    """What voltool can do on a host: python, rights, file systems, drivers, lz4, space."""
    from voltool.backup.hosts import check_host
    from voltool.cli.json_lines import fact_object
    from voltool.cli.location import parse_host

    invocation = begin(context, "host check")
    facts = check_host(invocation.world, parse_host(host))
    width = max((len(fact.topic) for fact in facts), default=0)
    for fact in facts:
        invocation.output.line(f"{'ok' if fact.ok else 'no':<3} {fact.topic:<{width}}  {fact.value}".rstrip())
        if not fact.ok and fact.remedy:
            invocation.output.line(f"    {'':<{width}}  try: {fact.remedy}")
    invocation.fields |= {"host": host, "facts": [fact_object(fact) for fact in facts]}
    return invocation.finish()
