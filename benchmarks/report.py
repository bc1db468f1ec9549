"""Medians, ratios and the tables of docs/benchmarks.md. Pure: numbers in, text out."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.datasets import DataSet
from benchmarks.measure import Measurement

BEGIN = "<!-- benchmarks: begin -->"
END = "<!-- benchmarks: end -->"
MB = 1_000_000


@dataclass
class Row:
    """One contender in one table: its runs and the bytes of its last output (0: not applicable)."""

    name: str
    runs: list[Measurement] = field(default_factory=list)
    output: int = 0

    @property
    def seconds(self) -> float:
        """The median of the runs' wall-clock seconds."""
        return statistics.median(run.seconds for run in self.runs)


@dataclass
class Table:
    """One comparison. ``reference`` names the row that ratios are relative to; ``work`` is what one run processes."""

    title: str
    data: DataSet
    reference: str
    rows: list[Row]
    note: str = ""


def render_table(table: Table) -> str:
    """The table in Markdown: medians of wall-clock time, rates, CPU, the largest peak memory, size, ratio."""
    reference = next((row.seconds for row in table.rows if row.name == table.reference and row.runs), None)
    lines = [
        f"### {table.title}",
        "",
        f"{table.data.files:,} files, {table.data.bytes / MB:,.0f} MB"
        + (f"; {table.note}" if table.note else "")
        + f". Times are relative to `{table.reference}`.",
        "",
        "| tool | seconds | relative | files/s | MB/s | CPU s | peak memory MB | output MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [_render_row(row, table.data, reference) for row in table.rows if row.runs]
    return "\n".join(lines) + "\n"


def _render_row(row: Row, data: DataSet, reference: float | None) -> str:
    cpu = statistics.median(run.cpu for run in row.runs)
    memory = max(run.memory for run in row.runs)
    relative = f"{row.seconds / reference:.2f}" if reference else ""
    output = f"{row.output / MB:,.1f}" if row.output else ""
    rate = f"{data.files / row.seconds:,.0f} | {data.bytes / MB / row.seconds:,.0f}"
    name = row.name.replace("|", "\\|")
    return f"| {name} | {row.seconds:.2f} | {relative} | {rate} | {cpu:.2f} | {memory / MB:,.0f} | {output} |"


def replace_between_markers(page: str, text: str, first: str = BEGIN, last: str = END) -> str:
    """``page`` with everything between the markers replaced; ValueError where they are missing."""
    before, begin, rest = page.partition(first)
    _old, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError("the page lacks its markers")
    return f"{before}{first}\n\n{text.strip()}\n\n{last}{after}"


def describe_machine(versions: Sequence[str]) -> str:
    """What it ran on: processor, cores, memory, kernel, versions of the tools."""
    uname = os.uname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    lines = [f"{model}, {cores} cores, {memory:.0f} GiB of memory, {uname.sysname} {uname.release}.", "", *versions]
    return "\n".join(lines) + "\n"
