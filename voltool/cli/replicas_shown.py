"""Replicas for people: a table. What is wrong with them: `backup.replicas.wrongs`. Imports nothing heavy before it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from voltool.backup.replicas import lag_text, place_of
from voltool.cli import display
from voltool.cli.tables import show_rows

if TYPE_CHECKING:
    from voltool.cli.output import Output
    from voltool.policy.replicas import ReplicaStanding

_HEADS = ("VOLUME", "REPLICA", "LAG", "CLONES", "MISSING", "WAY", "SEEN", "STATE")
_STYLES = {
    "ok": "green", "stale": "red", "failing": "red", "faulty": "red", "unreachable": "red", "former": "magenta",
    "filling": "cyan", "lazy": "cyan", "lazy home": "cyan",
}  # fmt: skip


def show_replicas(output: Output, found: Sequence[ReplicaStanding], now_ns: int) -> None:
    """One line each."""
    show_rows(output, _HEADS, [_row(each, now_ns) for each in found], right=(2, 3, 4), styles=_STYLES)


def _row(each: ReplicaStanding, now_ns: int) -> tuple[str, ...]:
    known = each.known
    return (
        each.volume,
        place_of(each),
        lag_text(each),
        "-" if each.lag is None else f"{each.lag.clones:,}",
        display.amount(known.missing_bytes) if known.missing_bytes else "-",
        each.way or "-",
        display.age(known.checked_ns, now_ns) if known.checked_ns else "never",
        each.state,
    )
