"""A week of backups in fast motion, as ``make demo`` shows it: each night `voltool backup`, then what an administrator does
with what is there. The nights pass by libfaketime, in the command line and on the hosts."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from tests.clock import FastClock, library
from tests.hosts import Site

#: Where the HTML report is left for whoever wants to look at it.
REPORT = Path("build/demo-report.html")
_DAYS = 7
#: The day whose version of a file is wanted back, from 0.
_WANTED = 4
_CONFIGURATION = """\
schedule = "0325476"
parallel = 2

[keep]
last = 2
daily = 4
min_age = "12h"
grace = "2d"

[volumes.papers]
store = "{store}"

[volumes.wiki]
store = "{store}"
"""


class Stage(Protocol):
    """What of the demo is used here."""

    site: Site
    faults: list[str]

    def say(self, text: str) -> None:
        """A headline."""

    def run(self, *command: str) -> None:
        """Show a command, run it, show its output; a failure is a fault."""


def play(demo: Stage, clock: FastClock, here: Path, there: Path) -> None:
    """A week of two volumes: ``here`` on hostA, ``there`` on hostB."""
    demo.say("A week of backups in fast motion: two volumes on two hosts, one command each night")
    site = demo.site
    config = site.directory / "config.toml"
    config.write_text(_CONFIGURATION.format(store=f"file://{site.directory}/dumps"), encoding="ascii")
    site.environment["VOLTOOL_CONFIG"] = str(config)
    papers, wiki = here / "papers", there / "wiki"
    for tree in (papers, wiki):
        _write(tree)
    demo.run("voltool", "volume", "add", "papers", f"hostA:{papers}")
    demo.run("voltool", "volume", "add", "wiki", f"hostB:{wiki}")
    demo.run("voltool", "schedule", "show", "--days", "7")
    thesis_then = b""
    for day in range(_DAYS):
        clock.set(day)
        _work(papers, wiki, day)
        if day == _WANTED:
            thesis_then = (papers / "thesis.tex").read_bytes()
        demo.run("voltool", "backup")
    _look(demo)
    _bring_back(demo, papers, thesis_then)


def _look(demo: Stage) -> None:
    demo.say("What there is after the week, and whether all is well")
    demo.run("voltool", "status")
    demo.run("voltool", "dumps", "papers")
    demo.say("Make one full dump out of a chain; then drop what no promise needs (two days of grace)")
    demo.run("voltool", "merge", "papers")
    demo.run("voltool", "prune", "--dry-run", "papers")
    demo.run("voltool", "prune")
    demo.run("voltool", "dumps", "--deleted")
    demo.run("voltool", "verify", "papers")


def _bring_back(demo: Stage, papers: Path, expected: bytes) -> None:
    """A file that was spoilt is found and brought back, and the report is written."""
    demo.say("A user has lost a file: find it, and bring it back as it was on the fifth day")
    demo.run("voltool", "find", "thesis*", "papers")
    moment = (datetime.now().astimezone() + timedelta(days=_WANTED)).strftime("%Y-%m-%d")
    back = papers.parent / "found"
    demo.run("voltool", "restore", "papers", f"hostA:{back}", "--at", moment, "--only", "thesis.tex")
    found = (back / "thesis.tex").read_bytes() if (back / "thesis.tex").exists() else b""
    print(f"thesis.tex: {len(found)} bytes, {'as it was' if found == expected else 'NOT as it was'}")
    if found != expected:
        demo.faults.append("the file that was brought back is not what it was")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.unlink(missing_ok=True)
    demo.run("voltool", "report")
    demo.run("voltool", "report", "--html", str(REPORT))
    if not REPORT.is_file() or REPORT.stat().st_size < 1000:
        demo.faults.append("the HTML report was not written")
    print(f"the report is {REPORT.resolve()}")


def _write(tree: Path) -> None:
    tree.mkdir(parents=True)
    for number in range(200):
        (tree / f"note-{number:03d}.txt").write_text(f"note {number}\n" * 50, encoding="ascii")
    (tree / "thesis.tex").write_text("begun\n", encoding="ascii")


def _work(papers: Path, wiki: Path, day: int) -> None:
    """Some work of a day; on the last one the thesis is spoilt."""
    for tree in (papers, wiki):
        (tree / f"note-{day:03d}.txt").write_text(f"changed on day {day}\n", encoding="ascii")
        (tree / f"new-on-day-{day}.txt").write_text("new\n" * 100, encoding="ascii")
    with (papers / "thesis.tex").open("a", encoding="ascii") as file:
        file.write(f"a page written on day {day}\n" * 100)
    if day == _DAYS - 1:
        (papers / "thesis.tex").unlink()


def usable_clock(directory: Path) -> FastClock | None:
    """A clock for the week; None, and why is said, where there is no libfaketime."""
    if library() is None:
        print("\n### A week in fast motion is not shown: it needs libfaketime (apt-get install libfaketime)")
        return None
    return FastClock(directory)
