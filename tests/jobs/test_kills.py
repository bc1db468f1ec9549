"""kill -9 of the command, the agent or sshd's session at many moments of a dump and of a restore.

Afterwards nothing half-made has a final name; the next run cleans up what the killed one left, and its result is right.
The moments are fractions of what the same run takes undisturbed; bandwidth is limited, so that there are moments.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import judge
from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from tests.jobs.killing import VICTIMS, Ground

#: Parts of the undisturbed duration, other ones for each victim; the first 40 % or so are start and greeting.
MOMENTS = {
    "command": (0.45, 0.72, 0.97),
    "agent": (0.52, 0.78, 0.95),
    "session": (0.38, 0.66, 0.90),
}
SLOW = ("--bandwidth", "20M", "--workers", "2")


@pytest.fixture
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    with LoopFilesystem(request.param, 2 << 30) as filesystem, Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.add_host("hostb")
        volume, targets = filesystem.path / "srv/volume", filesystem.path / "targets"
        volume.parent.mkdir()
        targets.mkdir()
        if request.param == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
        else:
            volume.mkdir()
        fill(volume, 0)
        site.voltool("volume", "add", "vol", f"hosta:{volume}")
        yield Ground(site, volume, targets, clones_per_base=int(request.param == "btrfs"))


def fill(volume: Path, seed: int) -> None:
    """Small files in directories, and large ones, of random data: about 12 MB. Another seed changes about half of it."""
    source = random.Random(seed)
    for number in range(0, 400, 1 + seed % 3):
        path = volume / f"d{number % 20}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(20_000)))
    for number in range(2):
        (volume / f"large{number}").write_bytes(source.randbytes((4 << 20) + number))
    (volume / f"only{seed}").symlink_to("nowhere")


def assert_restorable(ground: Ground, name: str, *arguments: str) -> None:
    """The newest dump is what the volume is now."""
    target = ground.targets / name
    ground.site.voltool("restore", "vol", f"local:{target}", *arguments)
    assert judge.compare(ground.volume, target) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ground", "level", "victim"),
    [("ext4", 0, "command"), *(("btrfs", 1, victim) for victim in VICTIMS)],
    indirect=["ground"],
)
def test_killed_dumps(ground: Ground, victim: str, level: int) -> None:
    dump = ("dump", "vol", "--level", str(level), *SLOW)
    if level:
        ground.site.voltool("dump", "vol")
        fill(ground.volume, 1)
    duration = ground.run(*dump)
    for number, part in enumerate(MOMENTS[victim]):
        fill(ground.volume, number + 2)
        before = ground.published()
        status = ground.run_and_kill(victim, part * duration, *dump)
        appeared = ground.published() - before
        # Published before the blow, though nobody could be told: then it is a dump like any other.
        assert len(appeared) <= 1
        assert status != 0 or appeared
        if appeared:
            ground.site.voltool("verify", "vol")
        (ground.volume / "after").write_text(f"{victim} {part}")
        if (ground.area / "clones").is_dir():
            # As of some that were killed: while it wrote down its clone, before it made it.
            (ground.area / "clones/killed.json.new").touch()
            note = {"time_ns": 1, "boot_id": "", "uuid": "", "generation": 0}
            (ground.area / "clones/never.json").write_text(json.dumps(note))
        ground.site.voltool("dump", "vol", "--level", str(level))
        assert len(ground.published() - before) == 1 + len(appeared)
        ground.assert_nothing_left(level + 1)
        assert_restorable(ground, f"target{number}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("ground", ["xfs"], indirect=True)
def test_killed_restores(ground: Ground, victim: str) -> None:
    ground.site.voltool("dump", "vol")
    fill(ground.volume, 1)
    ground.site.voltool("dump", "vol", "--level", "1")
    duration = ground.run("restore", "vol", f"hostb:{ground.targets}/measured", *SLOW)
    for number, part in enumerate(MOMENTS[victim]):
        target = ground.targets / f"target{number}"
        restore = ("restore", "vol", f"hostb:{target}")
        ground.run_and_kill(victim, part * duration, *restore, *SLOW)
        complete = target.exists()
        if complete:
            assert judge.compare(ground.volume, target) == []
        begun = (ground.targets / ".voltool").exists()
        again = ground.site.voltool(*restore, check=False)
        if complete and not begun:
            assert again.returncode == 1  # it is there, and nothing of ours is left
            assert "not empty" in again.stderr
        else:
            assert again.returncode == 0, again.stderr
        assert judge.compare(ground.volume, target) == []
        ground.assert_nothing_left(2)
