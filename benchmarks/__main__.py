"""``make bench``: all contenders side by side in one run, warm, alternating; medians go to docs/benchmarks.md.

As root, since dump(8), xfsdump and a throw-away file system of each kind need it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import contenders, datasets, report
from benchmarks.contenders import Contender, Place
from benchmarks.measure import run
from tests.filesystems import LoopFilesystem
from tests.hosts import Site

JOBS = ("dump", "incremental", "restore", "ssh", "export", "sftp")
SETS = ("small", "large")
PAGE = Path(__file__).parent.parent / "docs/benchmarks.md"
MIB = 1 << 20
_DIRECTORY = "/var/tmp"  # noqa: S108 - mkdtemp makes a private directory in it; unlike /tmp it is on a disk


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments choose; returns the exit code."""
    options = _parse(arguments)
    if os.geteuid() != 0:
        print("benchmarks: needs root, for file systems on loop devices and for dump(8)", file=sys.stderr)
        return 1
    work = tempfile.mkdtemp(prefix="voltool-bench-", dir=options.directory)
    tempfile.tempdir = work  # the loop images lie there too
    parts = [report.describe_machine(_versions())]
    try:
        for name in options.set:
            parts += _run_set(name, options, work)
    finally:
        tempfile.tempdir = None
        shutil.rmtree(work, ignore_errors=True)
    if options.scale != 1:
        parts.insert(1, f"**Scaled to {options.scale:g} of the full size: these numbers say little.**\n")
    text = "\n".join(parts)
    if options.write:
        PAGE.write_text(report.replace_between_markers(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
        print(f"benchmarks: written to {PAGE}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("job", nargs="*", help=f"of {', '.join(JOBS)} (default: all)")
    parser.add_argument("--set", action="append", choices=SETS, help="which data set (default: both)")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the full size (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (default: 3)")
    parser.add_argument("--directory", default=_DIRECTORY, help="where 20 GB of working files go (default: /var/tmp)")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave docs/benchmarks.md alone")
    options = parser.parse_args(arguments)
    unknown = set(options.job) - set(JOBS)
    if unknown:
        parser.error(f"no such job: {', '.join(sorted(unknown))}")
    options.job = options.job or list(JOBS)
    options.set = options.set or list(SETS)
    return options


def _run_set(name: str, options: argparse.Namespace, work: str) -> Iterator[str]:
    """The tables of one data set, each printed as soon as it is there."""
    size = int(options.scale * (5 << 30)) + 512 * MIB  # sparse; ext4 has an inode for each 16 KiB
    yield f"## {'Small files' if name == 'small' else 'Large files'}\n"
    for kind in ("ext4", "xfs"):
        jobs = [job for job in options.job if kind == "ext4" or job in {"dump", "incremental"}]
        if not jobs:
            continue
        with LoopFilesystem(kind, size) as filesystem, _place(name, kind, filesystem, work) as place:
            data = datasets.build(name, place.data, options.scale)
            place.quietly(contenders.VOLTOOL, "volume", "add", "bench", f"local:{place.data}")
            for job in jobs:
                table = _JOBS[job](place, data, options)
                text = report.render_table(table)
                print(text, flush=True)
                yield text


@contextlib.contextmanager
def _place(name: str, kind: str, filesystem: LoopFilesystem, work: str) -> Iterator[Place]:
    out = os.path.join(work, f"out-{name}-{kind}")
    data = os.path.join(filesystem.path, "data")
    for directory in (out, data):
        os.makedirs(directory, exist_ok=True)
    try:
        with Site(Path(work, f"site-{name}-{kind}")) as site:
            environment = {
                **site.environment,
                "RESTIC_PASSWORD": "benchmark",
                "RESTIC_CACHE_DIR": os.path.join(out, "restic-cache"),
                "BORG_BASE_DIR": os.path.join(out, "borg-home"),
                "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            }
            yield Place(kind, str(filesystem.path), data, out, environment, site)
    finally:
        for directory in (out, os.path.join(work, f"site-{name}-{kind}")):
            shutil.rmtree(directory, ignore_errors=True)


def _compare(
    found: list[Contender], place: Place, rounds: int, before_round: Callable[[int], object] = lambda _turn: None
) -> list[report.Row]:
    """Run all contenders, one after the other, ``rounds`` times."""
    rows = [report.Row(contender.name) for contender in found]
    place.quietly(
        "tar", "-C", place.data, "-cf", os.path.join(place.out, "warm.tar"), "."
    )  # /dev/null: tar would cheat
    place.fresh("warm.tar")
    for turn in range(rounds):
        before_round(turn)
        for contender, row in zip(found, rows, strict=True):
            contender.prepare()
            os.sync()
            before = _size(contender.output)
            row.runs.append(run(contender.command, place.environment, contender.servers))
            row.output = _size(contender.output) - before
            print(f"  {contender.name}: {row.runs[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    return rows


def _dump(place: Place, data: datasets.DataSet, options: argparse.Namespace) -> report.Table:
    rows = _compare(contenders.dump_contenders(place), place, options.rounds)
    place.fresh(*os.listdir(place.out))
    return report.Table(f"Dump to a local file ({place.kind})", data, contenders.TAR_LZ4, rows)


def _incremental(place: Place, data: datasets.DataSet, options: argparse.Namespace) -> report.Table:
    found = contenders.incremental_contenders(place)
    changed = 0

    def change(turn: int) -> None:
        nonlocal changed
        changed = datasets.change(data.name, place.data, turn)

    rows = _compare(found, place, options.rounds, change)
    place.fresh(*os.listdir(place.out))
    note = f"{changed / report.MB:,.1f} MB of them changed since the full dump"
    return report.Table(f"Incremental after 1 % changed ({place.kind})", data, "voltool", rows, note)


def _restore(place: Place, data: datasets.DataSet, options: argparse.Namespace) -> report.Table:
    with LoopFilesystem("ext4", int(options.scale * (7 << 30)) + 512 * MIB) as target:
        found = contenders.restore_contenders(place, str(target.path))
        rows = _compare(found, place, options.rounds)
    place.fresh(*os.listdir(place.out))
    return report.Table("Restore to another file system (ext4)", data, contenders.LZ4_TAR, rows)


def _ssh(place: Place, data: datasets.DataSet, options: argparse.Namespace) -> report.Table:
    server = place.site.add_host("server")
    place.quietly(contenders.VOLTOOL, "volume", "add", "benchssh", f"{server.name}:{place.data}")
    rows = _compare(contenders.ssh_contenders(place, server), place, options.rounds)
    place.fresh(*os.listdir(place.out))
    return report.Table("Dump over SSH on loopback (ext4)", data, contenders.SSH_TAR, rows)


def _export(place: Place, data: datasets.DataSet, options: argparse.Namespace) -> report.Table:
    rows = _compare(contenders.export_contenders(place), place, options.rounds)
    place.fresh(*os.listdir(place.out))
    return report.Table("A tar archive out of a dump (ext4)", data, contenders.RESTIC_DUMP, rows)


def _sftp(place: Place, data: datasets.DataSet, options: argparse.Namespace) -> report.Table:
    server = place.site.add_host("vault")
    rows = _compare(contenders.sftp_contenders(place, server), place, options.rounds)
    place.fresh(*os.listdir(place.out))
    return report.Table("Dump into a store over SFTP on loopback (ext4)", data, contenders.TAR_SSH, rows)


_JOBS = {
    "dump": _dump,
    "incremental": _incremental,
    "restore": _restore,
    "ssh": _ssh,
    "export": _export,
    "sftp": _sftp,
}


def _size(path: str) -> int:
    if not path or not os.path.lexists(path):
        return 0
    if not os.path.isdir(path):
        return os.stat(path).st_size
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _dirs, names in os.walk(path) for name in names)


def _versions() -> list[str]:
    found = []
    for command in (
        "tar --version",
        "lz4 --version",
        "dump",
        "xfsdump -v",
        "restic version",
        "borg --version",
        "ssh -V",
    ):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                command.split(), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
            )
            first = next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "")
            if any(character.isdigit() for character in first):
                found.append(f"- {first}")
    return found


if __name__ == "__main__":
    sys.exit(main())
