"""`voltool cat`: a file's content out of a dump, on stdout."""

from __future__ import annotations

import base64
import sys
from typing import Annotated

import typer

from voltool.cli.commands.ls import path_in_volume
from voltool.cli.invocation import begin
from voltool.cli.options import At, DumpWord

EXAMPLES = (
    ("voltool cat mail lists/members.txt", "the newest dump's version"),
    ("voltool cat home etc/passwd --at yesterday > passwd.old", "as it was at the end of yesterday"),
)


def cat(
    context: typer.Context,
    word: DumpWord,
    path: Annotated[str, typer.Argument(metavar="PATH", help="In the volume; relative or from its root.")],
    at: At = None,
) -> int:
    """Write a file of a dump to stdout. With --json its bytes come as "data" events."""
    from voltool.backup.browse import read_file
    from voltool.cli.choose import choose

    invocation = begin(context, "cat")
    dump = choose(invocation, word, at)
    total = 0
    for part in read_file(invocation.world, dump, path_in_volume(path)):
        total += len(part)
        if invocation.output.json:
            invocation.output.json_line({"event": "data", "b64": base64.b64encode(part).decode()})
        else:
            sys.stdout.buffer.write(part)
    sys.stdout.flush()
    invocation.fields |= {"dump": dump.header.dump_id, "bytes": total}
    return invocation.finish()
