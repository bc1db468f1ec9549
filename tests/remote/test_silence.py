"""A connection on which nothing passes any more, and nobody says so: both sides notice, and only then."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.processes import processes_with, wait_until
from tests.remote.test_agent import (
    Recorder,
    alive,
    ask,
    facts,
    name_of,
    send_for_ever,
    verbs,
    work_until,
)
from tests.sshd import Sshd
from voltool.errors import UnreachableError
from voltool.remote.connect import LOCAL, HostSettings, RemoteHosts
from voltool.wire.messages import CheckHost

__all__ = ["verbs"]
SILENCE = 2.0


def hosts(sshd: Sshd, way: str) -> RemoteHosts:
    transport = "openssh" if way == "openssh" else "paramiko"
    settings = HostSettings(transport=transport, ssh_config=str(sshd.config_file), silence_timeout=SILENCE)
    return RemoteHosts(lambda _host: settings, Recorder(), "tester@here")


def cleaned_up(marker: Path) -> bool:
    """Whether the agent ended in good order, with all that it had started."""
    pid = int(marker.with_suffix(".pid").read_text())
    ended = wait_until(lambda: not processes_with(f"{marker}-child") and not alive(pid))
    return ended and marker.read_text() == "cleaned up"


@pytest.fixture(autouse=True)
def _nothing_stays_frozen(sshd: Sshd, verbs: None) -> Iterator[None]:
    yield
    sshd.kill_sessions()


@pytest.mark.parametrize("way", ["paramiko", "openssh"])
def test_a_busy_agent_ends_itself_and_the_command_line_is_told(sshd: Sshd, tmp_path: Path, way: str) -> None:
    with pytest.raises(UnreachableError, match="does not answer any more") as caught:
        work_until(hosts(sshd, way), sshd.name, tmp_path / "marker", lambda _pid: sshd.freeze_sessions())
    assert caught.value.where == sshd.name
    assert "2 s" in caught.value.why
    assert wait_until((tmp_path / "marker").exists)  # the agent has cleaned up while sshd was still frozen
    sshd.kill_sessions()
    assert cleaned_up(tmp_path / "marker")


def test_who_sends_is_told_too(sshd: Sshd) -> None:
    with hosts(sshd, "paramiko").connect(sshd.name) as session:
        session.send(CheckHost((b"receive",)))
        session.send_data(bytes(1 << 20))
        sshd.freeze_sessions()
        with pytest.raises(UnreachableError, match="does not answer any more"):
            send_for_ever(session)


@pytest.mark.parametrize("way", ["paramiko", LOCAL])
def test_an_agent_that_hangs_is_given_up(sshd: Sshd, tmp_path: Path, way: str) -> None:
    frozen = []

    def freeze(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        frozen.append(pid)

    with pytest.raises(UnreachableError, match="does not answer any more"):
        work_until(hosts(sshd, way), name_of(sshd, way), tmp_path / "marker", freeze)
    if way != LOCAL:
        os.kill(frozen[0], signal.SIGCONT)
        assert cleaned_up(tmp_path / "marker")
    # children of one that was killed, as nothing else could be done
    for child in (*processes_with(f"{tmp_path}/marker-child"), *processes_with("agent/voltool-", str(tmp_path))):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("way", ["paramiko", LOCAL])
def test_who_works_or_waits_in_silence_is_not_given_up(sshd: Sshd, way: str) -> None:
    with hosts(sshd, way).connect(name_of(sshd, way)) as session:
        ask(session, "busy", str(1.7 * SILENCE))
        assert facts(ask(session, "facts"))["user"] == str(os.geteuid())


def test_who_is_held_back_is_not_given_up(sshd: Sshd) -> None:
    """The agent sends, and nobody reads for a while; then everything is there."""
    with hosts(sshd, "paramiko").connect(sshd.name) as session:
        session.send(CheckHost((b"send", str(64 << 20).encode())))
        time.sleep(1.7 * SILENCE)
        received = 0
        while isinstance(message := session.receive(), bytes):
            received += len(message)
        assert received == 64 << 20


def test_a_stopped_command_line_goes_on_where_it_was(sshd: Sshd, tmp_path: Path) -> None:
    """Not longer than the silence that the agent forgives."""
    child = os.fork()
    if child == 0:
        with hosts(sshd, "paramiko").connect(sshd.name) as session:
            (tmp_path / "ready").touch()
            ask(session, "busy", "3")
            os._exit(0 if facts(ask(session, "facts"))["user"] == str(os.geteuid()) else 1)
    assert wait_until((tmp_path / "ready").exists)
    os.kill(child, signal.SIGSTOP)
    time.sleep(SILENCE * 0.6)
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0
