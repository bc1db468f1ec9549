"""A replica, as ``make demo`` shows it: lazy and readable at once, full, synced, promoted when its volume's home is gone."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Protocol

from tests.hosts import Site

_MIB = 1 << 20
#: So slow (bytes/s) is the replica filled in the background that it can be watched.
_BANDWIDTH = "4M"
_PATIENCE = 120.0


class Stage(Protocol):
    """What of the demo is used here."""

    site: Site
    faults: list[str]

    def say(self, text: str) -> None:
        """A headline."""

    def run(self, *command: str) -> None:
        """Show a command, run it, show its output; a failure is a fault."""

    def compare(self, original: Path, restored: Path) -> None:
        """Look for differences; each is a fault."""


def play(demo: Stage, here: Path, there: Path) -> None:
    """The volume stands below ``here`` on hostA (btrfs), its replica below ``there`` on hostB."""
    volume, replica = here / "library", there / "library"
    subprocess.run(["btrfs", "--quiet", "subvolume", "create", str(volume)], check=True)
    _build(volume)
    demo.say(
        "A replica that can be read before it is there: every name at once, a file when somebody reads it, the rest behind"
    )
    demo.run("voltool", "volume", "add", "library", f"hostA:{volume}")
    demo.run("voltool", "replica", "add", "library", f"hostB:{replica}", "--lazy", "--bandwidth", _BANDWIDTH)
    _read(demo, volume, replica)
    demo.run("voltool", "replica", "list", "library")
    if _phase(demo) != "lazy":
        demo.faults.append("the replica was full before anybody could read it lazily")
    _wait_full(demo)
    demo.run("voltool", "replica", "list", "library")
    demo.compare(volume, replica)
    demo.say("Work goes on at its home; a sync brings the replica what changed, and swaps it in at once")
    _work(volume)
    demo.run("voltool", "replica", "sync", "library")
    demo.compare(volume, replica)
    _promote(demo, volume, replica)


def _promote(demo: Stage, volume: Path, replica: Path) -> None:
    demo.say("hostA is gone, with a note that was written after the last sync: the replica takes over, by force")
    (volume / "written-too-late.txt").write_text("nobody has seen this yet\n", encoding="ascii")
    host = demo.site.hosts["hostA"]
    host.sshd.down()
    demo.run("voltool", "replica", "promote", "library", "hostB", "--force")
    (replica / "new-home.txt").write_text("the volume lives here now\n", encoding="ascii")
    demo.say(
        "hostA comes back: it hears that it is not the home any more; what was written there meanwhile is kept aside and named"
    )
    host.sshd.up()
    demo.run("voltool", "replica", "list", "library")
    demo.run("voltool", "where", "library")
    kept = [path for path in volume.parent.glob(".voltool/*/retired-*/written-too-late.txt") if path.is_file()]
    if not kept:
        demo.faults.append("what was written to the old home is not kept aside")
    if (volume / "written-too-late.txt").exists():
        demo.faults.append("the old home is still there")
    demo.run("voltool", "dump", "library")


def _build(root: Path) -> None:
    rng = random.Random(3)
    for shelf in range(40):
        directory = root / f"shelf{shelf:02d}"
        directory.mkdir()
        for number in range(25):
            (directory / f"book{number:02d}.txt").write_bytes(rng.randbytes(rng.randrange(1000, 30_000)))
    (root / "archive.bin").write_bytes(rng.randbytes(24 * _MIB))
    (root / "newest").symlink_to("shelf39/book24.txt")
    os.link(root / "shelf00/book00.txt", root / "shelf01/the same book.txt")


def _work(root: Path) -> None:
    (root / "shelf02").rename(root / "shelf two")
    (root / "shelf03/book00.txt").write_text("a second edition\n", encoding="ascii")
    (root / "shelf04/book00.txt").unlink()


def _read(demo: Stage, volume: Path, replica: Path) -> None:
    """The end of the large file, which is not there yet."""
    demo.run("sh", "-c", f"findmnt -n -o FSTYPE,OPTIONS {replica}; ls {replica} | head -3; ls -R {replica} | wc -l")
    found, wanted = (hashlib.sha256(_last_mib(place / "archive.bin")).hexdigest() for place in (replica, volume))
    print(f"the last MiB of archive.bin: {found[:16]} here, {wanted[:16]} at its home", flush=True)
    if found != wanted:
        demo.faults.append("the lazy replica gave other bytes than the volume has")


def _last_mib(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-_MIB, os.SEEK_END)
        return file.read()


def _wait_full(demo: Stage) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if _phase(demo) == "serving":
            return
        time.sleep(0.5)
    demo.faults.append("the lazy replica did not get full")


def _phase(demo: Stage) -> str:
    (replica,) = demo.site.result("replica", "list", "library", check=False)["replicas"]
    return str(replica["phase"])
