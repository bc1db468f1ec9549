"""`voltool doctor`: what it finds after each kind of accident, and what it puts right."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.jobs.test_move import Ground, kill_when, made
from voltool.volumes.records import create, list_entries, read_record, remember_area


def kinds(ground: Ground, *options: str, code: int = 1) -> list[tuple[str, bool]]:
    result: dict[str, Any] = ground.site.result("doctor", *options, check=False)
    assert result["exit"] == code, result
    return [(finding["kind"], finding["fixed"]) for finding in result["findings"]]


def test_nothing_is_wrong_after_a_move(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4", files=10) as ground:
        ground.site.voltool("dump", "vol")
        ground.site.voltool("clone", "vol")
        assert kinds(ground, code=0) == []
        ground.move()
        assert kinds(ground, code=0) == []


def test_a_move_that_was_killed_is_told_with_the_command(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        assert kill_when(ground, "catch up 1", ("move", "vol", f"hostb:{ground.target}", "--yes")) == -signal.SIGKILL
        assert kinds(ground, "--fix") == [("move", False)]
        assert "voltool move --resume vol" in ground.site.voltool("doctor", check=False).stdout
        ground.site.voltool("move", "--abort", "vol")
        assert kinds(ground, code=0) == []


def test_a_lock_from_before_a_reboot_is_ended(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        ground.site.voltool("lock", "vol", "--for", "10m")
        (path,) = (ground.site.hosts["hosta"].state / "locks").glob("*.json")
        record = json.loads(path.read_text())
        ground.site.voltool("unlock", "vol")
        path.write_text(json.dumps({**record, "boot_id": "of an older boot"}))
        assert kinds(ground) == [("lock", False)]
        assert kinds(ground, "--fix", code=0) == [("lock", True)]
        assert kinds(ground, code=0) == []


def test_a_clone_of_an_interrupted_dump_is_dropped_and_a_users_stays(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "ext4", files=10) as ground:
        ground.site.voltool("dump", "vol")
        mine = ground.site.result("clone", "vol")["clone"]["id"]
        (area,) = (ground.here / ".voltool").iterdir()
        left = area / "clones" / "left"
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", "-r", str(ground.volume), str(left)], check=True)
        record = next((area / "clones").glob(f"user-{mine}.json"))
        content = {**json.loads(record.read_text()), "label": "left", "uuid": "", "generation": -1}
        (area / "clones" / "left.json").write_text(json.dumps(content))
        assert kinds(ground) == [("clone", False)]
        assert left.exists()
        assert kinds(ground, "--fix", code=0) == [("clone", True)]
        assert not left.exists()
        assert [clone["id"] for clone in ground.site.result("clones", "vol")["clones"] if clone["for"] == "user"] == [
            mine
        ]


def test_staging_is_kept_for_a_week(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        staging = ground.here / ".voltool" / "staging-0123456789abcdef0123"
        staging.mkdir(mode=0o700)
        (staging / "lock").touch()
        remember_area(bytes(ground.site.hosts["hosta"].state), bytes(staging))
        assert kinds(ground, "--fix") == [("staging", False)]
        assert staging.exists()
        old = time.time() - 8 * 86_400
        for path in (staging / "lock", staging):
            os.utime(path, (old, old))
        assert kinds(ground, "--fix", code=0) == [("staging", True)]
        assert not staging.exists()


def test_two_hosts_that_claim_a_volume(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        ground.site.voltool("volume", "add", "other", f"hostb:{_directory(ground.there / 'other')}")
        (entry,) = list_entries(bytes(ground.site.hosts["hosta"].state))
        record = read_record(entry.area)
        assert record is not None
        # as after a disk of the old home was copied into another machine
        create(
            bytes(ground.site.hosts["hostb"].state),
            dataclasses.replace(record, path=bytes(_directory(ground.there / "copy"))),
        )
        findings = ground.site.result("doctor", "--fix", check=False)["findings"]
        assert [(finding["kind"], finding["volume"], finding["fixed"]) for finding in findings] == [
            ("claims", "vol", False)
        ]


def test_the_catalog_learns_what_the_hosts_have(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=10) as ground:
        ground.site.voltool("volume", "add", "other", f"hosta:{_directory(ground.here / 'other')}")
        shutil.rmtree(ground.site.environment["VOLTOOL_STATE_DIR"])
        ground.site.voltool("volume", "add", "vol", f"hosta:{ground.volume}")
        assert kinds(ground) == [("catalog", False)]
        assert kinds(ground, "--fix", code=0) == [("catalog", True)]
        assert {volume["name"] for volume in ground.site.result("volume", "list")["volumes"]} == {"vol", "other"}


def _directory(path: Path) -> Path:
    path.mkdir()
    return path
