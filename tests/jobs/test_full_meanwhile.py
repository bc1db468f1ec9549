"""A disk that fills up while voltool works: the source's own, where clones take room, and the store's."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import MIB, LoopFilesystem, fill
from tests.hosts import VOLTOOL, Site
from tests.jobs.test_full_and_busy import dumps_in, failed
from tests.jobs.test_move import made
from tests.judge import compare
from tests.writer import wait_until


def clones(filesystem: LoopFilesystem) -> list[str]:
    found = (filesystem.path / "srv" / ".voltool").glob("*/clones/*")
    return sorted(path.name for path in found if path.is_dir())


def test_clones_that_are_kept_for_speed_make_room(
    tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    """What was overwritten since the last dump is held by its clone alone, and the disk is nearly full."""
    filesystem = make_filesystem("xfs", 512 * MIB)
    volume = filesystem.path / "srv" / "volume"
    volume.mkdir(parents=True)
    (volume / "large").write_bytes(os.urandom(60 * MIB))
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.voltool("volume", "add", "vol", f"hosta:{volume}", "--driver", "reflink")
        site.voltool("dump", "vol")
        (first,) = clones(filesystem)
        with (volume / "large").open("r+b") as file:
            file.write(os.urandom(60 * MIB))
        filler = filesystem.fill(leave=10 * MIB)
        before = os.statvfs(filesystem.path).f_bavail * 4096
        site.voltool("dump", "vol", "--level", "1")
        assert first not in clones(filesystem)
        assert os.statvfs(filesystem.path).f_bavail * 4096 > before + 40 * MIB
        filler.unlink()
        site.voltool("restore", "vol", f"local:{tmp_path}/back")
        assert compare(volume, tmp_path / "back") == []
        assert site.result("dump", "vol", "--level", "2")["dumps"][0]["stored_bytes"] < MIB


def test_a_clone_that_finds_no_room_takes_that_of_the_clones_that_are_kept(
    tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    """There are bytes enough, but inodes for one clone alone."""
    filesystem = make_filesystem("xfs", 512 * MIB, mkfs_options=["-i", "maxpct=1"])
    volume = filesystem.path / "srv" / "volume"
    volume.mkdir(parents=True)
    for number in range(4200):
        (volume / f"{number}").write_bytes(b"content %d" % number)
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.voltool("volume", "add", "vol", f"hosta:{volume}", "--driver", "reflink")
        site.voltool("dump", "vol")
        (first,) = clones(filesystem)
        for number in range(4200):
            (volume / f"{number}").write_bytes(b"other content %d" % number)
        site.voltool("dump", "vol", "--level", "1")
        assert first not in clones(filesystem)
        site.voltool("restore", "vol", f"local:{tmp_path}/back")
        assert compare(volume, tmp_path / "back") == []


def test_there_is_no_room_for_a_clone(tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]) -> None:
    """Not one block: the dump says so, and leaves nothing."""
    filesystem = make_filesystem("xfs", 320 * MIB)
    volume = filesystem.path / "srv" / "volume"
    volume.mkdir(parents=True)
    for number in range(3000):
        (volume / f"{number}").write_bytes(b"content %d" % number)
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.voltool("volume", "add", "vol", f"hosta:{volume}", "--driver", "reflink")
        filler = filesystem.fill()
        error = failed(site, "dump", "vol")
        assert error["exit"] == 1
        assert '"no_space"' in json.dumps(error)
        assert dumps_in(site.state) == []
        (volume / "0").write_bytes(b"in the same block")  # the volume's users were not in the way of anything
        filler.unlink()
        site.voltool("dump", "vol")
        assert len(clones(filesystem)) == 1
        site.voltool("restore", "vol", f"local:{tmp_path}/back")
        assert compare(volume, tmp_path / "back") == []


def test_a_volume_is_moved_away_from_a_full_disk(tmp_path: Path) -> None:
    """Full to the last block it is refused; a little room is enough, and it is why one moves."""
    with made(tmp_path, "ext4", "ext4") as ground:
        filler = fill(ground.here)
        refused = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert refused.returncode == 1, refused.stderr
        assert "No space left on device" in refused.stderr or "room" in refused.stderr
        with (ground.volume / "large").open("r+b") as file:
            file.write(b"still writable")
        with filler.open("r+b") as file:
            file.truncate(filler.stat().st_size - 2 * MIB)
        begun = "no move" not in ground.site.voltool("move", "--status", "vol").stdout
        ground.site.voltool("move", *(("--resume", "vol") if begun else ("vol", f"hostb:{ground.target}")), "--yes")
        assert (ground.target / "large").read_bytes().startswith(b"still writable")
        differences = compare(ground.retired, ground.target)
        assert [line for line in differences if "'.'" not in line and ".d..t" not in line] == []
        filler.unlink()


@pytest.mark.parametrize("level", [0, 1])
def test_another_program_fills_the_store(
    tmp_path: Path, level: int, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    """In the midst of a dump: it ends, nothing has its name, what it wrote is gone, and the next one works."""
    small = make_filesystem("ext4", 128 * MIB)
    volume = tmp_path / "srv" / "volume"
    volume.mkdir(parents=True)
    (volume / "large").write_bytes(os.urandom(20 * MIB))
    store = f"file://{small.path}/store"
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.voltool("volume", "add", "vol", f"hosta:{volume}")
        if level:
            site.voltool("dump", "vol", "--store", store)
            (volume / "large").write_bytes(os.urandom(20 * MIB))
        dump = subprocess.Popen(
            [str(VOLTOOL), "--json", "dump", "vol", "--store", store, "--level", str(level), "--bandwidth", "4M"],
            env=site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        unfinished = (small.path / "store").rglob
        wait_until(lambda: any(path.is_file() and path.stat().st_size > MIB for path in unfinished(".*")))
        filler = small.fill()
        output = dump.communicate(timeout=120)[0]
        assert dump.returncode == 1, output
        assert '"no_space"' in output
        assert len(dumps_in(small.path)) == level
        assert [path for path in unfinished(".*") if path.is_file() and path.stat().st_size > 4096] == []
        filler.unlink()
        site.voltool("dump", "vol", "--store", store, "--level", str(level))
        assert len(dumps_in(small.path)) == level + 1
        site.voltool("restore", "vol", f"local:{tmp_path}/back")
        assert compare(volume, tmp_path / "back") == []
