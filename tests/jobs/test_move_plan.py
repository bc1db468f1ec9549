"""`voltool move --dry-run`: it touches nothing, predicts the lock, and names every reason to refuse at once."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.jobs.test_move import Ground, made
from tests.judge import compare
from voltool.inodes import set_project


def everything(ground: Ground) -> list[str]:
    places = [ground.here, ground.there, *(host.state for host in ground.site.hosts.values())]
    return sorted(
        f"{path} {path.lstat().st_ctime_ns}"
        for place in places
        for path in place.rglob("*")
        if path.name != "log" and "agent" not in path.parts
    )


def test_a_plan_touches_nothing_and_comes_true(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4") as ground:
        ground.site.voltool("where", "vol")
        ground.site.voltool("host", "check", "hostb", check=False)
        before = everything(ground)
        plan = ground.site.result("move", "vol", f"hostb:{ground.target}", "--dry-run")["plan"]
        assert everything(ground) == before
        assert plan["obstacles"] == []
        assert plan["driver"] == "directory"
        assert plan["to"] == {"host": "hostb", "path": str(ground.target)}
        assert 5_000_000 < plan["bytes"] < 8_000_000
        result = ground.move()
        assert result["entries"] in (plan["entries"], plan["entries"] + 1)
        assert 0.0 < plan["predicted_downtime_seconds"] < 60.0
        assert (
            "the last lock: about"
            in ground.site.voltool("move", "vol", "hosta:/nowhere/vol", "--dry-run", check=False).stdout
        )


def test_every_obstacle_is_named_at_once(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        (ground.volume / "mnt").mkdir()
        ground.target.mkdir()
        (ground.target / "precious").touch()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(ground.volume / "mnt")], check=True)
        try:
            result = ground.site.result("move", "vol", f"hostb:{ground.target}", "--dry-run", check=False)
        finally:
            subprocess.run(["umount", str(ground.volume / "mnt")], check=True)
        assert result["exit"] == 1
        whats = [obstacle["what"] for obstacle in result["plan"]["obstacles"]]
        assert "something is mounted inside the volume" in whats
        assert "the target is not empty" in whats


def test_what_the_target_cannot_hold_is_an_obstacle_and_the_move_itself_says_the_same(tmp_path: Path) -> None:
    with made(tmp_path, "xfs", "ext4", files=10) as ground:
        (ground.volume / ("n" * 255)).touch()
        plan = ground.site.result("move", "vol", f"hostb:{ground.target}", "--dry-run")["plan"]
        assert plan["obstacles"] == []
        os.setxattr(ground.volume / "large", "user.icon", bytes(60 * 1024))
        descriptor = os.open(ground.volume / "d1", os.O_RDONLY)
        set_project(descriptor, 4711)
        os.close(descriptor)
        plan = ground.site.result("move", "vol", f"hostb:{ground.target}", "--dry-run", check=False)["plan"]
        found = {obstacle["what"].split(" cannot hold ")[1]: obstacle["where"] for obstacle in plan["obstacles"]}
        assert found == {
            "an extended attribute as large as this": f"hosta:{ground.volume}/large",
            "so many extended attributes of one file": f"hosta:{ground.volume}/large",
            "project ids": f"hosta:{ground.volume}/d1",
        }
        refused = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert refused.returncode == 1
        assert "the new home's file system cannot hold everything of the volume" in refused.stderr
        assert "extended attribute user.*: 1 times; project id: 1 times" in refused.stderr
        again = ground.site.voltool("move", "--resume", "vol", "--yes", check=False)
        assert again.returncode == 1
        assert "extended attribute user.*: 1 times; project id: 1 times" in again.stderr
        (ground.volume / "still writable").touch()


def test_a_target_without_room_is_named(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        free = ground.site.result("move", "vol", f"hostb:{ground.target}", "--dry-run")["plan"]["free_bytes"]
        with (ground.there / "ballast").open("wb") as file:
            subprocess.run(["fallocate", "-l", str(free - 1_000_000), file.name], check=True)
        obstacles = ground.site.result("move", "vol", f"hostb:{ground.target}", "--dry-run", check=False)["plan"][
            "obstacles"
        ]
        assert [obstacle["what"] for obstacle in obstacles] == ["the target has no room"]


def test_the_target_fills_up_and_the_move_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with made(tmp_path, "xfs", "ext4") as ground:
        ballast = ground.there / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        os.truncate(ballast, ballast.stat().st_size - 2_000_000)
        full = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert full.returncode == 1
        assert "voltool move --resume vol" in full.stderr
        (ground.volume / "still in service").touch()
        assert ground.mounts() == []
        ballast.unlink()
        ground.site.voltool("move", "--resume", "vol", "--yes")
        differences = compare(ground.retired, ground.target)
        assert [line for line in differences if " ./'" not in line and "'.'" not in line] == []
        assert (ground.target / "still in service").exists()


def test_nothing_starts_on_the_old_path(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4", files=10) as ground:
        ground.move()
        with pytest.raises(PermissionError):
            (ground.volume / "pid").touch()
        with pytest.raises(PermissionError):
            (ground.volume / "data").mkdir()
        with pytest.raises(PermissionError):
            ground.volume.rmdir()
        assert os.listdir(ground.volume) == []
