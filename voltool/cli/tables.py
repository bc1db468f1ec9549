"""Tables of what was asked for: by rich on a terminal, plain and never cut in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltool.cli.output import Output


def show_rows(
    output: Output,
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    styles: Mapping[str, str] | None = None,
) -> None:
    """Columns whose index is in ``right`` are aligned to the right. ``styles``: rich's style for words of the last column."""
    if not rows or output.json:
        return
    if not output.stdout.isatty():
        from voltool.cli.table import table

        for line in table(heads, rows, right=right):
            output.line(line)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        drawn.add_column(head, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row[:-1]), Text(row[-1], style=(styles or {}).get(row[-1], "")))
    Console(file=output.stdout, highlight=False).print(drawn)
