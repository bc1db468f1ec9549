"""`voltool verify`: reads dumps with all they rest on and checks every hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.errors import VoltoolError

if TYPE_CHECKING:
    from voltool.model import StoredDump


EXAMPLES = (
    ("voltool verify mail", "the newest dump and all it rests on"),
    ("voltool verify", "every dump there is; for a weekly cron line"),
)


def verify(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|DUMP]...", help="Without any: every dump there is.", autocompletion=completing.words
        ),
    ] = None,
) -> int:
    """Check dumps and their chains, without restoring them."""
    from voltool.cli.choose import all_dumps, choose
    from voltool.policy.chain import chain_ends

    invocation = begin(context, "verify")
    invocation.fields["verified"] = []
    if not words:
        for dump in chain_ends(all_dumps(invocation)):
            _verify_one(invocation, dump.header.dump_id, dump)
        return invocation.finish()
    for word in dict.fromkeys(words):
        try:
            dump = choose(invocation, word, None)
        except VoltoolError as error:
            invocation.failed(error, word)
        else:
            _verify_one(invocation, word, dump)
    return invocation.finish()


def _verify_one(invocation: Invocation, subject: str, dump: StoredDump) -> None:
    from voltool.backup.verify import verify as verify_dump
    from voltool.cli import display

    try:
        outcome = verify_dump(invocation.world, dump)
    except VoltoolError as error:
        invocation.failed(error, subject)
        return
    invocation.codes.append(outcome.exit_code)
    invocation.output.summary(
        f"{dump.header.volume_name}: dump {display.short_id(dump.header.dump_id)} is whole:"
        f" {display.count(outcome.entries, 'entry', 'entries')}, {display.amount(outcome.bytes)}"
        f" in {display.count(len(outcome.dump_ids), 'dump')}, read in {display.duration(outcome.seconds)}"
    )
    invocation.fields["verified"].append(
        {
            "volume": dump.header.volume_name,
            "dumps": list(outcome.dump_ids),
            "entries": outcome.entries,
            "bytes": outcome.bytes,
            "seconds": round(outcome.seconds, 3),
        }
    )
