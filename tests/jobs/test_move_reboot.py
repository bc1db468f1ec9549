"""A host fails and boots in the middle of a move: its processes and mounts are gone, its records are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.apart import Apart, Running, two_hosts
from tests.writer import Writer, wait_until

MOVE = ("move", "vol", "hostb", "--yes")


def while_copying(apart: Apart) -> Running:
    move = apart.start(*MOVE, "--bandwidth", "300k")
    move.until_phase("dump")
    return move


def under_the_lock(apart: Apart) -> Running:
    apart.hold()
    move = apart.start(*MOVE)
    apart.until_prepared()
    return move


@pytest.mark.parametrize(
    ("phase", "ways", "victim"),
    [
        (while_copying, ["--resume"], "hostb"),
        (under_the_lock, ["--abort", "--resume"], "hosta"),
        (under_the_lock, ["--resume"], "hostb"),
    ],
)
def test_before_the_switch(tmp_path: Path, phase: Callable[[Apart], Running], ways: list[str], victim: str) -> None:
    """The volume is where it was, without a lock; the move can be given up, and gone on with."""
    with two_hosts(tmp_path) as apart:
        writers: list[Writer] = []
        for go_on in ways:
            writers.append(apart.writer(word=go_on[2:]))
            move = phase(apart)
            apart.reboot(victim)
            apart.let_go()
            assert move.end() in (1, 6)
            assert "--resume vol" in move.error()["try"]
            wait_until(lambda: apart.has_tree("hosta") and apart.is_writable("hosta"))
            assert "it is in service at" in apart.status()
            if go_on == "--abort":
                apart.site.voltool("move", "--abort", "vol")
                assert not apart.tree("hostb").exists()
                assert writers[-1].lost(apart.tree("hosta")) == []
                writers[-1].stop()
            else:
                apart.resume()
        writers[-1].stop()
        apart.assert_settled("hostb", *writers)


def test_the_tree_is_away_and_nothing_is_committed(tmp_path: Path) -> None:
    """It stays away, writable nowhere, until somebody decides."""
    with two_hosts(tmp_path) as apart:
        writers: list[Writer] = []
        for go_on in ("--abort", "--resume"):
            writers.append(apart.writer(word=go_on[2:]))
            apart.hold()
            apart.until_committed(apart.start(*MOVE))
            writers[-1].stop()
            apart.reboot("hosta")
            apart.forget_commit("hosta")
            assert not apart.has_tree("hosta")
            assert not apart.is_writable("hosta")
            assert "in service nowhere" in apart.status()
            refused = apart.site.voltool("dump", "vol", check=False)
            assert refused.returncode == 1
            assert "in service nowhere" in refused.stderr
            assert "voltool move --resume vol" in apart.site.voltool("doctor", check=False).stdout
            assert not apart.has_tree("hosta")
            if go_on == "--abort":
                apart.site.voltool("move", "--abort", "vol")
                assert writers[-1].lost(apart.tree("hosta")) == []
                assert apart.is_writable("hosta")
                assert not apart.tree("hostb").exists()
            else:
                apart.resume()
        apart.assert_settled("hostb", *writers)


def test_both_boot_after_the_commit(tmp_path: Path) -> None:
    """It can only go forward."""
    with two_hosts(tmp_path, "btrfs", "ext4") as apart:
        writer = apart.writer()
        apart.hold()
        apart.until_committed(apart.start(*MOVE))
        writer.stop()
        for name in ("hosta", "hostb"):
            apart.reboot(name)
            assert not apart.is_writable(name)
        assert "in service nowhere" in apart.status()
        refused = apart.site.voltool("move", "--abort", "vol", check=False)
        assert refused.returncode == 1
        assert "voltool move --resume vol" in refused.stderr
        apart.resume()
        apart.assert_settled("hostb", writer)
