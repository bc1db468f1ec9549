"""The user's programs around clones and moves, and going on with a move from a machine that never heard of it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.jobs.test_move import Ground, kill_when, made
from tests.judge import compare


def configure(ground: Ground, tmp_path: Path, *failing: str) -> Path:
    """Every hook notes its phase, path and whether the volume has its file there; those named fail."""
    marks = tmp_path / "marks"
    lines = ["[volumes.vol]"]
    for phase in ("before_clone", "after_clone", "before_lock", "after_unlock", "before_online", "after_online"):
        end = "exit 3" if phase in failing else "true"
        script = f"echo $VOLTOOL_PHASE $VOLTOOL_PATH $(ls $VOLTOOL_PATH | grep -c large) >> {marks}; {end}"
        lines.append(f'{phase} = ["sh", "-c", "{script}"]')
    path = tmp_path / "config.toml"
    ground.site.environment["VOLTOOL_CONFIG"] = str(path)
    path.write_text("\n".join(lines) + "\n")
    return marks


def phases(marks: Path) -> list[str]:
    return [line.split()[0] for line in marks.read_text().splitlines()] if marks.exists() else []


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_hooks_stand_around_a_move(tmp_path: Path, kind: str) -> None:
    with made(tmp_path, kind, "ext4", files=30) as ground:
        marks = configure(ground, tmp_path)
        ground.move("--max-rounds", "1")
        clone = ["before_clone", "after_clone"] if kind == "btrfs" else []
        assert phases(marks) == [*clone, "before_lock", "before_online", "after_online"]
        assert marks.read_text().splitlines()[-1] == f"after_online {ground.target} 1"


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_hooks_stand_around_a_dump(tmp_path: Path, kind: str) -> None:
    with made(tmp_path, kind, "ext4", files=30) as ground:
        marks = configure(ground, tmp_path)
        ground.site.voltool("dump", "--dry-run", "vol")
        assert phases(marks) == []
        ground.site.voltool("dump", "vol")
        assert phases(marks) == ["before_clone", "after_clone"]
        if kind == "btrfs":
            ground.site.voltool("clone", "vol")
            assert phases(marks) == ["before_clone", "after_clone"] * 2


def test_a_failing_before_clone_stops_a_dump_and_after_clone_still_runs(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        marks = configure(ground, tmp_path, "before_clone")
        done = ground.site.voltool("dump", "vol", check=False)
        assert done.returncode == 1
        assert "the hook before_clone failed" in done.stderr
        assert phases(marks) == ["before_clone", "after_clone"]
        assert ground.site.result("dumps")["dumps"] == []


def test_a_failing_before_online_leaves_the_volume_where_it_is(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        marks = configure(ground, tmp_path, "before_online")
        done = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert done.returncode == 1
        assert "the hook before_online failed" in done.stderr
        assert phases(marks) == ["before_lock", "before_online", "after_unlock"]
        (ground.volume / "still writable").write_text("yes")
        configure(ground, tmp_path)
        ground.site.voltool("move", "--resume", "vol", "--yes")
        assert (ground.target / "still writable").read_text() == "yes"


def test_a_failing_after_online_leaves_it_in_service_and_is_run_again(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        marks = configure(ground, tmp_path, "after_online")
        done = ground.site.voltool("move", "vol", f"hostb:{ground.target}", "--yes", check=False)
        assert done.returncode == 1
        assert "the hook after_online failed" in done.stderr
        assert f"voltool move vol hosta:{ground.volume}" in done.stderr
        assert ground.site.voltool("where", "vol").stdout == f"hostb:{ground.target}\n"
        configure(ground, tmp_path)
        ground.site.voltool("move", "--resume", "vol")
        assert phases(marks)[-2:] == ["after_online", "after_online"]


@pytest.mark.parametrize("end", ["hosta", "hostb"])
def test_a_move_goes_on_from_an_empty_catalog(tmp_path: Path, end: str) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        words = ("move", "vol", f"hostb:{ground.target}", "--yes")
        assert kill_when(ground, "catch up 1", words) == -signal.SIGKILL
        shutil.rmtree(ground.site.environment["VOLTOOL_STATE_DIR"])
        lost = ground.site.voltool("move", "--resume", "vol", check=False)
        assert lost.returncode == 1
        assert "voltool move --resume vol HOST" in lost.stderr
        assert "on its way to hostb" in ground.site.voltool("move", "--status", "vol", end).stdout
        ground.site.voltool("move", "--resume", "vol", end, "--yes")
        assert ground.site.voltool("where", "vol").stdout == f"hostb:{ground.target}\n"
        differences = compare(ground.retired, ground.target)
        assert [line for line in differences if "'.'" not in line] == []


def test_a_move_is_undone_from_an_empty_catalog(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        words = ("move", "vol", f"hostb:{ground.target}", "--yes")
        assert kill_when(ground, "catch up 1", words) == -signal.SIGKILL
        shutil.rmtree(ground.site.environment["VOLTOOL_STATE_DIR"])
        ground.site.voltool("move", "--abort", "vol", "hostb")
        assert not ground.target.exists()
        (ground.volume / "writable").touch()


def test_history_tells_who_did_what_on_both_hosts(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        ground.site.voltool("dump", "vol")
        ground.site.voltool("dump", "--level", "1", "vol", "--store", "/dev/null/impossible", check=False)
        ground.move()
        acts = ground.site.result("history", "vol")["acts"]
        told = [(act["host"], act["act"], act["result"]) for act in acts]
        assert told.index(("hosta", "dump", "done")) < told.index(("hostb", "move in", "done"))
        assert ("hosta", "move out", "done") in told
        out = next(act for act in acts if act["act"] == "move out")
        assert out["what"] == f"hostb:{ground.target}"
        assert "@" in out["caller"]
        assert {act["volume"] for act in acts} == {"vol"}
        assert ground.site.voltool("history", "--limit", "1").stdout.count("\n") == 2


def test_without_a_lock_the_hooks_stand_for_it(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        marks = configure(ground, tmp_path, "before_online")
        words = ("move", "vol", f"hostb:{ground.target}", "--yes", "--lock", "none")
        done = ground.site.voltool(*words, check=False)
        assert done.returncode == 1
        assert "nothing will be locked" in done.stderr
        assert phases(marks) == ["before_lock", "before_online", "after_unlock"]
        (ground.volume / "writable").touch()
        configure(ground, tmp_path)
        ground.site.voltool("move", "--resume", "vol", "--yes", "--lock", "none")
        assert phases(marks)[3:] == ["before_lock", "before_online", "after_online"]
        assert (ground.target / "writable").exists()
        assert [
            line for line in compare(ground.retired, ground.target) if " ./'" not in line and "'.'" not in line
        ] == []


def test_without_a_lock_what_is_written_before_the_switch_ends_the_move(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "ext4", files=30) as ground:
        path = tmp_path / "config.toml"
        ground.site.environment["VOLTOOL_CONFIG"] = str(path)
        path.write_text(f'[volumes.vol]\nbefore_online = ["sh", "-c", "echo late > {ground.volume}/d1/late"]\n')
        words = ("move", "vol", f"hostb:{ground.target}", "--yes", "--lock", "none")
        done = ground.site.voltool(*words, check=False)
        assert done.returncode == 1
        assert "changed under the lock" in done.stderr
        assert (ground.volume / "d1" / "late").read_text() == "late\n"
        assert not ground.target.exists() or os.listdir(ground.target) == []
