"""The way back: a volume that returns to a host that holds its retired copy brings only what has changed."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.jobs.test_move import Ground, kill_when, made
from tests.judge import compare


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


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


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


def test_a_btrfs_subvolume_comes_back_whole(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        ground.site.voltool("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert contents(ground.volume) == expected


@pytest.mark.parametrize("phase", ["catch up 1", "catch up 2", "lock"])
def test_the_way_back_is_killed_and_goes_on(tmp_path: Path, phase: str) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        words = ("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert kill_when(ground, phase, words) == -signal.SIGKILL
        result = ground.site.result("move", "--resume", "vol", "--yes")
        assert int(str(result["bytes"])) < 1_100_000
        assert contents(ground.volume) == expected


def test_the_way_back_can_be_given_up(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4") as ground:
        expected = contents(go_there_and_change(ground, tmp_path))
        words = ("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert kill_when(ground, "catch up 1", words) == -signal.SIGKILL
        ground.site.voltool("move", "--abort", "vol")
        assert contents(ground.target) == expected
        (ground.target / "writable").touch()
        ground.site.voltool("move", "vol", f"hosta:{ground.volume}", "--yes")
        assert contents(ground.volume) == {**expected, "writable": b""}
