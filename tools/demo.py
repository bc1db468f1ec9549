"""``make demo``: dumps, restores and a move between two throw-away hosts, a lazy replica that is promoted, then a week of nightly
backups in fast motion, with every command and its real output.

hostA and hostB are two sshds on loopback, each with a state directory of its own. hostA's volume stands on btrfs (as root;
else where /var/tmp is), hostB's target on XFS (else on tmpfs). What comes back is compared by rsync and by a comparer of
its own, neither of which shares code with voltool. Exits 0 only when there is no difference. Removes all it made.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import judge
from tests.filesystems import LoopFilesystem
from tests.hosts import VOLTOOL, Site
from tests.writer import Writer
from tools import demo_replica, demo_week

MIB = 1 << 20
#: ACLs are compared by -A, not as the attributes that show them again (XFS even in a form of its own).
_RSYNC = ["rsync", "-aHAXin", "--checksum", "--delete", "--numeric-ids"]
_RSYNC += ["--filter=-x system.*", "--filter=-x trusted.SGI_ACL_*"]
#: How many differences are shown.
_SHOWN = 20


#: include/linux/proc_ns.h: in any other one this is a container.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass
class Demo:
    """The site, and what has been found wrong so far."""

    site: Site
    faults: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A headline."""
        print(f"\n### {text}", flush=True)

    def run(self, *command: str) -> None:
        """Show a command, run it without a terminal, show its output; a failure is a fault."""
        print(f"$ {shlex.join(command)}", flush=True)
        real = [str(VOLTOOL), *command[1:]] if command[0] == "voltool" else list(command)
        done = subprocess.run(
            real, env=self.site.environment, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode != 0:
            self.faults.append(f"{shlex.join(command)} ended with {done.returncode}")
            print(f"(exit code {done.returncode})", flush=True)

    def compare(self, original: Path, restored: Path) -> None:
        """Look for differences both ways with rsync, then with the comparer for what rsync does not see."""
        if not restored.is_dir():
            self.faults.append(f"{restored} was not restored")
            return
        for one, other in ((original, restored), (restored, original)):
            command = [*_RSYNC, f"{one}/", f"{other}/"]
            print(f"$ {shlex.join(command)}", flush=True)
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            lines = (done.stdout + done.stderr).splitlines() or ["(no output: no difference)"]
            print("\n".join(lines[:_SHOWN]), flush=True)
            if done.stdout or done.returncode != 0:
                self.faults.append(f"rsync found differences between {one} and {other}")
        found = judge.compare(original, restored)
        print(f"the comparer (content, holes, flags, link groups, attributes): {len(found)} differences", flush=True)
        for line in found[:_SHOWN]:
            print(f"  {line}", flush=True)
        self.faults += [f"the comparer found {len(found)} differences in {restored}"] if found else []

    def dump_ids(self) -> list[str]:
        """The ids of the volume's dumps, oldest first."""
        done = self.site.voltool("--json", "dumps", "vol1", check=False)
        lines = done.stdout.splitlines()
        return [dump["id"] for dump in json.loads(lines[-1]).get("dumps", [])] if lines else []


def main() -> int:
    """Run the demo; 0 when everything came back as it was."""
    with contextlib.ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="voltool-demo-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        source, target = stack.enter_context(_places(work))
        demo = Demo(stack.enter_context(Site(work / "site")))
        demo.site.add_host("hostA")
        demo.site.add_host("hostB")
        _play(demo, source, target)
        _replica(demo, source.parent, target)
        _week(work / "week", source.parent, target, demo.faults)
    return _verdict(demo.faults)


def _week(work: Path, here: Path, there: Path, faults: list[str]) -> None:
    """Two hosts more, which live by a clock of their own."""
    work.mkdir()
    clock = demo_week.usable_clock(work)
    if clock is None:
        return
    with Site(work / "site") as site:
        site.environment.update(clock.environment)
        for name in ("hostA", "hostB"):
            site.add_host(name, options=[clock.sshd_option])
        demo_week.play(Demo(site, faults), clock, here, there)


def _play(demo: Demo, volume: Path, target: Path) -> None:
    build(volume)
    demo.say("Two hosts, reached by real sshds; nothing of voltool is installed on them")
    demo.run("ssh", "hostA", f"df --output=fstype,target {volume.parent}")
    demo.run("ssh", "hostB", f"df --output=fstype,target {target}")
    demo.say("Adopt a directory tree as a volume, where it stands, and dump it in full")
    demo.run("voltool", "volume", "add", "vol1", f"hostA:{volume}")
    demo.run("voltool", "dump", "vol1")
    monday = volume.parent / "as-it-was-on-monday"
    subprocess.run(["cp", "-a", "--reflink=auto", str(volume), str(monday)], check=True)
    demo.say("Some work is done; then a level 1 dump: what changed since level 0")
    work_on_tuesday(volume)
    demo.run("voltool", "dump", "--level", "1", "vol1")
    demo.say("More work; then a level 2 dump: what changed since level 1")
    work_on_wednesday(volume)
    demo.run("voltool", "dump", "--level", "2", "vol1")
    demo.run("voltool", "dumps", "vol1")
    demo.run("voltool", "verify", "vol1")
    demo.run("voltool", "cat", "vol1", "projects/0/report.txt")
    demo.say("Restore all of it, three dumps in one command, on the other host and another file system")
    demo.run("voltool", "restore", "vol1", f"hostB:{target}/vol1")
    demo.say("Restore the first day's state beside it")
    first = demo.dump_ids()[:1]
    demo.run("voltool", "restore", *(first or ["vol1"]), f"hostB:{target}/vol1-monday")
    demo.say("Check: the newest state against the volume, the first state against a copy made on that day")
    demo.compare(volume, target / "vol1")
    demo.compare(monday, target / "vol1-monday")
    _move(demo, volume, target / "vol1-home")


def _replica(demo: Demo, here: Path, there: Path) -> None:
    """A volume of its own."""
    if not _can_lock() or not Path("/dev/fuse").exists():
        demo.say("A replica is not shown: it needs root, outside of a container, and FUSE")
        return
    demo_replica.play(demo, here, there)


def _can_lock() -> bool:
    return os.geteuid() == 0 and os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE


def _move(demo: Demo, volume: Path, target: Path) -> None:
    """The volume goes to the other host while a process writes to it."""
    if not _can_lock():
        demo.say("A move is not shown: locking a volume needs root, outside of a container")
        return
    demo.say("Move the volume to the other host while a process writes to it")
    with tempfile.TemporaryDirectory(prefix="voltool-demo-") as notes:
        writer = Writer(volume, Path(notes))
        try:
            demo.run("voltool", "move", "vol1", f"hostB:{target}", "--yes")
            demo.run("voltool", "where", "vol1")
        finally:
            writer.stop()
        demo.say("Check: every write that was acknowledged, and the retired copy against the new home")
        lost = writer.lost(target)
        print(f"{len(writer.acknowledged())} writes were acknowledged, {len(lost)} are missing")
        if lost:
            demo.faults.append(f"{len(lost)} acknowledged writes are missing")
        (retired,) = volume.parent.glob(".voltool/*/retired-*")
        demo.compare(retired, target)
    demo.run("voltool", "dump", "--level", "3", "vol1")
    demo.run("voltool", "retired", "purge", "vol1", "hostA", "--yes")


def _verdict(faults: list[str]) -> int:
    print()
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"VERDICT: {'NOT IDENTICAL' if faults else 'identical: every file, attribute, link and hole came back'}")
    return 1 if faults else 0


@contextlib.contextmanager
def _places(work: Path) -> Iterator[tuple[Path, Path]]:
    """The volume's path and the directory to restore into, on two file systems."""
    with contextlib.ExitStack() as stack:
        if os.geteuid() != 0:
            print("demo: not root, so the target is tmpfs and owners, devices and btrfs are not shown", file=sys.stderr)
            target = stack.enter_context(tempfile.TemporaryDirectory(prefix="voltool-demo-", dir="/dev/shm"))
            volume = work / "srv/vol1"
            volume.mkdir(parents=True)
            yield volume, Path(target)
            return
        btrfs = stack.enter_context(LoopFilesystem("btrfs", 1024 * MIB))
        xfs = stack.enter_context(LoopFilesystem("xfs", 1024 * MIB))
        volume = btrfs.path / "vol1"
        subprocess.run(["btrfs", "--quiet", "subvolume", "create", str(volume)], check=True)
        yield volume, xfs.path


def build(root: Path) -> None:
    """A small but varied tree: many text files, a database, hard links, holes, attributes, odd names."""
    rng = random.Random(1)
    for number in range(20):
        project = root / f"projects/{number}"
        project.mkdir(parents=True)
        (project / "report.txt").write_text(f"report of project {number}\n", encoding="ascii")
        for part in range(50):
            (project / f"part{part:02d}.dat").write_bytes(rng.randbytes(rng.randrange(100, 20_000)))
    (root / "database").write_bytes(rng.randbytes(32 * MIB))
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 30)
        file.write(b"the end of a large hole")
    os.link(root / "projects/0/report.txt", root / "projects/1/the same report.txt")
    (root / "newest").symlink_to("projects/19/report.txt")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"not \xff UTF-8\nand a newline")).touch()
    os.setxattr(root / "database", "user.owner", b"accounting")
    (root / "projects/2").chmod(0o2750)
    subprocess.run(["setfacl", "-m", "u:daemon:rw", str(root / "projects/3/report.txt")], check=True)
    if os.geteuid() == 0:
        os.chown(root / "projects/4", 1234, 1234)
        subprocess.run(["setcap", "cap_net_raw+ep", str(root / "projects/5/part00.dat")], check=True)


def work_on_tuesday(root: Path) -> None:
    """Blocks of the database change in place, a directory is renamed, files come and go."""
    rng = random.Random(2)
    with (root / "database").open("r+b") as file:
        for _ in range(64):
            file.seek(rng.randrange(32 * MIB // 4096) * 4096)
            file.write(rng.randbytes(4096))
    (root / "projects/6").rename(root / "projects/six")
    shutil.rmtree(root / "projects/7")
    (root / "projects/8/new.txt").write_text("made on Tuesday\n", encoding="ascii")


def work_on_wednesday(root: Path) -> None:
    """A report changes, a file becomes a directory, attributes change without any content."""
    (root / "projects/0/report.txt").write_text("revised on Wednesday\n", encoding="ascii")
    (root / "projects/9/part00.dat").unlink()
    (root / "projects/9/part00.dat").mkdir()
    (root / "projects/8/new.txt").unlink()
    (root / "projects/10/part00.dat").chmod(0o600)
    os.setxattr(root / "database", "user.owner", b"audit")


if __name__ == "__main__":
    sys.exit(main())
