"""Replicas and the direct path, against what an administrator would use instead. ``python -m benchmarks.replicas`` writes its
part of docs/benchmarks.md.

*lazy*: from nothing to the first byte, to ``ls -lR`` and to ``grep -r`` of a tree that stands on another host: a lazy replica,
sshfs, and a full copy by rsync first; for the replica also until it is full. *follow*: how old what a replica shows is, while
the volume gets ten changes a second. *move*: a whole volume to another host, over the direct path and relayed, against ``tar |
lz4 | ssh``, rsync and btrfs send. Two hosts with an sshd each, on one machine, file systems on loop devices. Every contender
starts from a target that holds nothing, with warm caches at the source; medians are taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from benchmarks import datasets, report
from benchmarks.contenders import VOLTOOL
from benchmarks.measure import run
from tests.filesystems import LoopFilesystem
from tests.hosts import Site

PARTS = ("lazy", "follow", "move")
BEGIN = "<!-- replicas: begin -->"
END = "<!-- replicas: end -->"
PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
_GIB = 1 << 30
_POLL = 0.02
_FILL_PATIENCE = 900.0
_FOLLOW_SECONDS = 20.0
_CHANGES_PER_SECOND = 10


@dataclass
class Results:
    """Seconds of each contender, by table and column; ``lags`` of what a following replica showed."""

    tables: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)

    def add(self, table: str, contender: str, column: str, seconds: float) -> None:
        """One more run."""
        columns = self.tables.setdefault(table, {}).setdefault(contender, {})
        columns.setdefault(column, []).append(seconds)
        print(f"  {table}: {contender}: {column}: {seconds:.2f} s", file=sys.stderr, flush=True)


class Ground:
    """hosta with the volume ``vol``, hostb with room; both file systems of one kind."""

    def __init__(self, site: Site, here: LoopFilesystem, there: LoopFilesystem, kind: str, data: str) -> None:
        self.site = site
        self.kind = kind
        self.here, self.there = str(here.path), str(there.path)
        self.environment = site.environment
        site.add_host("hosta")
        site.add_host("hostb")
        self.volume = os.path.join(self.here, "vol")
        if kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", self.volume], check=True)
        else:
            os.mkdir(self.volume)
        self._data = data

    def fill(self, scale: float) -> None:
        """Build the data set and adopt it; the dump gives the home its stamps."""
        datasets.build(self._data, self.volume, scale)
        os.sync()
        self.site.voltool("volume", "add", "vol", f"hosta:{self.volume}")
        self.site.voltool("dump", "vol")

    def voltool(self, *arguments: str) -> None:
        """voltool, or RuntimeError with what it said."""
        self.site.voltool(*arguments)

    def shell(self, command: str) -> float:
        """Run a command; its seconds."""
        return run(command, self.environment).seconds

    def place(self, name: str) -> str:
        """A path at the other host."""
        return os.path.join(self.there, name)


def _walk_reads(ground: Ground, path: str, results: Results, contender: str, began: float) -> None:
    """First byte, ls -lR, grep -r of the tree at ``path``; the time of each since ``began``."""
    first = next(os.path.join(place, names[0]) for place, _dirs, names in os.walk(ground.volume) if names)
    there = os.path.join(path, os.path.relpath(first, ground.volume))
    for column, command in (
        ("first byte", f"head -c 1 {quote(there)} > /dev/null"),
        ("ls -lR", f"ls -lR {quote(path)} > /dev/null"),
        ("grep -r", f"grep -r nothing-has-this {quote(path)} > /dev/null || test $? = 1"),
    ):
        ground.shell(command)
        results.add("lazy", contender, column, time.monotonic() - began)


def lazy(ground: Ground, results: Results) -> None:
    """One round of each contender that makes a remote tree readable."""
    path = ground.place("rsync")
    began = time.monotonic()
    ground.shell(f"rsync -aHAX hosta:{quote(ground.volume)}/ {quote(path)}/")
    _walk_reads(ground, path, results, "rsync -aHAX, then read", began)
    shutil.rmtree(path)
    path = ground.place("sshfs")
    os.mkdir(path)
    began = time.monotonic()
    ground.shell(f"sshfs hosta:{quote(ground.volume)} {quote(path)}")
    try:
        _walk_reads(ground, path, results, "sshfs", began)
    finally:
        subprocess.run(["umount", path], check=True)
        os.rmdir(path)
    path = ground.place("replica")
    ground.voltool(
        "dump", "--level", "1", "vol"
    )  # the others' reading has changed every atime, as a night's dump would see
    began = time.monotonic()
    ground.voltool("replica", "add", "vol", f"hostb:{path}", "--lazy")
    results.add("lazy", "voltool replica add --lazy", "mounted", time.monotonic() - began)
    _walk_reads(ground, path, results, "voltool replica add --lazy", began)
    _wait_full(ground, path)
    results.add("lazy", "voltool replica add --lazy", "all there", time.monotonic() - began)
    ground.voltool("replica", "remove", "vol", "hostb", "--purge")


def _wait_full(ground: Ground, path: str) -> None:
    """Until the plain directory has taken the mount's place. Who asks `replica list` all the time takes a processor from the
    fill, on a machine that has two."""
    deadline = time.monotonic() + _FILL_PATIENCE
    while any(
        line.split()[1:3] == [path, "fuse.voltool-lazy"] for line in Path("/proc/mounts").read_text().splitlines()
    ):
        if time.monotonic() > deadline:
            raise RuntimeError("the lazy replica does not get full")
        time.sleep(_POLL)
    while ground.site.result("replica", "list", "vol", check=False)["replicas"][0]["phase"] != "serving":
        time.sleep(_POLL)


def fill(ground: Ground, results: Results) -> None:
    """A lazy replica that nobody reads until it is full, against a catch-up replica's first copy."""
    path = ground.place("replica")
    for contender, options in (("replica add --lazy, until full", ["--lazy"]), ("replica add", [])):
        began = time.monotonic()
        ground.voltool("replica", "add", "vol", f"hostb:{path}", *options)
        _wait_full(ground, path)
        results.add("fill", contender, "seconds", time.monotonic() - began)
        ground.voltool("replica", "remove", "vol", "hostb", "--purge")


def follow(ground: Ground, results: Results) -> None:
    """Ten changes a second; how old the newest one that the replica shows is, looked at all the time."""
    path = ground.place("replica")
    ground.voltool("replica", "add", "vol", f"hostb:{path}")
    written: list[float] = []
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(1 / _CHANGES_PER_SECOND):
            Path(ground.volume, "change").write_text(str(len(written)), encoding="ascii")
            written.append(time.monotonic())

    follower = subprocess.Popen([VOLTOOL, "replica", "sync", "vol", "--follow"], env=dict(ground.environment))
    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(5)
        until = time.monotonic() + _FOLLOW_SECONDS
        while time.monotonic() < until:
            time.sleep(_POLL)
            with contextlib.suppress(OSError, ValueError):
                shown = int(Path(path, "change").read_text(encoding="ascii"))
                # What the replica lacks is as old as the first change after the one it shows.
                results.lags.append(time.monotonic() - written[shown + 1] if shown + 1 < len(written) else 0.0)
    finally:
        stop.set()
        writer.join()
        follower.send_signal(signal.SIGTERM)
        follower.wait(60)
    ground.voltool("replica", "remove", "vol", "hostb", "--purge")


def move(ground: Ground, results: Results, table: str, turn: int) -> None:
    """A whole volume: each contender once; ours goes there and back, so that it is there again."""
    source, target = quote(ground.volume), quote(ground.place("copy"))
    contenders = [
        ("tar c | lz4 | ssh", f"mkdir {target} && tar c -C {source} . | lz4 | ssh hostb 'lz4 -d | tar x -C {target}'"),
        ("rsync -aHAX", f"rsync -aHAX {source}/ hostb:{target}/"),
    ]
    for name, command in contenders:
        results.add(table, name, "seconds", ground.shell(f"{command} && ssh hostb sync -f {target}"))
        shutil.rmtree(ground.place("copy"))
    if ground.kind == "btrfs":
        snapshot = quote(f"{ground.here}/snapshot{turn}")
        command = f"btrfs -q subvolume snapshot -r {source} {snapshot} && sync -f {source} &&"
        command += f" btrfs -q send {snapshot} | ssh hostb btrfs -q receive {quote(ground.there)}"
        command += f" && ssh hostb sync -f {quote(ground.there)}"
        results.add(table, "btrfs send | ssh | btrfs receive", "seconds", ground.shell(command))
        for place in (snapshot, quote(ground.place(f"snapshot{turn}"))):
            ground.shell(f"btrfs -q subvolume delete {place}")
    for path in ("direct", "relay"):
        seconds = _time_move(ground, path)
        results.add(table, f"voltool move --path {path}", "seconds", seconds)


def _time_move(ground: Ground, path: str) -> float:
    """There, as a first move; then back, and what either left behind is purged."""
    os.sync()
    began = time.monotonic()
    ground.voltool("move", "vol", f"hostb:{ground.place('moved')}", "--yes", "--path", path)
    seconds = time.monotonic() - began
    ground.voltool("move", "vol", f"hosta:{ground.volume}", "--yes")
    ground.voltool("retired", "purge", "vol", "hostb", "--yes")
    return seconds


def measure(parts: Sequence[str], scale: float, rounds: int, work: str) -> Results:
    """Everything that was asked for."""
    results = Results()
    for kind, data in (("btrfs", "small"), ("btrfs", "large")):
        if data == "large" and "move" not in parts:
            continue
        size = int(scale * 12 * _GIB) + _GIB
        with LoopFilesystem(kind, size) as here, LoopFilesystem(kind, size) as there, _site(work, data) as site:
            ground = Ground(site, here, there, kind, data)
            ground.fill(scale)
            for turn in range(rounds):
                if "lazy" in parts and data == "small":
                    lazy(ground, results)
                    fill(ground, results)
                if "move" in parts:
                    move(ground, results, f"move, {data}", turn)
            if "follow" in parts and data == "small":
                follow(ground, results)
    return results


@contextlib.contextmanager
def _site(work: str, name: str) -> Iterator[Site]:
    directory = Path(work, f"site-{name}")
    try:
        with Site(directory) as site:
            yield site
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def render(results: Results) -> str:
    """A table for each part."""
    lines: list[str] = []
    for table, contenders in results.tables.items():
        columns = list(dict.fromkeys(column for each in contenders.values() for column in each))
        lines += [f"**{table}** (seconds, medians)", "", f"| contender | {' | '.join(columns)} |"]
        lines.append(f"|---|{'--:|' * len(columns)}")
        for contender, found in contenders.items():
            cells = [f"{statistics.median(found[column]):.2f}" if column in found else "" for column in columns]
            lines.append(f"| {contender.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
        lines.append("")
    if results.lags:
        ordered = sorted(results.lags)
        worst, late = ordered[-1], ordered[int(len(ordered) * 0.95)]
        middle = statistics.median(ordered)
        lines.append(
            f"**follow**: what the replica showed was {middle:.2f} s old (median), {late:.2f} s (95 %), {worst:.2f} s"
        )
        lines[-1] += " (at worst)."
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full size (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--directory", default="/var/tmp", help="where the working files go")  # noqa: S108
    parser.add_argument("--json", action="store_true", help="print every run instead of tables")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    options = parser.parse_args(arguments)
    work = tempfile.mkdtemp(prefix="voltool-bench-", dir=options.directory)
    tempfile.tempdir = work
    try:
        results = measure(options.part or PARTS, options.scale, options.rounds, work)
    finally:
        tempfile.tempdir = None
        shutil.rmtree(work, ignore_errors=True)
    text = render(results)
    print(json.dumps({"tables": results.tables, "lags": results.lags}) if options.json else text)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(report.replace_between_markers(page, text, BEGIN, END), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
