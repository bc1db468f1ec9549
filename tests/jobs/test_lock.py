"""`voltool lock` and `unlock` against a real host: what is locked stays so without the command, and ends by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.hosts import VOLTOOL, Site
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import end_lock, in_container


class Locked:
    """A site with a volume ``vol`` on a file system of its own, whose hooks leave their marks in ``marks``."""

    def __init__(self, site: Site, filesystem: LoopFilesystem, directory: Path) -> None:
        self.site = site
        self.volume = filesystem.path / "vol"
        (self.volume / "sub").mkdir(parents=True)
        (self.volume / "file").write_text("content")
        self.marks = directory / "marks"
        config = directory / "config.toml"
        mark = f"echo $VOLTOOL_PHASE >> {self.marks}"
        config.write_text(
            f'[volumes.vol]\nbefore_lock = ["sh", "-c", "{mark}"]\nafter_unlock = ["sh", "-c", "{mark}"]\n'
            '[volumes.other]\nbefore_lock = ["false"]\n'
        )
        self.config = ("--config", str(config))
        site.add_host("hosta")
        site.voltool("volume", "add", "vol", f"hosta:{self.volume}")

    def voltool(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.site.voltool(*self.config, *words, check=check)

    def writable(self) -> bool:
        try:
            (self.volume / "probe").touch()
        except OSError:
            return False
        return True


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Locked]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with LoopFilesystem("ext4") as filesystem, Site(tmp_path / "site") as site:
        made = Locked(site, filesystem, tmp_path)
        yield made
        made.voltool("unlock", "vol", check=False)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_lock_dump_unlock(ground: Locked) -> None:
    assert "locked until" in ground.voltool("lock", "vol", "--for", "5m").stdout
    assert not ground.writable()
    assert "locked:" in ground.voltool("volume", "show", "vol").stdout
    again = ground.voltool("lock", "vol", check=False)
    assert again.returncode == 4
    assert "since" in again.stderr
    assert consistency(ground.voltool("dump", "vol", "--json")) == "locked"
    ground.voltool("unlock", "vol")
    assert consistency(ground.voltool("dump", "vol", "--json")) == "live"
    assert ground.writable()
    assert "was not locked" in ground.voltool("unlock", "vol").stdout
    assert ground.marks.read_text() == "before_lock\nafter_unlock\n"


def consistency(done: subprocess.CompletedProcess[str]) -> str:
    (dump,) = json.loads(done.stdout.splitlines()[-1])["dumps"]
    return str(dump["consistency"])


def test_a_dump_that_outlasts_the_lock_is_none(ground: Locked) -> None:
    (ground.volume / "large").write_bytes(os.urandom(3 << 19))
    ground.voltool("lock", "vol")
    dump = subprocess.Popen(
        [str(VOLTOOL), *ground.config, "dump", "vol", "--bandwidth", "256K"],
        env=ground.site.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    store = ground.site.state / "store"
    wait_until(lambda: any(path.is_file() and path.stat().st_size > 0 for path in store.rglob("*")), 60)
    state = ground.site.hosts["hosta"].state
    (record,) = (state / "locks").glob("*.json")
    end_lock(LockBook(os.fsencode(state), record.stem))
    assert "the volume's lock ended before the dump did" in dump.communicate()[1]
    assert dump.returncode == 4
    assert json.loads(ground.voltool("dumps", "vol", "--json").stdout.splitlines()[-1])["dumps"] == []


def test_who_stands_in_a_mounted_volume_does_not_keep_it_from_being_locked(ground: Locked) -> None:
    """The volume's own lock file lies on that mount too, and must not be open for writing."""
    mounted = ground.volume.parent
    ground.voltool("volume", "remove", "vol")
    ground.voltool("volume", "add", "vol", f"hosta:{mounted}")
    shell = subprocess.Popen(
        ["sh", "-c", 'while read name; do touch "$name" 2>&1 && echo done; done'],
        cwd=ground.volume, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ground.voltool("lock", "vol", "--lock-timeout", "2")
        assert "Read-only file system" in ask(shell, "late")
        ground.voltool("dump", "vol")
        ground.voltool("unlock", "vol")
        assert ask(shell, "late") == "done\n"
    finally:
        shell.kill()
        shell.communicate()


def ask(shell: subprocess.Popen[str], line: str) -> str:
    assert shell.stdin is not None
    assert shell.stdout is not None
    print(line, file=shell.stdin, flush=True)
    return shell.stdout.readline()


def test_the_lock_ends_when_its_time_is_over(ground: Locked) -> None:
    ground.voltool("lock", "vol", "--for", "2s")
    wait_until(ground.writable)
    wait_until(lambda: ground.marks.read_text() == "before_lock\nafter_unlock\n")
    assert "locked:" not in ground.voltool("volume", "show", "vol").stdout


def test_who_still_writes_is_named_and_nothing_stays_locked(ground: Locked) -> None:
    with open(ground.volume / "file", "a"):
        done = ground.voltool("lock", "vol", "--lock-timeout", "1", check=False)
    assert done.returncode == 4
    assert f"pid {os.getpid()}" in done.stderr
    assert f"{ground.volume}/file" in done.stderr
    assert ground.writable()
    assert ground.marks.read_text() == "before_lock\nafter_unlock\n"


def test_a_short_lock_is_not_waited_for_beyond_its_own_time(ground: Locked) -> None:
    with (ground.volume / "held").open("w"):
        done = ground.voltool("lock", "vol", "--for", "6s", check=False)
        assert done.returncode == 4
        assert "held" in done.stderr
    assert ground.writable()


def test_a_killed_command_leaves_no_lock(ground: Locked) -> None:
    """It waits for a writer, with the read-only mount in place, when it is killed."""
    with open(ground.volume / "file", "a"):
        command = subprocess.Popen(
            [str(VOLTOOL), *ground.config, "lock", "vol", "--lock-timeout", "600"],
            env=ground.site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: not ground.writable())
        os.killpg(command.pid, signal.SIGKILL)
        command.wait()
        wait_until(ground.writable)
        wait_until(lambda: ground.marks.read_text() == "before_lock\nafter_unlock\n")


def test_a_failing_hook_locks_nothing(ground: Locked) -> None:
    ground.voltool("volume", "set", "vol", "--name", "other")
    done = ground.voltool("lock", "other", check=False)
    assert done.returncode == 1
    assert "the hook before_lock failed" in done.stderr
    assert ground.writable()


def test_a_locked_volume_is_not_forgotten(ground: Locked) -> None:
    ground.voltool("lock", "vol")
    done = ground.voltool("volume", "remove", "vol", check=False)
    assert done.returncode == 4
    assert "locked" in done.stderr
    assert not ground.writable()
