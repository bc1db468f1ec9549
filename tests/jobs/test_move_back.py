"""The way back: a volume that returns to a host that holds its retired copy brings only what has changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.jobs.test_move import Ground, kill_when, made
from tests.judge import compare
from tests.writer import wait_until


def go_there_and_change(ground: Ground, tmp_path: Path) -> Path:
    """Move the volume, change a little at its new home; a copy of what it is then."""
    ground.move()
    (ground.target / "new").write_bytes(b"n" * 5000)
    with (ground.target / "large").open("r+b") as file:
        file.write(b"x" * 100)
    (ground.target / "d1" / "sub").rename(ground.target / "renamed")
    (ground.target / "d2" / "sub" / "f2").unlink()
    copy = tmp_path / "copy"
    shutil.copytree(ground.target, copy, symlinks=True)
    return copy


def gone_on(ground: Ground) -> dict[str, object]:
    """`--resume`, as soon as the agents of a command that was killed have noticed."""
    results: list[dict[str, object]] = []

    def resumed() -> bool:
        results.append(ground.site.result("move", "--resume", "vol", "--yes", check=False))
        return results[-1]["exit"] != 4

    wait_until(resumed, 120)  # each attempt may itself wait for the lock
    assert results[-1]["ok"], results[-1]
    return results[-1]


def contents(root: Path) -> dict[str, bytes]:
    names = {path: path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for path, name in names.items() if name.parts[0] != ".voltool"}


def test_the_way_back_sends_only_differences(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "xfs") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        result = ground.site.result("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert 5000 <= int(str(result["bytes"])) < 1_100_000  # of the large file the MiB that has changed
        assert contents(ground.volume) == expected
        retired = next((ground.there / ".voltool").glob("*/retired-*"))
        assert [line for line in compare(retired, ground.volume) if " ./'" not in line and "'.'" not in line] == []
        assert ground.site.result("retired", "list", "hosta")["retired"] == []
        level = ground.site.result("dump", "vol")["dumps"][0]
        ground.site.voltool("verify", level["id"])


def test_a_retired_copy_that_was_changed_is_no_base(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        (ground.retired / "d3" / "sub" / "f3").write_bytes(b"somebody was here")
        result = ground.site.result("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert int(str(result["bytes"])) > 5_000_000
        assert contents(ground.volume) == expected


@pytest.mark.parametrize("phase", ["", "catch up 1", "lock"])
def test_a_btrfs_subvolume_comes_back(tmp_path: Path, phase: str) -> None:
    """The retired subvolume itself is what is filled, whether or not the command is killed meanwhile."""
    with made(tmp_path, "btrfs", "ext4", files=30) as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        subvolume = btrfs_id(ground.retired)
        words = ("move", "vol", f"hosta:{ground.volume}", "--yes")
        if phase:
            assert kill_when(ground, phase, words) == -signal.SIGKILL
            result = gone_on(ground)
        else:
            result = ground.site.result(*words)
        assert int(str(result["bytes"])) < 1_100_000
        assert contents(ground.volume) == expected
        assert btrfs_id(ground.volume) == subvolume
        assert ground.site.result("volume", "list")["volumes"][0]["driver"] == "btrfs"
        assert ground.site.result("retired", "list", "hosta")["retired"] == []
        ground.site.voltool("dump", "vol")


def test_the_way_back_of_a_subvolume_is_given_up(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4", files=30) as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        words = ("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert kill_when(ground, "catch up 1", words) == -signal.SIGKILL
        wait_until(lambda: ground.site.voltool("move", "--abort", "vol", check=False).returncode == 0)
        assert contents(ground.target) == expected
        assert os.listdir(ground.volume) == []
        with pytest.raises(OSError, match="not permitted"):
            (ground.volume / "started on the old path").touch()
        ground.site.voltool("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert contents(ground.volume) == expected


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_mount_point_comes_back(tmp_path: Path, kind: str) -> None:
    with made(tmp_path, kind, "xfs", mounted="source", files=30) as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        result = ground.site.result("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert int(str(result["bytes"])) < 1_100_000
        assert contents(ground.volume) == expected
        (ground.volume / "writable").touch()
        ground.site.voltool("dump", "vol")
        ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes")
        assert contents(ground.target) == {**expected, "writable": b""}


def btrfs_id(path: Path) -> str:
    shown = subprocess.run(["btrfs", "subvolume", "show", str(path)], check=True, capture_output=True, text=True)
    return next(line for line in shown.stdout.splitlines() if "Subvolume ID" in line)


@pytest.mark.parametrize("phase", ["catch up 1", "catch up 2", "lock"])
def test_the_way_back_is_killed_and_goes_on(tmp_path: Path, phase: str) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        words = ("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert kill_when(ground, phase, words) == -signal.SIGKILL
        result = gone_on(ground)
        assert int(str(result["bytes"])) < 1_100_000
        assert contents(ground.volume) == expected


def test_the_way_back_can_be_given_up(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        words = ("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert kill_when(ground, "catch up 1", words) == -signal.SIGKILL
        wait_until(lambda: ground.site.voltool("move", "--abort", "vol", check=False).returncode == 0)
        assert contents(ground.target) == expected
        (ground.target / "writable").touch()
        ground.site.voltool("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert contents(ground.volume) == {**expected, "writable": b""}


def test_a_subvolume_comes_back_to_another_file_system(tmp_path: Path) -> None:
    """What it left cannot serve there, and nothing is made of it."""
    with made(tmp_path, "btrfs", "ext4", files=5) as ground:
        ground.move()
        elsewhere = tmp_path / "elsewhere"
        ground.site.voltool("move", "vol", f"hosta:{elsewhere}", "--yes")
        assert (elsewhere / "large").stat().st_size == 3_000_000
        assert [copy["host"] for copy in ground.site.result("retired", "list", "hosta")["retired"]] == ["hosta"]
