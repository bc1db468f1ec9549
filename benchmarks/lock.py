"""The last lock of a move, against what an administrator would do while the service is stopped: a second pass of rsync, and
on btrfs an incremental ``send | receive``. ``python -m benchmarks.lock`` writes its part of docs/benchmarks.md.

All of them bring the same to the same host over the same sshd: 100,000 small files, of which 100 were changed since the
pass before, which is not timed. voltool's lock is what it reports itself, from the hook ``before_lock`` to the volume's being
in service at its new home, without the time in which that hook changes the 100 files. In each round all contenders run, one
after the other; medians are taken. Run it in a mount namespace of its own (``unshare -m``) where others make namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from benchmarks import datasets, report
from benchmarks.contenders import VOLTOOL
from benchmarks.measure import run
from tests.filesystems import LoopFilesystem
from tests.hosts import Site

KINDS = ("ext4", "xfs", "btrfs")
BEGIN = "<!-- lock: begin -->"
END = "<!-- lock: end -->"
PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
RSYNC = "rsync -aHAX --delete"
SYNCED = f"{RSYNC}, then sync there"
SEND = "btrfs send -p, receive"
OURS = "voltool move: its lock"
_GIB = 1 << 30
_CHANGED = 100


@dataclass
class Lock:
    """One lock of ours: seconds in all, and of each step."""

    seconds: float
    steps: dict[str, float]


@dataclass
class Result:
    """One file system: seconds of each contender's runs, and our locks."""

    kind: str
    runs: dict[str, list[float]] = field(default_factory=dict)
    locks: list[Lock] = field(default_factory=list)

    def add(self, name: str, seconds: float) -> None:
        """One more run."""
        self.runs.setdefault(name, []).append(seconds)
        print(f"  {self.kind}: {name}: {seconds:.2f} s", file=sys.stderr, flush=True)


class Ground:
    """Two hosts, each with a file system of the kind: the volume ``vol``, and ``plain``, the same again for the others."""

    def __init__(self, site: Site, here: LoopFilesystem, there: LoopFilesystem, scale: float) -> None:
        self.site = site
        self.kind = here.kind
        self.here, self.there = str(here.path), str(there.path)
        self.environment = site.environment
        site.add_host("hosta")
        site.add_host("hostb")
        for name in ("plain", "vol"):
            self._directory(os.path.join(self.here, name))
            self.data = datasets.build("small", os.path.join(self.here, name), scale)
        site.voltool("volume", "add", "vol", f"hosta:{self.here}/vol")
        self._hook = Path(site.directory, "hook-seconds")
        script = f'{sys.executable} -m benchmarks.lock --change {self._hook} "$VOLTOOL_PATH"'
        config = site.directory / "config.toml"
        config.write_text(f"[volumes.vol]\nbefore_lock = {json.dumps(['sh', '-c', script])}\n", encoding="utf-8")
        self.environment |= {"VOLTOOL_CONFIG": str(config)}
        self._snapshots = 0

    def _directory(self, path: str) -> None:
        if self.kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", path], check=True)
        else:
            os.mkdir(path)

    def shell(self, command: str) -> float:
        """Run a command; its seconds."""
        os.sync()
        return run(command, self.environment).seconds

    def rsync(self, *, then_sync: bool = False) -> float:
        """A pass of rsync to the other host."""
        command = f"{RSYNC} {quote(self.here)}/plain/ hostb:{quote(self.there)}/plain/"
        return self.shell(f"{command} && ssh hostb sync -f {quote(self.there)}/plain" if then_sync else command)

    def send(self) -> float:
        """A snapshot, sent against the one before; the first is sent whole."""
        self._snapshots += 1
        new, old = (f"{self.here}/snapshot{number}" for number in (self._snapshots, self._snapshots - 1))
        parent = f"-p {quote(old)} " if self._snapshots > 1 else ""
        return self.shell(
            f"btrfs -q subvolume snapshot -r {quote(self.here)}/plain {quote(new)} && sync -f {quote(self.here)} &&"
            f" btrfs -q send {parent}{quote(new)} | ssh hostb btrfs -q receive {quote(self.there)}"
        )

    def change(self) -> None:
        """Another content, of the same length, for 100 files."""
        change_files(os.path.join(self.here, "plain"))

    def move(self, turn: int) -> Lock:
        """Our move, there in even turns and back in odd ones."""
        host, place = ("hosta", self.here) if turn % 2 else ("hostb", self.there)
        os.sync()
        done = subprocess.run(
            [VOLTOOL, "--json", "move", "vol", f"{host}:{place}/vol-{turn}", "--yes"],
            env=dict(self.environment), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)
        events = [json.loads(line) for line in done.stdout.splitlines()]
        hook = float(self._hook.read_text(encoding="ascii"))
        steps = {event["step"]: event["seconds"] for event in events if event["event"] == "step_ended"}
        steps["lock"] -= hook
        (lock,) = (event for event in events if event["event"] == "unlocked")
        return Lock(lock["seconds"] - hook, steps)


def change_files(root: str) -> None:
    """Rewrite 100 files below ``root``, spread evenly."""
    paths = sorted(os.path.join(place, name) for place, _dirs, names in os.walk(root) for name in names)
    for path in paths[:: max(1, len(paths) // _CHANGED)][:_CHANGED]:
        with open(path, "r+b") as file:
            file.write(os.urandom(os.stat(path).st_size))


def _change_as_hook(noted: str, root: str) -> None:
    """The volume's last changes before it is locked; how long they took (from the start of this process) is no lock."""
    import time

    change_files(root)
    with open("/proc/self/stat", encoding="utf-8") as file:
        started = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    Path(noted).write_text(f"{seconds}", encoding="ascii")


def measure(kind: str, scale: float, rounds: int, work: str) -> Result:
    """All contenders on one file system."""
    size = int(scale * 4 * _GIB) + _GIB // 2
    result = Result(kind)
    with LoopFilesystem(kind, size) as here, LoopFilesystem(kind, size) as there, _site(work, kind) as site:
        ground = Ground(site, here, there, scale)
        ground.rsync()
        if kind == "btrfs":
            ground.send()
        for turn in range(rounds):
            for name, contend in _contenders(ground):
                ground.change()
                result.add(name, contend())
            lock = ground.move(turn)
            result.locks.append(lock)
            result.add(OURS, lock.seconds)
    return result


def _contenders(ground: Ground) -> Iterator[tuple[str, Callable[[], float]]]:
    yield RSYNC, ground.rsync
    yield SYNCED, lambda: ground.rsync(then_sync=True)
    if ground.kind == "btrfs":
        yield SEND, ground.send


@contextlib.contextmanager
def _site(work: str, kind: str) -> Iterator[Site]:
    directory = Path(work, f"site-{kind}")
    try:
        with Site(directory) as site:
            yield site
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def render(results: Sequence[Result]) -> str:
    """The two tables."""
    lines = ["| file system | contender | seconds (median) | least to most | relative |", "|---|---|--:|--:|--:|"]
    for result in results:
        reference = statistics.median(result.runs[RSYNC])
        for name, runs in result.runs.items():
            seconds = statistics.median(runs)
            spread = f"{min(runs):.2f} to {max(runs):.2f}"
            lines.append(f"| {result.kind} | {name} | {seconds:.2f} | {spread} | {seconds / reference:.2f} |")
    steps = list(dict.fromkeys(step for result in results for lock in result.locks for step in lock.steps))
    steps = [step for step in steps if not step.startswith(("copy", "catch up", "settle"))]
    lines += ["", "Of voltool's lock, medians of each step:", ""]
    lines += [f"| file system | {' | '.join(steps)} |", f"|---|{'--:|' * len(steps)}"]
    for result in results:
        medians = [statistics.median(lock.steps[step] for lock in result.locks) for step in steps]
        lines.append(f"| {result.kind} | {' | '.join(f'{seconds:.2f}' for seconds in medians)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lock", description=__doc__)
    parser.add_argument("kind", nargs="*", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full size (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--directory", default="/var/tmp", help="where the working files go")  # noqa: S108
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    parser.add_argument("--change", nargs=2, metavar=("FILE", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.change:
        _change_as_hook(*options.change)
        return 0
    work = tempfile.mkdtemp(prefix="voltool-bench-", dir=options.directory)
    tempfile.tempdir = work
    try:
        results = [measure(kind, options.scale, options.rounds, work) for kind in options.kind or KINDS]
    finally:
        tempfile.tempdir = None
        shutil.rmtree(work, ignore_errors=True)
    text = render(results)
    print(text)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(report.replace_between_markers(page, text, BEGIN, END), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
