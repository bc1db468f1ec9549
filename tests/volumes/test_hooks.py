"""The user's programs: what they may do without harm, and what is told of them when they fail."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.writer import wait_until
from voltool.errors import HostError
from voltool.volumes.hooks import Hook, run_hook


def run(script: str, timeout: int = 30) -> None:
    run_hook(Hook(("sh", "-c", script), timeout), "after_online", "vol", b"/srv/vol")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Where a daemon's pid is written; it is ended."""
    pid = tmp_path / "pid"
    yield pid
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_a_daemon_that_keeps_the_output_does_not_keep_the_hook(daemon: Path) -> None:
    """Without the cure the hook takes until its time-out, and then the daemon is killed."""
    run(f"sleep 300 & echo $! > {daemon}")
    os.kill(int(daemon.read_text()), 0)


def test_what_a_failing_hook_printed_last_is_told(daemon: Path) -> None:
    with pytest.raises(HostError) as failed:
        run(f"sleep 300 & echo $! > {daemon}; seq 1 100000; echo the reason; exit 3")
    assert failed.value.why == "it ended with status 3; 99999; 100000; the reason"


def test_one_that_does_not_end_is_killed_with_what_it_started(daemon: Path) -> None:
    with pytest.raises(HostError) as failed:
        run(f"sleep 300 & echo $! > {daemon}; echo waiting; wait", timeout=1)
    assert failed.value.why == "it took longer than 1 s; waiting"
    wait_until(lambda: not Path(f"/proc/{daemon.read_text().strip()}").exists())
