"""A move between two hosts in network namespaces of their own, with a writer that runs in the source host's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.jobs.apart import VOLUME, Apart, two_hosts
from tests.jobs.soak import agents_of, signal_all
from tests.writer import wait_until

#: Appends a line to the file for each line it is told, and says so; closes it at the end of its input.
_HOLDER = """
import os, sys
with open(sys.argv[1], "a") as file:
    print("open", flush=True)
    for line in sys.stdin:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
        print("written", flush=True)
"""


def opening(apart: Apart, path: str, mode: str) -> str:
    """What somebody on the source host is told who opens a file now: the name of the error; empty: none."""
    code = f"import errno, sys\ntry: open({path!r}, {mode!r}).close()\nexcept OSError as e: print(errno.errorcode[e.errno])"
    return apart.host("hosta").machine.run(sys.executable, "-c", code).strip()


def test_a_volume_in_use_is_moved_and_open_files_are_waited_for(tmp_path: Path) -> None:
    with two_hosts(tmp_path, "ext4", "btrfs") as apart:
        writer = apart.writer()
        holder = subprocess.Popen(
            [*apart.host("hosta").machine.enter, sys.executable, "-c", _HOLDER, f"{VOLUME}/busy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        move = apart.start("move", "vol", "hostb", "--yes", "--lock-timeout", "60", "--max-lock", "120")
        wait_until(lambda: apart.lock_mounts("hosta") != [])
        wait_until(lambda: writer.refused)
        acknowledged = []
        for number in range(5):  # the lock waits for the open file, whose writes go on being acknowledged
            assert opening(apart, f"{VOLUME}/busy", "a") == "EROFS"
            assert opening(apart, f"{VOLUME}/new", "w") == "EROFS"
            holder.stdin.write(f"line {number}\n")
            holder.stdin.flush()
            assert holder.stdout.readline() == "written\n"
            acknowledged.append(f"line {number}")
        assert apart.record("hosta", "source")["phase"] == "copying"
        holder.communicate()
        assert move.end() == 0, move.output
        assert (apart.tree("hostb") / "busy").read_text().splitlines() == acknowledged
        assert opening(apart, f"{VOLUME}/busy", "r+") == "ENOENT"
        assert opening(apart, f"{VOLUME}/new", "w") == "EPERM"  # the empty directory there is immutable
        writer.stop()
        apart.assert_settled("hostb", writer)


def test_the_guardian_is_faster_than_the_commit(tmp_path: Path) -> None:
    """The agent does not run for a while under the lock; when it does again, the lock's time is over and the volume in use."""
    with two_hosts(tmp_path) as apart:
        apart.hold()
        writer = apart.writer()
        move = apart.start("move", "vol", "hostb", "--yes", "--max-lock", "3")
        apart.until_prepared()
        stopped = agents_of(apart, "hosta")
        assert stopped
        signal_all(stopped, signal.SIGSTOP)
        wait_until(lambda: apart.is_writable("hosta"))
        apart.let_go()
        writer.stop()
        late = apart.writer(word="late")
        signal_all(stopped, signal.SIGCONT)
        assert move.end() == 1, move.output
        error = move.error()
        assert "the lock is not held any more" in error["what"], error
        assert "voltool move --resume vol" in error["try"]
        assert apart.record("hosta", "source")["phase"] == "copying"
        assert not late.refused
        apart.resume()
        late.stop()
        apart.assert_settled("hostb", writer, late)


def test_nothing_starts_on_the_old_path(tmp_path: Path) -> None:
    """Cron, systemd and Docker make the directory that they miss: while the tree is away, and after."""
    with two_hosts(tmp_path) as apart:
        apart.hold()
        writer = apart.writer()
        apart.until_committed(apart.start("move", "vol", "hostb", "--yes"))
        writer.stop()
        for names in (("hosta", "hostb"), ("hosta",)):  # it is away; after the move
            for name in names:
                for recreate in (
                    "mkdir -p {0} && touch {0}/app.pid",
                    "rmdir {0}",
                    "mv {0} {0}.old",
                    "mkdir -p {0}/sub",
                ):
                    command = [*apart.host(name).machine.enter, "sh", "-c", recreate.format(VOLUME)]
                    assert subprocess.run(command, check=False, capture_output=True).returncode != 0, recreate
            if "hostb" in names:
                apart.resume()
        apart.assert_settled("hostb", writer)
        back = apart.site.voltool("move", "vol", "hosta", "--yes")
        assert back.returncode == 0
        apart.assert_settled("hosta", writer)
