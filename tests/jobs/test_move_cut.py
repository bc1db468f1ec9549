"""The network is cut in each phase of a move, at the old home and at the new one: the command ends and says how to go on, the
lock ends by itself, and when the cable is back in, ``--resume`` brings the volume to its new home with all that was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.apart import Apart, Running, two_hosts
from tests.writer import Writer, wait_until

VICTIMS = ("hosta", "hostb")
MOVE = ("move", "vol", "hostb", "--yes")


@pytest.mark.parametrize(("phase", "victim"), [("copy", "hosta"), ("catch up 1", "hostb")])
def test_before_the_lock(tmp_path: Path, phase: str, victim: str) -> None:
    with two_hosts(tmp_path) as apart:
        writer = apart.writer()
        slow = ("--bandwidth", "500k") if phase == "copy" else ()
        move = apart.start(*MOVE, *slow)
        move.until_phase(phase)
        apart.host(victim).machine.cut()
        assert_it_ends_and_says_how_to_go_on(move, victim)
        assert not writer.refused
        assert_moved(apart, writer, victim)


@pytest.mark.parametrize("victim", VICTIMS)
def test_under_the_lock(tmp_path: Path, victim: str) -> None:
    with two_hosts(tmp_path) as apart:
        writer = apart.writer()
        apart.hold()
        move = apart.start(*MOVE)
        apart.until_prepared()
        apart.host(victim).machine.cut()
        assert_it_ends_and_says_how_to_go_on(move, victim)
        wait_until(lambda: apart.has_tree("hosta") and apart.is_writable("hosta"))
        assert apart.record("hosta", "source")["phase"] == "copying"
        assert_moved(apart, writer, victim)


@pytest.mark.parametrize("victim", VICTIMS)
def test_between_commit_and_publish(tmp_path: Path, victim: str) -> None:
    """Only one direction fails, just long enough: the old home does not hear back, or the new one is not told."""
    with two_hosts(tmp_path) as apart:
        writer = apart.writer()
        apart.hold()
        move = apart.start(*MOVE)
        apart.until_prepared()
        machine = apart.host(victim).machine
        if victim == "hosta":
            machine.mute()
        else:
            machine.deafen()
        apart.let_go()
        wait_until(lambda: apart.record("hosta", "source")["phase"] == "moved")
        machine.cut()
        error = assert_it_ends_and_says_how_to_go_on(move, victim)
        assert "in service nowhere" in error or victim == "hosta"
        wait_until(lambda: not apart.lock_mounts("hosta"))
        assert not apart.is_writable("hosta")
        assert not apart.is_writable("hostb")
        assert_moved(apart, writer, victim)


def assert_it_ends_and_says_how_to_go_on(move: Running, victim: str) -> str:
    """What it said of the state."""
    status = move.end(timeout=60)
    assert status in (1, 6), move.output
    assert "Traceback" not in move.output
    error = move.error()
    assert victim in error["where"], error
    assert "in service" in error["why"], error
    assert "voltool move --resume vol" in error["try"], error
    return str(error["why"])


def assert_moved(apart: Apart, writer: Writer, victim: str) -> None:
    """When the cable is in again."""
    apart.host(victim).machine.mend()
    apart.resume()
    wait_until(lambda: writer.refused)
    writer.stop()
    apart.assert_settled("hostb", writer)
