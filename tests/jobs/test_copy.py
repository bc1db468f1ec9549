"""`voltool copy`: a volume of its own, whole, from one that is in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.jobs.test_move import made
from tests.judge import compare
from tests.writer import Writer


@pytest.mark.parametrize(("here", "there"), [("btrfs", "ext4"), ("xfs", "btrfs")])
def test_a_copy_is_a_volume_of_its_own(tmp_path: Path, here: str, there: str) -> None:
    with made(tmp_path, here, there, files=50) as ground:
        ground.site.voltool("volume", "set", "vol", "--exclude", "large")
        ground.site.voltool("dump", "vol")
        result = ground.site.result("copy", "vol", f"hostb:{ground.there / 'copy'}", "twin")
        assert (result["ok"], result["of"], result["volume"]["name"], result["volume"]["host"]) == (
            True,
            "vol",
            "twin",
            "hostb",
        )
        assert compare(ground.volume, ground.there / "copy") == []  # what dumps leave out is in it
        (ground.there / "copy" / "only here").touch()
        assert ground.site.voltool("where", "twin").stdout == f"hostb:{ground.there / 'copy'}\n"
        dump = ground.site.result("dump", "twin")["dumps"][0]
        assert dump["volume"] == "twin"
        level = ground.site.result("dump", "--level", "1", "vol")["dumps"][0]
        assert (level["level"], level["data_bytes"]) == (1, 0)  # the chain of the old one goes on
        assert not (ground.volume / "only here").exists()


def test_a_copy_of_what_is_being_written(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "xfs", files=50) as ground:
        writer = Writer(ground.volume, tmp_path)
        result = ground.site.result("copy", "vol", f"hostb:{ground.there / 'copy'}", "twin")
        writer.stop()
        assert result["consistency"] == "snapshot"
        assert (ground.there / "copy" / "large").read_bytes() == (ground.volume / "large").read_bytes()
        assert writer.lost(ground.volume) == []


def test_what_is_refused(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=5) as ground:
        taken = ground.site.voltool("copy", "vol", f"hostb:{ground.there / 'copy'}", "vol", check=False)
        assert (taken.returncode, "there is a volume" in taken.stderr) == (2, True)
        inside = ground.site.voltool("copy", "vol", f"hosta:{ground.volume / 'copy'}", "twin", check=False)
        assert (inside.returncode, "in the volume itself" in inside.stderr) == (1, True)
        (ground.there / "full").mkdir()
        (ground.there / "full" / "precious").touch()
        full = ground.site.voltool("copy", "vol", f"hostb:{ground.there / 'full'}", "twin", check=False)
        assert (full.returncode, "not empty" in full.stderr) == (1, True)
        assert os.listdir(ground.there / "full") == ["precious"]
        assert [volume["name"] for volume in ground.site.result("volume", "list")["volumes"]] == ["vol"]
