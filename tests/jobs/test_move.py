"""`voltool move` for real: two hosts, a writer that keeps a log of what was acknowledged, and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.hosts import VOLTOOL, Site
from tests.judge import compare
from tests.writer import Writer, wait_until
from voltool.volumes.btrfs_ioctl import is_subvolume
from voltool.volumes.lock.hold import in_container

#: File systems; a third word is the driver of the volume, where it is not the one that is found by itself.
PAIRS = [
    ("ext4", "ext4"), ("ext4", "xfs"), ("ext4", "btrfs"), ("xfs", "ext4"), ("xfs", "xfs"), ("xfs", "btrfs"),
    ("btrfs", "ext4"), ("btrfs", "xfs"), ("btrfs", "btrfs"), ("xfs", "xfs", "reflink"), ("xfs", "btrfs", "reflink"),
]  # fmt: skip


class Ground:
    """Two hosts, ``hosta`` with the volume ``vol`` and ``hostb``, each with a file system of its own."""

    def __init__(
        self,
        site: Site,
        here: LoopFilesystem,
        there: LoopFilesystem,
        files: int = 300,
        driver: str = "auto",
        mounted: str = "",
    ) -> None:
        self.site = site
        self.here, self.there = here.path, there.path
        self.volume = here.path if "source" in mounted else here.path / "vol"
        self.target = there.path if "target" in mounted else there.path / "vol"
        site.add_host("hosta")
        site.add_host("hostb")
        if "source" in mounted:
            pass
        elif here.kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(self.volume)], check=True)
        else:
            self.volume.mkdir()
        generator = random.Random(5)
        for number in range(files):
            directory = self.volume / f"d{number % 9}" / "sub"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"f{number}").write_bytes(generator.randbytes(generator.randrange(20_000)))
        (self.volume / "large").write_bytes(generator.randbytes(3_000_000))
        (self.volume / "link").symlink_to("large")
        os.link(self.volume / "large", self.volume / "d1" / "other name")
        site.voltool("volume", "add", "vol", f"hosta:{self.volume}", "--driver", driver)

    @property
    def retired(self) -> Path:
        """Where the old home keeps its copy."""
        (found,) = (self.here / ".voltool").glob("*/retired-*")
        return found

    def move(self, *options: str) -> dict[str, object]:
        return self.site.result("move", "vol", f"hostb:{self.target}", "--yes", *options)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A voltool that can be killed."""
        return subprocess.Popen(
            [str(VOLTOOL), *words],
            env=self.site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def mounts(self) -> list[str]:
        """Mounts of a lock that stand."""
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if f" {self.here}/" in line or f" {self.here} " in line]
        return found[1:]  # the first is the file system itself

    def clear(self) -> None:
        """Let the file systems be unmounted: nothing of a lock is left, and no immutable placeholder."""
        subprocess.run(["chattr", "-i", str(self.volume), str(self.target)], check=False, capture_output=True)


@contextlib.contextmanager
def made(
    tmp_path: Path, here: str, there: str, files: int = 300, driver: str = "auto", mounted: str = ""
) -> Iterator[Ground]:
    """``mounted``: which of ``source`` and ``target`` is the root of its file system."""
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with LoopFilesystem(here) as a, LoopFilesystem(there) as b, Site(tmp_path / "site") as site:
        ground = Ground(site, a, b, files, driver, mounted)
        try:
            yield ground
        finally:
            ground.clear()


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_a_volume_in_use_is_moved(tmp_path: Path, pair: tuple[str, ...]) -> None:
    here, there, driver = (*pair, "auto")[:3]
    with made(tmp_path, here, there, driver=driver) as ground:
        ground.site.voltool("dump", "vol")
        writer = Writer(ground.volume, tmp_path)
        result = ground.move()
        wait_until(lambda: writer.refused)
        writer.stop()
        assert writer.lost(ground.target) == []
        differences = compare(ground.retired, ground.target)
        assert [line for line in differences if "'.'" not in line and ".d..t" not in line] == []
        assert (result["ok"], result["volume"], result["to"]) == (
            True,
            "vol",
            {"host": "hostb", "path": str(ground.target)},
        )
        assert result["epoch"] == 2
        assert float(str(result["downtime_seconds"])) < float(str(result["seconds"]))
        assert ground.site.voltool("where", "vol").stdout == f"hostb:{ground.target}\n"
        assert ground.mounts() == []
        assert os.listdir(ground.volume) == []
        assert is_subvolume(os.fsencode(ground.target)) == (there == "btrfs")
        next_dump = ground.site.result("dump", "--level", "1", "vol")["dumps"][0]
        assert next_dump["level"] == 1
        assert next_dump["stored_bytes"] < 200_000
        ground.site.voltool("restore", "vol", f"hosta:{ground.here / 'restored'}")
        assert compare(ground.here / "restored", ground.target) == []


def kill_when(ground: Ground, phase: str, words: tuple[str, ...], number: int = signal.SIGKILL) -> int:
    """Start a voltool, wait until it says that the step ``phase`` has begun, kill it; its exit status."""
    process = subprocess.Popen(
        [str(VOLTOOL), "--json", *words],
        env=ground.site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if b'"event":"step"' in line and f'"step":"{phase}"'.encode() in line:
            break
    process.send_signal(number)
    process.stdout.read()
    process.stdout.close()
    return process.wait(60)


@pytest.mark.parametrize("phase", ["copy", "catch up 1", "lock"])
def test_the_command_is_killed_and_the_move_goes_on(tmp_path: Path, phase: str) -> None:
    with made(tmp_path, "ext4", "xfs") as ground:
        writer = Writer(ground.volume, tmp_path)
        words = ("move", "vol", f"hostb:{ground.target}", "--yes")
        assert kill_when(ground, phase, words) == -signal.SIGKILL
        if phase != "lock":
            wait_until(lambda: "it is in service at" in ground.site.voltool("move", "--status", "vol").stdout)
            assert not writer.refused
            wait_until(
                lambda: "still" not in ground.site.voltool("move", "--resume", "vol", "--yes", check=False).stderr
            )
        else:
            wait_until(lambda: ground.site.voltool("move", "--resume", "vol", "--yes", check=False).returncode == 0)
        writer.stop()
        assert ground.site.voltool("where", "vol").stdout == f"hostb:{ground.target}\n"
        assert writer.lost(ground.target) == []
        assert ground.mounts() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_undoes_it(tmp_path: Path, number: int) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        writer = Writer(ground.volume, tmp_path)
        words = ("move", "vol", f"hostb:{ground.target}", "--yes", "--bandwidth", "1M")
        status = kill_when(ground, "copy", words, number)
        time.sleep(0.1)
        writer.stop()
        assert status == 130
        assert not writer.refused
        assert writer.lost(ground.volume) == []
        assert not ground.target.exists()
        assert not list(ground.there.glob(".voltool/*"))
        assert "no move is under way" in ground.site.voltool("move", "--status", "vol").stdout
        ground.site.voltool("dump", "vol")


def test_an_interrupted_copy_is_not_sent_again(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=20) as ground:
        generator = random.Random(7)
        for number in range(60):
            (ground.volume / f"m{number}").write_bytes(generator.randbytes(1 << 20))
        process = ground.start("move", "vol", f"hostb:{ground.target}", "--yes", "--bandwidth", "8M")
        staged = ground.there / ".voltool"
        wait_until(lambda: len(list(staged.glob("staging-*/dirs/*/*/m*"))) > 45, 60)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: "arriving there" in ground.site.voltool("move", "--status", "vol").stdout)
        result = ground.site.result("move", "--resume", "vol", "--yes")
        assert result["bytes"] < 40 << 20
        assert compare(ground.retired, ground.target) == []


@pytest.mark.parametrize("there", ["ext4", "btrfs"])
def test_abort(tmp_path: Path, there: str) -> None:
    with made(tmp_path, "xfs", there, files=30) as ground:
        assert kill_when(ground, "catch up 1", ("move", "vol", f"hostb:{ground.target}", "--yes")) == -signal.SIGKILL
        wait_until(lambda: ground.site.voltool("move", "--abort", "vol", check=False).returncode == 0)
        assert not ground.target.exists()
        assert not list(ground.there.glob(".voltool/*"))
        (ground.volume / "writable").touch()
        assert ground.site.voltool("move", "--abort", "vol", check=False).returncode == 1


def test_a_target_that_is_lost_for_good_is_forgotten(tmp_path: Path) -> None:
    with made(tmp_path, "xfs", "ext4", files=30) as ground:
        site = ground.site
        assert kill_when(ground, "catch up 1", ("move", "vol", f"hostb:{ground.target}", "--yes")) == -signal.SIGKILL
        wait_until(lambda: "arriving there" in site.voltool("move", "--status", "vol").stdout)
        reachable = site.ssh_config.read_text()
        site.ssh_config.write_text(reachable.replace(f"Port {site.hosts['hostb'].sshd.port}\n", "Port 1\n"))
        results: list[subprocess.CompletedProcess[str]] = []

        def told() -> bool:  # as soon as the agents of the command that was killed have noticed
            results.append(site.voltool("move", "--abort", "vol", check=False))
            return results[-1].returncode != 4

        wait_until(told)
        assert (results[-1].returncode, "--forget-target" in results[-1].stderr) == (6, True), results[-1].stderr
        wait_until(lambda: site.voltool("move", "--abort", "vol", "--forget-target", check=False).returncode == 0)
        (ground.volume / "writable").touch()
        assert "no move is under way" in site.voltool("move", "--status", "vol").stdout
        site.ssh_config.write_text(reachable)
        assert list((ground.there / ".voltool").glob("staging-*")) != []
        ground.move()
        assert (ground.target / "writable").exists()
        assert not list((ground.there / ".voltool").glob("staging-*"))


def test_a_file_that_stays_open_keeps_the_volume_where_it_is(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        with (ground.volume / "busy").open("w") as file:
            file.write("acknowledged")
            file.flush()
            refused = ground.site.voltool(
                "move", "vol", f"hostb:{ground.target}", "--yes", "--lock-timeout", "1", check=False
            )
            assert refused.returncode == 4
            assert str(os.getpid()) in refused.stderr
            assert "--resume" in refused.stderr
            file.write(" and more")
        (ground.volume / "writable").touch()
        ground.site.voltool("move", "--resume", "vol", "--yes")
        assert (ground.target / "busy").read_text() == "acknowledged and more"


def test_a_lock_that_would_be_too_long_is_asked_about(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        refused = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--downtime", "0", check=False)
        assert refused.returncode == 4
        assert "--downtime" in refused.stderr
        (ground.volume / "writable").touch()
        ground.site.voltool("move", "--resume", "vol", "--yes")


def test_what_stands_at_the_target_is_not_overwritten(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        ground.target.mkdir()
        (ground.target / "precious").write_text("data")
        refused = ground.site.voltool("move", "vol", f"hostb:{ground.target}", check=False)
        assert refused.returncode == 1
        assert "not empty" in refused.stderr
        assert (ground.target / "precious").read_text() == "data"
        nowhere = ground.site.voltool("move", "vol", f"hostb:{ground.there}/not/there", check=False)
        assert nowhere.returncode == 1
        assert "there is no directory" in nowhere.stderr
        assert "no move is under way" in ground.site.voltool("move", "--status", "vol").stdout


def test_two_moves_at_once(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        ground.site.add_host("hostc")
        process = ground.start("move", "vol", f"hostb:{ground.target}", "--yes", "--bandwidth", "500k")
        wait_until(lambda: list((ground.there / ".voltool").glob("staging-*/dirs")) != [])
        for words in (("move", "vol", f"hostc:{ground.there}/other"), ("dump", "vol")):
            second = ground.site.voltool(*words, check=False)
            assert second.returncode == 4, second.stderr
            assert "since" in second.stderr
        assert process.wait(120) == 0
        assert not (ground.there / "other").exists()


def test_what_a_move_leaves_and_a_catalog_that_did_not_see_it(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        site = ground.site
        other_state = {"VOLTOOL_STATE_DIR": str(tmp_path / "other catalog")}
        shutil.copytree(site.state, other_state["VOLTOOL_STATE_DIR"])
        ground.move()
        assert site.voltool("where", "vol", environment=other_state).stdout == f"hostb:{ground.target}\n"
        site.voltool("dump", "vol", environment=other_state)
        listed = site.result("retired", "list")["retired"]
        assert [(copy["volume"], copy["host"], copy["moved_to"]) for copy in listed] == [("vol", "hosta", "hostb")]
        assert listed[0]["bytes"] > 5_000_000
        refused = site.voltool("host", "clean", "hosta", check=False)
        assert refused.returncode == 1
        assert "retired" in refused.stderr
        retired = ground.retired
        assert site.voltool("retired", "purge", "vol", "hosta", check=False).returncode == 2
        assert retired.exists()
        site.voltool("retired", "purge", "vol", "hosta", "--yes")
        assert not retired.exists()
        assert not ground.volume.exists()
        site.voltool("host", "clean", "hosta")
        assert [path.name for path in ground.here.iterdir()] == ["lost+found"]


def test_there_and_back_again(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "xfs", files=30) as ground:
        ground.move()
        (ground.target / "new").write_text("written at the new home")
        back = ground.here / "back"
        ground.site.voltool("move", "vol", f"hosta:{back}", "--yes")
        assert (back / "new").read_text() == "written at the new home"
        assert ground.site.voltool("where", "vol").stdout == f"hosta:{back}\n"
        ground.site.voltool("dump", "vol")
        assert ground.site.result("move", "--status", "vol")["moves"][0]["what"].startswith("no move is under way")
        copies = ground.site.result("retired", "list")["retired"]
        assert [copy["host"] for copy in copies] == ["hostb"]  # the other one is the base of what came back
        ground.site.voltool("retired", "purge", "vol", "hostb", "--yes")
        assert ground.site.result("retired", "list")["retired"] == []
        assert not ground.volume.exists()
        ground.site.voltool("verify", "vol")
        ground.site.voltool("dump", "--level", "1", "vol")
        assert (back / "new").exists()


def test_what_the_new_home_cannot_hold_is_not_lost_silently(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4", files=5) as ground:
        (ground.volume / "not copied on write").touch()
        subprocess.run(["chattr", "+C", str(ground.volume / "not copied on write")], check=True)
        refused = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert refused.returncode == 1
        assert "chattr +C" in refused.stderr
        assert "--lossy" in refused.stderr
        (ground.volume / "writable").touch()
        ground.site.voltool("move", "--resume", "vol", "--yes", "--lossy")
        assert (ground.target / "not copied on write").exists()
        assert ground.site.result("volume", "list")["volumes"][0]["driver"] == "directory"
