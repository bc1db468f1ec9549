"""A move between two hosts in network namespaces of their own, with a writer that runs in the source host's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.jobs.apart import VOLUME, Apart, two_hosts
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
