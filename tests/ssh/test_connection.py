"""Against a real sshd: who is let in, by which way, and what is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.sshd import Sshd, generate_key
from voltool.errors import UnreachableError
from voltool.events import Event, Notice
from voltool.ssh.connection import SshSettings, connect
from voltool.ssh.secrets import Secrets


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


class Person:
    """Answers questions, and remembers them."""

    def __init__(self, answers: Sequence[str | None]) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []

    def __call__(self, prompt: str, *, echo: bool) -> str | None:
        assert not echo, "a secret would be seen"
        self.questions.append(prompt)
        return self.answers.pop(0)


def settings(config: Path, secrets: Secrets | None = None, recorder: Recorder | None = None) -> SshSettings:
    return SshSettings(recorder or Recorder(), 10.0, str(config), secrets or Secrets())


def output(host: str, config: Path, secrets: Secrets | None = None, command: str = "echo here") -> str:
    stream = connect(host, settings(config, secrets)).run(command)
    try:
        text = b""
        while data := stream.read(4096, timeout=20):
            text += data
        assert stream.exit_status(5) == 0
    finally:
        stream.close()
    return text.decode()


def config_with(sshd: Sshd, path: Path, **replaced: object) -> Path:
    """The server's ssh config with some keywords' values replaced (None: left out)."""
    lines = []
    for line in sshd.config_file.read_text().splitlines():
        keyword = line.split()[0]
        if keyword not in replaced:
            lines.append(line)
        elif replaced[keyword] is not None:
            lines.append(f"    {keyword} {replaced[keyword]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_command_runs_and_its_status_and_complaints_come_back(sshd: Sshd) -> None:
    stream = connect(sshd.name, settings(sshd.config_file)).run("cat; echo oops >&2; exit 7")
    stream.write(b"through")
    assert stream.read(100, timeout=10) == b"through"
    with pytest.raises(TimeoutError):
        stream.read(100, timeout=0.1)
    stream.close(grace=10)
    assert stream.exit_status(1) == 7
    assert stream.stderr_tail() == "oops"


def test_aes_gcm_is_spoken(sshd: Sshd) -> None:
    connection = connect(sshd.name, settings(sshd.config_file))
    try:
        agreed = vars(connection.transport)
        assert "gcm" in agreed["local_cipher"]
        assert "gcm" in agreed["remote_cipher"]
    finally:
        connection.close()


def test_an_unknown_host_is_refused_with_the_line_that_would_add_it(sshd: Sshd, tmp_path: Path) -> None:
    config = config_with(sshd, tmp_path / "config", UserKnownHostsFile=tmp_path / "known")
    with pytest.raises(UnreachableError, match="not known") as caught:
        connect(sshd.name, settings(config))
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{sshd.host_key_file}.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert shown.split()[1] in caught.value.why
    (tmp_path / "known").write_text(caught.value.remedy.split("known: ")[1] + "\n")
    assert output(sshd.name, config) == "here\n"


def test_a_configuration_that_waives_the_check_does_not_waive_it(sshd: Sshd, tmp_path: Path) -> None:
    config = config_with(sshd, tmp_path / "config", UserKnownHostsFile="/dev/null")
    config.write_text(config.read_text() + "    StrictHostKeyChecking no\n")
    with pytest.raises(UnreachableError, match="not known"):
        connect(sshd.name, settings(config))


def test_a_changed_host_key_is_refused_loudly(sshd: Sshd, tmp_path: Path) -> None:
    generate_key(tmp_path / "other")
    known = tmp_path / "known"
    known.write_text(f"[{sshd.address}]:{sshd.port} " + (tmp_path / "other.pub").read_text())
    config = config_with(sshd, tmp_path / "config", UserKnownHostsFile=known)
    with pytest.raises(UnreachableError, match="HAS CHANGED"):
        connect(sshd.name, settings(config))


def test_a_skipped_line_is_named(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(f"@cert-authority * {sshd.host_key}\n{sshd.known_hosts_line}\n")
    recorder = Recorder()
    connect(
        sshd.name, settings(config_with(sshd, tmp_path / "config", UserKnownHostsFile=known), None, recorder)
    ).close()
    assert [event.message for event in recorder.events if isinstance(event, Notice)] == [
        f"skipped a line of known_hosts: {known}:1: @cert-authority (host certificates are not supported)"
    ]


def test_nobody_listens(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="cannot be reached"):
        connect(sshd.name, settings(config_with(sshd, tmp_path / "config", Port=1)))


def test_a_name_that_does_not_exist(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="not known"):
        connect(sshd.name, settings(config_with(sshd, tmp_path / "config", HostName="no-such-host.invalid")))


def test_a_key_that_may_not_log_in(sshd: Sshd, tmp_path: Path) -> None:
    key = generate_key(tmp_path / "stranger")
    with pytest.raises(UnreachableError, match="does not let us in") as caught:
        connect(sshd.name, settings(config_with(sshd, tmp_path / "config", IdentityFile=key)))
    assert str(key) in caught.value.why


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_an_encrypted_key_is_asked_for_once(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    key = generate_key(tmp_path / "key", "open sesame", kind)
    sshd.authorize(tmp_path / "key.pub")
    config = config_with(sshd, tmp_path / "config", IdentityFile=key)
    person = Person(["wrong", "open sesame"])
    secrets = Secrets(person)
    assert output(sshd.name, config, secrets) == "here\n"
    assert output(sshd.name, config, secrets) == "here\n"
    assert person.questions == [f"Passphrase for key {key}: "] * 2


def test_without_a_terminal_an_encrypted_key_is_named(sshd: Sshd, tmp_path: Path) -> None:
    key = generate_key(tmp_path / "key", "open sesame")
    with pytest.raises(UnreachableError, match="encrypted"):
        connect(sshd.name, settings(config_with(sshd, tmp_path / "config", IdentityFile=key)))


@pytest.fixture
def ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    yield path
    process.terminate()
    process.wait()


def test_a_key_of_the_agent_is_used_without_asking(sshd: Sshd, tmp_path: Path, ssh_agent: Path) -> None:
    key = generate_key(tmp_path / "key")
    sshd.authorize(tmp_path / "key.pub")
    subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "secret", "-P", "", "-f", str(key)], check=True, capture_output=True
    )
    assert output(sshd.name, config_with(sshd, tmp_path / "config", IdentityFile=key)) == "here\n"
    config = config_with(sshd, tmp_path / "config", IdentityFile="none", IdentitiesOnly=None)
    assert output(sshd.name, config) == "here\n"
    with pytest.raises(UnreachableError, match="does not let us in"):
        output(sshd.name, config_with(sshd, tmp_path / "config", IdentityFile=tmp_path / "none"))


def test_a_chain_of_jumps(sshd: Sshd, tmp_path: Path) -> None:
    with Sshd(tmp_path / "two", name="two") as two, Sshd(tmp_path / "three", name="three") as three:
        config = tmp_path / "config"
        config.write_text(
            sshd.config_file.read_text()
            + two.config_file.read_text()
            + three.client_section([f"ProxyJump {sshd.name},two"])
        )
        text = output("three", config, command="echo $SSH_CONNECTION")
        assert text.split()[3] == str(three.port)
        assert "Accepted publickey" in two.log()
        stream = connect("three", settings(config)).run("head -c 30000000 /dev/zero")
        total = 0
        while data := stream.read(1 << 20, timeout=20):
            total += len(data)
        stream.close()
        assert total == 30_000_000
        deadline = time.monotonic() + 10
        while (two.sessions() or three.sessions()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert two.sessions() == three.sessions() == []


def test_a_jump_that_is_not_let_in_is_named(sshd: Sshd, tmp_path: Path) -> None:
    with Sshd(tmp_path / "two", name="two") as two:
        config = tmp_path / "config"
        stranger = config_with(sshd, tmp_path / "jump", IdentityFile=generate_key(tmp_path / "stranger"))
        config.write_text(stranger.read_text() + two.client_section([f"ProxyJump {sshd.name}"]))
        with pytest.raises(UnreachableError, match=f"@{sshd.name}"):
            connect("two", settings(config))


def test_jumps_in_a_circle_end(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(UnreachableError, match="too many jumps"):
        connect("a", settings(config))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh client on this machine")
def test_a_proxy_command(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    proxy = f"ProxyCommand ssh -F {sshd.config_file} -W %h:%p {sshd.name}"
    config.write_text(sshd.client_section([proxy], name="behind"))
    assert output("behind", config) == "here\n"
    config.write_text(sshd.client_section(["ProxyCommand false"], name="behind"))
    with pytest.raises(UnreachableError, match="cannot be reached"):
        connect("behind", settings(config))


def test_a_silent_server_does_not_hold_us_up(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(sshd.client_section(["ProxyCommand sleep 100"], name="silent"))
    begun = time.monotonic()
    with pytest.raises(UnreachableError):
        connect("silent", SshSettings(Recorder(), 2.0, str(config)))
    assert time.monotonic() - begun < 15


def test_a_killed_connection_ends_reading_and_writing(sshd: Sshd) -> None:
    stream = connect(sshd.name, settings(sshd.config_file)).run("cat")
    sshd.kill_sessions()
    assert stream.read(100, timeout=20) == b""
    with pytest.raises(BrokenPipeError):
        stream.write(b"anybody?")
    assert stream.readable()
    stream.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a sshd that knows passwords")
def test_password_and_keyboard_interactive(tmp_path: Path, throwaway_user: tuple[str, str]) -> None:
    user, password = throwaway_user
    options = ["UsePAM yes", "PubkeyAuthentication no"]
    for kind in ("PasswordAuthentication", "KbdInteractiveAuthentication"):
        with Sshd(tmp_path / kind, options=[*options, f"{kind} yes"], user=user) as server:
            person = Person(["wrong", password])
            secrets = Secrets(person)
            assert output(server.name, server.config_file, secrets, "id -un") == f"{user}\n"
            assert len(person.questions) == 2
            with pytest.raises(UnreachableError, match="does not let us in"):
                connect(server.name, settings(server.config_file))


GIB = 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize(("options", "size"), [([], 3 * GIB), (["RekeyLimit 64M"], GIB)], ids=["default", "rekey-64M"])
def test_gigabytes_each_way_over_one_connection(tmp_path: Path, options: list[str], size: int) -> None:
    """With its defaults paramiko's own rekeying ends this, after about 1 GiB, in every second attempt."""
    with Sshd(tmp_path / "server", options=[*options, "LogLevel DEBUG1"]) as server:
        stream = connect(server.name, settings(server.config_file)).run(
            f"head -c {size} /dev/zero; head -c {size} | wc -c"
        )
        received = 0
        while received < size:
            data = stream.read(1 << 20, timeout=60)
            assert data, stream.stderr_tail()
            received += len(data)
        assert received == size
        block = memoryview(bytes(1 << 20))
        for _ in range(size >> 20):
            stream.write(block)
        assert stream.read(100, timeout=60).split() == [str(size).encode()]
        stream.close(grace=5)
        rekeyed = server.log().count("SSH2_MSG_KEXINIT received")
    assert rekeyed >= (2 * size >> 26) / 2 if options else rekeyed == 1
