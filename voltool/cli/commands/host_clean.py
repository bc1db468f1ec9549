"""`voltool host clean`: takes everything of voltool away from a host."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

import typer

from voltool.cli.invocation import begin
from voltool.cli.options import DryRun, HostWord

EXAMPLES = (
    ("voltool host clean hostA --dry-run", "what would be removed"),
    ("voltool host clean hostA", "after its last volume has gone"),
)


def host_clean(context: typer.Context, host: HostWord, dry_run: DryRun = False) -> int:
    """Remove agent, records, clones and staging from a host; refused while a volume lives there."""
    from voltool.backup.hosts import clean_host
    from voltool.cli.display import count
    from voltool.cli.json_lines import name_value
    from voltool.cli.location import parse_host
    from voltool.showing import shown

    invocation = begin(context, "host clean")
    paths = clean_host(invocation.world, parse_host(host), dry_run=dry_run)
    for path in paths:
        invocation.output.summary(shown(path))
    done = "would be removed" if dry_run else "removed"
    invocation.output.summary(f"{host}: {count(len(paths), 'path')} {done}")
    invocation.fields |= {"host": host, "dry_run": dry_run, "paths": [name_value(path) for path in paths]}
    return invocation.finish()
