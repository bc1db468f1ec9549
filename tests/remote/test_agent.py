"""Agents over a real sshd, by both transports, and as a local process: what users, and their servers, notice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import voltool
from tests.remote.processes import processes_with, wait_until
from tests.remote.verbs import agent_with_verbs
from tests.sshd import Sshd
from voltool.errors import AgentError, HostError, SpaceError, UnreachableError, UsageError
from voltool.events import Event, Progressed
from voltool.remote import connect as connecting
from voltool.remote.connect import LOCAL, HostSettings, RemoteHosts
from voltool.remote.session import AgentSession
from voltool.ssh.secrets import Secrets
from voltool.wire.messages import CheckHost, Done, EndOfData, HelloReply, HostReport

WAYS = ["paramiko", "openssh", LOCAL]


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


def hosts(sshd: Sshd, way: str = "paramiko", recorder: Recorder | None = None) -> RemoteHosts:
    settings = HostSettings(transport="openssh" if way == "openssh" else "paramiko", ssh_config=str(sshd.config_file))
    return RemoteHosts(lambda _host: settings, recorder or Recorder(), "tester@here")


def name_of(sshd: Sshd, way: str) -> str:
    return LOCAL if way == LOCAL else sshd.name


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_with_verbs()
    monkeypatch.setattr(connecting, "build_agent", lambda: agent)


def ask(session: AgentSession, *words: str) -> HostReport:
    session.send(CheckHost(tuple(word.encode() for word in words)))
    reply = session.receive()
    assert isinstance(reply, HostReport)
    return reply


def facts(report: HostReport) -> dict[str, str]:
    return {fact.topic: fact.value for fact in report.facts}


@pytest.mark.parametrize("way", WAYS)
def test_the_agent_says_who_it_is(sshd: Sshd, way: str) -> None:
    with hosts(sshd, way).connect(name_of(sshd, way)) as session:
        agent = session.agent
    assert isinstance(agent, HelloReply)
    assert agent.version == voltool.__version__
    assert agent.uid == os.geteuid()
    assert agent.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert wait_until(lambda: not processes_with("agent/voltool-", ours()))


def test_the_agent_is_sent_once_and_checked_before_use(sshd: Sshd, state: Path) -> None:
    shutil.rmtree(state, ignore_errors=True)
    with hosts(sshd).connect(sshd.name):
        pass
    (cached,) = (state / "agent").iterdir()
    assert (state / "agent").stat().st_mode & 0o777 == 0o700
    good = cached.read_bytes()
    first = cached.stat().st_ino
    with hosts(sshd).connect(sshd.name):
        pass
    assert cached.stat().st_ino == first

    cached.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with hosts(sshd).connect(sshd.name) as session:
        assert session.agent.version == voltool.__version__
    assert cached.read_bytes() == good
    assert [path.name for path in (state / "agent").iterdir()] == [cached.name]


def test_a_cached_agent_that_others_may_write_or_link_is_replaced(sshd: Sshd, state: Path, tmp_path: Path) -> None:
    with hosts(sshd).connect(sshd.name):
        pass
    (cached,) = (state / "agent").iterdir()
    cached.chmod(0o666)
    with hosts(sshd).connect(sshd.name):
        pass
    assert cached.stat().st_mode & 0o777 == 0o600
    cached.rename(tmp_path / "elsewhere")
    cached.symlink_to(tmp_path / "elsewhere")
    with hosts(sshd).connect(sshd.name):
        pass
    assert not cached.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(sshd: Sshd, state: Path) -> None:
    shutil.rmtree(state, ignore_errors=True)
    (state / "agent").mkdir(parents=True)
    os.chown(state / "agent", 65534, 65534)
    with pytest.raises(HostError, match="belongs to somebody else"), hosts(sshd).connect(sshd.name):
        pass
    shutil.rmtree(state)


def test_old_versions_go_after_a_month(sshd: Sshd, state: Path) -> None:
    shutil.rmtree(state, ignore_errors=True)
    (state / "agent").mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    for name, age in (("voltool-old.pyz", 40), ("voltool-recent.pyz", 10), ("mine", 40)):
        (state / "agent" / name).write_text("x")
        os.utime(state / "agent" / name, (time.time() - age * 86400,) * 2)
    with hosts(sshd).connect(sshd.name):
        pass
    left = {path.name for path in (state / "agent").iterdir()}
    assert {"voltool-recent.pyz", "mine"} < left
    assert "voltool-old.pyz" not in left


@pytest.mark.parametrize("way", ["paramiko", "openssh"])
def test_what_login_shells_print_is_tolerated(tmp_path: Path, way: str) -> None:
    noisy = 'ForceCommand echo "Welcome!"; echo "* 5 updates"; printf "\\000\\001odd"; eval "$SSH_ORIGINAL_COMMAND"'
    banner = tmp_path / "banner"
    banner.write_text("Authorised use only\n")
    options = [noisy, f"Banner {banner}"]
    with Sshd(
        tmp_path / "server", options=options, environment={"VOLTOOL_STATE_DIR": str(tmp_path / "state")}
    ) as server:
        for _ in range(2):
            with hosts(server, way).connect(server.name) as session:
                assert session.agent.version == voltool.__version__


@pytest.mark.may_skip("not every login shell is on every machine")
@pytest.mark.parametrize("shell", ["bash", "dash", "csh", "tcsh", "fish", "zsh"])
def test_any_login_shell_will_do(tmp_path: Path, shell: str, throwaway_user: tuple[str, str]) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not on this machine")
    user = throwaway_user[0]
    subprocess.run(["usermod", "--shell", path, user], check=True)
    with Sshd(tmp_path / "server", user=user) as server, hosts(server).connect(server.name) as session:
        assert session.agent.uid != 0


def test_no_python_is_said_with_the_remedy(tmp_path: Path) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("python3", "python3.12"):
        (binaries / name).write_text('#!/bin/sh\ntest "$1" = -V && echo "Python 3.6.8"; exit 1\n')
        (binaries / name).chmod(0o755)
    settings = HostSettings(python=str(binaries / "python3"))
    remote = RemoteHosts(lambda _host: settings, Recorder(), "me")
    with pytest.raises(HostError, match=r"no python3 of version 3\.9 or later") as caught, remote.connect(LOCAL):
        pass
    assert "Python 3.6.8" in caught.value.why
    assert "install python3" in caught.value.remedy
    with (
        pytest.raises(HostError, match="found no python3"),
        RemoteHosts(lambda _host: HostSettings(python="/none"), Recorder(), "me").connect(LOCAL),
    ):
        pass


def test_a_python_that_will_not_do_is_passed_over(tmp_path: Path, verbs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python3.20").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3.20").chmod(0o755)
    (tmp_path / "python3.19").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(connecting.sys, "executable", "")  # type: ignore[attr-defined]
    with RemoteHosts(lambda _host: HostSettings(), Recorder(), "me").connect(LOCAL) as session:
        assert facts(ask(session, "facts"))["executable"] == str(tmp_path / "python3.19")


def oldest_python() -> str | None:
    """A Python 3.9 of this machine: the one that ``$PYTHON39`` names, or ``python3.9``."""
    found = [os.environ.get("PYTHON39"), shutil.which("python3.9")]
    works = [
        path
        for path in found
        if path and subprocess.run([path, "-V"], check=False, capture_output=True).returncode == 0
    ]
    return works[0] if works else None


@pytest.mark.may_skip("Python 3.9 is not on every machine")
def test_the_agent_runs_on_python_3_9(verbs: None) -> None:
    python = oldest_python()
    if python is None:
        pytest.skip("no python3.9 on this machine")
    with RemoteHosts(lambda _host: HostSettings(python=python), Recorder(), "me").connect(LOCAL) as session:
        assert facts(ask(session, "facts"))["version"] == "(3, 9)"
        session.send(CheckHost((b"receive",)))
        session.send_data(bytes(3_000_000))
        session.send(EndOfData())
        assert facts(session.receive())["received"] == "3000000"


@pytest.fixture
def sudoer(throwaway_user: tuple[str, str]) -> Iterator[Callable[[str], tuple[str, str]]]:
    """Gives the account a line in sudoers."""
    if shutil.which("sudo") is None or not Path("/etc/sudoers.d").is_dir():
        pytest.skip("no sudo on this machine")
    user, password = throwaway_user
    file = Path("/etc/sudoers.d") / user

    def allow(line: str) -> tuple[str, str]:
        file.write_text(f"{user} {line}\n")
        file.chmod(0o440)
        return user, password

    yield allow
    file.unlink(missing_ok=True)


def becoming(server: Sshd, answers: dict[str, str] | None = None, way: str = "paramiko") -> RemoteHosts:
    def answer(prompt: str, *, echo: bool) -> str | None:
        assert not echo
        return (answers or {})[prompt]

    settings = HostSettings(transport=way, become=True, ssh_config=str(server.config_file))
    secrets = Secrets(answer if answers is not None else None)
    return RemoteHosts(lambda _host: settings, Recorder(), "me", secrets, ask_become_password=answers is not None)


Allow = Callable[[str], tuple[str, str]]


@pytest.mark.usefixtures("verbs")
class TestSudo:
    def test_without_a_password(self, tmp_path: Path, sudoer: Allow) -> None:
        user, _ = sudoer("ALL=(root) NOPASSWD: ALL")
        state = tmp_path / "state"
        with Sshd(tmp_path / "server", user=user, environment={"VOLTOOL_STATE_DIR": str(state)}) as server:
            for way in ("paramiko", "openssh"):
                with becoming(server, way=way).connect(server.name) as session:
                    assert session.agent.uid == 0
                    assert facts(ask(session, "facts"))["user"] == "0"
            line = json.loads((state / "log").read_text().splitlines()[0])
            assert line["sudo_user"] == user
            assert line["connection"].split()[3] == str(server.port)

    @pytest.mark.parametrize("way", ["paramiko", "openssh"])
    def test_with_a_password(self, tmp_path: Path, sudoer: Allow, way: str) -> None:
        user, password = sudoer("ALL=(root) ALL")
        with Sshd(tmp_path / "server", user=user, environment={"VOLTOOL_STATE_DIR": str(tmp_path / "state")}) as server:
            prompt = f"Password for sudo on {server.name}: "
            with becoming(server, {prompt: password}, way).connect(server.name) as session:
                assert session.agent.uid == 0
            with (
                pytest.raises(HostError, match="password for sudo is wrong"),
                becoming(server, {prompt: "wrong"}, way).connect(server.name),
            ):
                pass

    def test_a_password_that_is_not_needed_does_no_harm(self, tmp_path: Path, sudoer: Allow) -> None:
        user, _ = sudoer("ALL=(root) NOPASSWD: ALL")
        with Sshd(tmp_path / "server", user=user, environment={"VOLTOOL_STATE_DIR": str(tmp_path / "state")}) as server:
            remote = becoming(server, {f"Password for sudo on {server.name}: ": "whatever"})
            with remote.connect(server.name) as session:
                assert session.agent.uid == 0

    def test_what_is_missing_is_said(self, tmp_path: Path, sudoer: Allow) -> None:
        user, _ = sudoer("ALL=(root) ALL")
        with Sshd(tmp_path / "server", user=user) as server:
            with (
                pytest.raises(HostError, match="sudo asks for a password") as caught,
                becoming(server).connect(server.name),
            ):
                pass
            assert "--ask-become-pass" in caught.value.remedy
            with pytest.raises(UsageError, match="no terminal"):
                RemoteHosts(
                    lambda _host: HostSettings(become=True), Recorder(), "me", ask_become_password=True
                ).connect(server.name).__enter__()

    def test_nothing_is_left_running(self, tmp_path: Path, sudoer: Allow) -> None:
        user, _ = sudoer("ALL=(root) NOPASSWD: ALL")
        marker = tmp_path / "marker"
        with Sshd(tmp_path / "server", user=user, environment={"VOLTOOL_STATE_DIR": str(tmp_path / "state")}) as server:
            with pytest.raises(AgentError, match="broke"):
                work_until(becoming(server), server.name, marker, lambda _pid: server.kill_sessions())
            assert cleaned_up(marker)


def test_an_account_that_runs_no_commands(tmp_path: Path) -> None:
    with Sshd(tmp_path, options=["ForceCommand echo This account is closed; exit 1"]) as server:
        for way in ("paramiko", "openssh"):
            with pytest.raises(HostError, match="This account is closed"), hosts(server, way).connect(server.name):
                pass


@pytest.mark.parametrize("way", ["paramiko", "openssh"])
def test_an_unknown_host_is_not_reached(sshd: Sshd, tmp_path: Path, way: str) -> None:
    config = tmp_path / "config"
    config.write_text(sshd.config_file.read_text().replace(str(sshd.known_hosts_file), str(tmp_path / "none")))
    settings = HostSettings(transport=way, ssh_config=str(config))
    remote = RemoteHosts(lambda _host: settings, Recorder(), "me")
    with pytest.raises(UnreachableError) as caught, remote.connect(sshd.name):
        pass
    assert caught.value.exit_code == 6


@pytest.mark.usefixtures("verbs")
class TestConversation:
    def test_failures_arrive_as_errors_and_the_agent_goes_on(self, sshd: Sshd) -> None:
        with hosts(sshd).connect(sshd.name) as session:
            with pytest.raises(AgentError, match=r"ValueError: something odd; at .*check\.py"):
                ask(session, "value_error")
            with pytest.raises(HostError, match="No such file") as caught:
                ask(session, "os_error")
            assert "\x1b" not in str(caught.value)
            session.send(Done())
            with pytest.raises(AgentError, match="not a request"):
                session.receive()
            assert facts(ask(session, "facts"))["user"] == str(os.geteuid())

    def test_a_failure_in_the_middle_of_sending_is_seen_while_sending(self, sshd: Sshd) -> None:
        for way in WAYS:
            with hosts(sshd, way).connect(name_of(sshd, way)) as session:
                session.send(CheckHost((b"no_space",)))
                with pytest.raises(SpaceError, match="full") as caught:
                    send_for_ever(session)
                assert caught.value.where == ("/srv" if way == LOCAL else f"{sshd.name}: /srv")
                assert "user" in facts(ask(session, "facts"))

    def test_an_agent_that_talks_while_it_listens_does_not_lock_up(self, sshd: Sshd) -> None:
        for way in WAYS:
            with hosts(sshd, way).connect(name_of(sshd, way)) as session:
                session.send(CheckHost((b"receive", b"2000")))
                for _ in range(60):
                    session.send_data(bytes(1 << 20))
                session.send(EndOfData())
                replies = [session.receive() for _ in range(60 * 2000 + 1)]
                assert facts(replies[-1])["received"] == str(60 << 20)

    def test_what_is_printed_by_mistake_does_no_harm(self, sshd: Sshd) -> None:
        with hosts(sshd).connect(sshd.name) as session:
            assert ask(session, "pollute") == HostReport(())
            assert session.agent.version == voltool.__version__

    def test_progress_is_thinned_out_but_its_end_is_told(self, sshd: Sshd) -> None:
        recorder = Recorder()
        with hosts(sshd, "paramiko", recorder).connect(sshd.name) as session:
            ask(session, "progress")
        counts = [event.files for event in recorder.events if isinstance(event, Progressed)]
        assert counts[0] == 1
        assert counts[-1] == 5000
        assert len(counts) < 100
        assert counts == sorted(counts)

    @pytest.mark.parametrize("way", WAYS)
    def test_a_dead_agent_is_told_with_its_last_words(self, sshd: Sshd, way: str) -> None:
        with (
            pytest.raises(AgentError, match="connection to the agent broke") as caught,
            hosts(sshd, way).connect(name_of(sshd, way)) as session,
        ):
            ask(session, "die")
        assert "first complaint" in caught.value.why
        assert "\x1b" not in caught.value.why

    def test_the_agent_has_private_files_and_finds_the_tools(self, sshd: Sshd) -> None:
        with hosts(sshd).connect(sshd.name) as session:
            found = facts(ask(session, "facts"))
        assert found["umask"] == "0o77"
        assert {"/sbin", "/usr/sbin"} <= set(found["path"].split(":"))

    def test_acts_are_logged_on_the_host(self, sshd: Sshd, state: Path) -> None:
        (state / "log").unlink(missing_ok=True)
        with hosts(sshd).connect(sshd.name) as session:
            ask(session, "facts")
            with pytest.raises(AgentError):
                ask(session, "value_error")
        lines = [json.loads(line) for line in (state / "log").read_text().splitlines()]
        assert [(line["act"], line["result"].split(":")[0]) for line in lines] == [
            ("CheckHost", "begin"), ("CheckHost", "done"), ("CheckHost", "begin"), ("CheckHost", "failed"),
        ]  # fmt: skip
        assert lines[0]["caller"] == "tester@here"
        assert lines[0]["connection"].split()[3] == str(sshd.port)
        assert (state / "log").stat().st_mode & 0o777 == 0o600


def send_for_ever(session: AgentSession) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        session.send_data(bytes(1 << 20))


def ours() -> str:
    """What the command lines of agents of this test process have, and those of other tests' agents do not."""
    return os.environ.get("PYTEST_XDIST_WORKER", "pytest-of-")


def spinning(session: AgentSession, marker: Path) -> int:
    """Let the agent work; its process id."""
    return int(facts(ask(session, "spin", str(marker)))["spinning"])


def nothing_left(pid: int, marker: Path) -> bool:
    return not processes_with(f"{marker}-child") and not alive(pid) and not processes_with("agent/voltool-", ours())


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def work_until(remote: RemoteHosts, host: str, marker: Path, end: Callable[[int], None]) -> None:
    """Let an agent work, and when it does, ``end`` it by its process id; then wait for its answer."""
    with remote.connect(host) as session:
        pid = spinning(session, marker)
        marker.with_suffix(".pid").write_text(str(pid))
        end(pid)
        session.receive()


def interrupt(_pid: int) -> None:
    raise KeyboardInterrupt


def cleaned_up(marker: Path) -> bool:
    """Whether the agent ended in good order and nothing of it runs any more."""
    pid = int(marker.with_suffix(".pid").read_text())
    return wait_until(lambda: nothing_left(pid, marker)) and marker.read_text() == "cleaned up"


def overwhelmed(remote: RemoteHosts, host: str) -> None:
    with remote.connect(host) as session:
        session.send(CheckHost((b"send", str(1 << 40).encode())))
        assert len(session.receive()) == 1 << 20
        raise KeyboardInterrupt


@pytest.mark.usefixtures("verbs")
class TestNothingIsLeftRunning:
    def test_when_the_session_of_sshd_is_killed(self, sshd: Sshd, tmp_path: Path) -> None:
        with pytest.raises(AgentError, match="broke"):
            work_until(hosts(sshd), sshd.name, tmp_path / "marker", lambda _pid: sshd.kill_sessions())
        assert cleaned_up(tmp_path / "marker")

    @pytest.mark.parametrize("way", WAYS)
    def test_when_the_command_line_leaves(self, sshd: Sshd, tmp_path: Path, way: str) -> None:
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            work_until(hosts(sshd, way), name_of(sshd, way), tmp_path / "marker", interrupt)
        assert time.monotonic() - begun < 20
        assert cleaned_up(tmp_path / "marker")

    @pytest.mark.parametrize("way", WAYS)
    def test_when_the_command_line_is_killed(self, sshd: Sshd, tmp_path: Path, way: str) -> None:
        child = os.fork()
        if child == 0:
            work_until(
                hosts(sshd, way),
                name_of(sshd, way),
                tmp_path / "marker",
                lambda _pid: os.kill(os.getpid(), signal.SIGKILL),
            )
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert cleaned_up(tmp_path / "marker")

    def test_when_the_agent_is_told_to_end(self, sshd: Sshd, tmp_path: Path) -> None:
        with pytest.raises(AgentError, match="broke"):
            work_until(hosts(sshd), sshd.name, tmp_path / "marker", lambda pid: os.kill(pid, signal.SIGTERM))
        assert cleaned_up(tmp_path / "marker")

    @pytest.mark.parametrize("way", WAYS)
    def test_when_nobody_takes_what_it_sends(self, sshd: Sshd, way: str) -> None:
        with pytest.raises(KeyboardInterrupt):
            overwhelmed(hosts(sshd, way), name_of(sshd, way))
        assert wait_until(lambda: not processes_with("agent/voltool-", ours()))


@pytest.mark.usefixtures("verbs")
@pytest.mark.parametrize("way", WAYS)
def test_data_in_bulk_arrives_whole(sshd: Sshd, way: str) -> None:
    size = 200 << 20
    with hosts(sshd, way).connect(name_of(sshd, way)) as session:
        session.send(CheckHost((b"send", str(size).encode())))
        received = 0
        while isinstance(message := session.receive(), bytes):
            received += len(message)
        assert received == size
        assert session.receive() == HostReport(())
        session.send(CheckHost((b"receive",)))
        block = memoryview(bytes(1 << 20))
        for _ in range(size >> 20):
            session.send_data(block)
        session.send(EndOfData())
        assert facts(session.receive())["received"] == str(size)
