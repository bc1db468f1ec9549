"""Moves of volumes that are mount points, and to mount points: what cannot be renamed is emptied and filled entry by entry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.jobs.test_move import Ground, made
from tests.judge import compare
from tests.writer import Writer, wait_until

#: What zfs-fuse does not keep; rsync would see the times.
LOST_ON_ZFS = ("mtime", "flags", "rsync")


def left_in(root: Path) -> list[str]:
    """What a root has beside voltool's own directory."""
    return sorted(name for name in os.listdir(root) if name not in {".voltool", "lost+found"})


def tree_differences(ground: Ground, ignore: Collection[str] = ()) -> list[str]:
    """Between the retired copy and the new home; the roots' own attributes and lost+found are not looked at."""
    differences = compare(ground.retired, ground.target, ignore=ignore)
    return [line for line in differences if not any(word in line for word in ("lost+found", ".voltool", " ./", "'.'"))]


@pytest.mark.parametrize(
    ("here", "there", "mounted"),
    [
        ("ext4", "xfs", "source"), ("xfs", "ext4", "target"), ("xfs", "xfs", "source target"),
        ("btrfs", "ext4", "source target"), ("ext4", "btrfs", "source target"),
        ("zfs", "ext4", "source"), ("ext4", "zfs", ""),
    ],
)  # fmt: skip
def test_a_mount_point_in_use_is_moved(tmp_path: Path, here: str, there: str, mounted: str) -> None:
    with made(tmp_path, here, there, mounted=mounted) as ground:
        sealed = ground.volume / "sealed"
        sealed.write_text("immutable")
        os.chmod(ground.volume, 0o751)
        if here != "zfs":  # zfs-fuse has no inode flags
            subprocess.run(["chattr", "+i", str(sealed)], check=True)
        writer = Writer(ground.volume, tmp_path)
        try:
            ground.move(*(["--lossy"] if there == "zfs" else []))  # zfs-fuse has whole seconds alone
            wait_until(lambda: writer.refused)
            writer.stop()
            assert writer.lost(ground.target) == []
            if "source" in mounted:
                assert left_in(ground.volume) == []
            if "source" in mounted and here != "zfs":
                with pytest.raises(OSError, match="not permitted"):
                    (ground.volume / "started on the old path").mkdir()
            assert tree_differences(ground, LOST_ON_ZFS if there == "zfs" else ()) == []
            assert ground.target.stat().st_mode & 0o777 == 0o751
            assert ground.mounts() == []
            assert (ground.site.result("volume", "list")["volumes"][0]["driver"] == "zfs") == (there == "zfs")
            assert ground.site.result("dump", "vol")["dumps"][0]["level"] == 0
            ground.site.voltool("retired", "purge", "vol", "hosta", "--yes")
            assert not (ground.here / ".voltool").exists()
            if "source" in mounted:
                (ground.volume / "writable again").touch()
        finally:
            writer.stop()
            for root in (ground.volume, ground.target):
                subprocess.run(["chattr", "-i", str(root / "sealed")], check=False, capture_output=True)


def test_a_directory_that_cannot_be_exchanged_is_refused_at_once(tmp_path: Path) -> None:
    with made(tmp_path, "zfs", "ext4", files=3) as ground:
        plan = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--dry-run", check=False)
        assert "cannot be moved away" in plan.stdout + plan.stderr
        refused = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert refused.returncode == 1
        assert "a mount point can be moved" in refused.stderr
        assert not list(ground.there.glob(".voltool/*"))
        assert "no move is under way" in ground.site.voltool("move", "--status", "vol").stdout
        assert [path.name for path in ground.here.glob(".voltool/*/exchange-*")] == []
