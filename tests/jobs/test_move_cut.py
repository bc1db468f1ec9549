"""The network is cut in each phase of a move, at the old home and at the new one: the command ends and says how to go on, the
lock ends by itself, and when the cable is back in, ``--resume`` brings the volume to its new home with all that was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.apart import SILENCE, Apart, Running, two_hosts
from tests.writer import Writer, wait_until

VICTIMS = ("hosta", "hostb")
MOVE = ("move", "vol", "hostb", "--yes")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("phase", ["copy", "catch up 1"])
def test_before_the_lock(tmp_path: Path, phase: str, victim: str) -> None:
    with two_hosts(tmp_path) as apart:
        writer = apart.writer()
        slow = ("--bandwidth", "500k") if phase == "copy" else ()
        move = apart.start(*MOVE, *slow)
        move.until_phase(phase)
        apart.host(victim).machine.cut()
        assert_it_ends_and_says_how_to_go_on(move, victim)
        assert not writer.refused
        resume(apart, victim)
        assert_moved(apart, writer)


def under_the_lock(apart: Apart, move: Running) -> None:
    """Until the hook ``before_online`` runs at the new home: all is prepared there, nothing is committed."""
    move.until_phase("lock")
    wait_until((apart.directory / "mark").exists)


@pytest.mark.parametrize("victim", VICTIMS)
def test_under_the_lock(tmp_path: Path, victim: str) -> None:
    with two_hosts(tmp_path, settings=hook(tmp_path, 2 * SILENCE)) as apart:
        writer = apart.writer()
        move = apart.start(*MOVE)
        under_the_lock(apart, move)
        apart.host(victim).machine.cut()
        assert_it_ends_and_says_how_to_go_on(move, victim)
        wait_until(lambda: apart.has_tree("hosta") and apart.is_writable("hosta"))
        assert apart.record("hosta", "source")["phase"] == "copying"
        resume(apart, victim)
        assert_moved(apart, writer)


@pytest.mark.parametrize("victim", VICTIMS)
def test_between_commit_and_publish(tmp_path: Path, victim: str) -> None:
    """Only one direction fails, just long enough: the old home does not hear back, or the new one is not told."""
    with two_hosts(tmp_path, settings=hook(tmp_path, 0.5)) as apart:
        writer = apart.writer()
        move = apart.start(*MOVE)
        under_the_lock(apart, move)
        machine = apart.host(victim).machine
        if victim == "hosta":
            machine.mute()
        else:
            machine.deafen()
        wait_until(lambda: apart.record("hosta", "source")["phase"] == "moved")
        machine.cut()
        error = assert_it_ends_and_says_how_to_go_on(move, victim)
        assert "in service nowhere" in error or victim == "hosta"
        wait_until(lambda: not apart.lock_mounts("hosta"))
        assert not apart.is_writable("hosta")
        assert not apart.is_writable("hostb")
        resume(apart, victim)
        assert_moved(apart, writer)


def hook(directory: Path, seconds: float) -> str:
    """A line of configuration: ``before_online`` leaves a mark, once, and takes its time."""
    mark = directory / "mark"
    return f'before_online = ["sh", "-c", "test -e {mark} || {{ touch {mark}; sleep {seconds}; }}"]'


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


def resume(apart: Apart, victim: str) -> None:
    """Whoever still works on it without knowing that nobody listens ends by himself."""
    apart.host(victim).machine.mend()
    last = ""

    def done() -> bool:
        nonlocal last
        finished = apart.site.voltool("move", "--resume", "vol", "--yes", check=False)
        last = finished.stdout + finished.stderr
        assert finished.returncode in (0, 4, 6), last
        return finished.returncode == 0

    wait_until(done, 40)


def assert_moved(apart: Apart, writer: Writer) -> None:
    wait_until(lambda: writer.refused)
    writer.stop()
    apart.assert_settled("hostb", writer)
