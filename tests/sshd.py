"""A throw-away OpenSSH server on loopback for tests: own host key, own user key, own configuration, own log.

It knows nothing of voltool. Several may run side by side; ``environment`` (for instance ``VOLTOOL_STATE_DIR``)
makes one machine look like two hosts to what is started through them.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

_SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
_START_TIMEOUT = 15.0
_SSH_PORT = 22
#: bash reads ~/.bashrc for sshd unless it is a shell within a shell; the tester's own is none of our business, and may be slow.
_PLAIN = {"SHLVL": "2"}
#: Run where the clients are: whether the server at argv[1], argv[2] says hello.
_KNOCK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as connection:
    sys.exit(connection.recv(4) != b"SSH-")
"""


@dataclass(frozen=True)
class Place:
    """Where a server runs: commands that put one there (``enter``) and where its clients are (``reach``), and its address; one
    that has a network of its own listens on the usual port."""

    address: str = "127.0.0.1"
    enter: Sequence[str] = ()
    reach: Sequence[str] = ()


class Sshd:
    """A running sshd; use as a context manager or call ``stop()``.

    Attributes: ``port``; ``address`` (127.0.0.1); ``user``; ``name`` (the Host of ``config_file``); ``key_file``
    (private key that may log in); ``host_key`` (type and base64 of the host's public key); ``known_hosts_line``;
    ``known_hosts_file``; ``config_file`` (an ssh config for voltool and for OpenSSH); ``log_file``.

    ``options`` are further lines of sshd_config; ``environment`` is set for every session (SetEnv); ``user`` logs in
    (default: whoever runs the tests; another one needs root); ``client_options`` are further lines of the Host section.
    ``place``: where it runs, if not beside us.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        name: str = "throwaway",
        client_options: Sequence[str] = (),
        place: Place | None = None,
    ) -> None:
        if _SSHD is None or shutil.which("ssh-keygen") is None:
            pytest.skip("no sshd on this machine (package openssh-server)")
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.directory = directory
        self.name = name
        self._place = place or Place()
        self.address = self._place.address
        self.user = user or getpass.getuser()
        self.key_file = generate_key(directory / "user_key")
        self.host_key_file = generate_key(directory / "host_key")
        self.host_key = " ".join((directory / "host_key.pub").read_text().split()[:2])
        self.log_file = directory / "sshd.log"
        self.known_hosts_file = directory / "known_hosts"
        self.config_file = directory / "ssh_config"
        # Read with the rights of who logs in, who may not enter the test's directory.
        self._public = Path(tempfile.mkdtemp(prefix="voltool-test-sshd-"))
        self._public.chmod(0o755)
        self._authorized = self._public / "authorized_keys"
        shutil.copy(directory / "user_key.pub", self._authorized)
        self._authorized.chmod(0o644)
        self._options = tuple(options)
        self._environment = dict(environment or {})
        self._start()
        known_as = self.address if self.port == _SSH_PORT else f"[{self.address}]:{self.port}"
        self.known_hosts_line = f"{known_as} {self.host_key}"
        self.known_hosts_file.write_text(self.known_hosts_line + "\n")
        self.config_file.write_text(self.client_section(client_options))

    def client_section(self, client_options: Sequence[str] = (), name: str | None = None) -> str:
        """A Host section for an ssh config that reaches this server."""
        lines = [
            f"Host {name or self.name}",
            f"    HostName {self.address}",
            f"    Port {self.port}",
            f"    User {self.user}",
            f"    IdentityFile {self.key_file}",
            "    IdentitiesOnly yes",
            f"    UserKnownHostsFile {self.known_hosts_file}",
            "    GlobalKnownHostsFile /dev/null",
            *(f"    {line}" for line in client_options),
        ]
        return "\n".join(lines) + "\n"

    def authorize(self, public_key_file: Path) -> None:
        """Let one more key log in."""
        with self._authorized.open("a") as file:
            file.write(public_key_file.read_text())

    @property
    def pid(self) -> int:
        """The listener's."""
        return self._process.pid

    def sessions(self) -> list[int]:
        """The pids of the server's own processes for connections that are open (children of the listener)."""
        return [pid for pid in _children(self._process.pid) if _is_sshd(pid)]

    def kill_sessions(self) -> None:
        """kill -9 what serves the open connections, as the kernel would when memory is short; the listener stays."""
        self._signal_sessions(signal.SIGKILL)

    def freeze_sessions(self) -> None:
        """Stop what serves the open connections: nothing passes any more, and nobody is told. `kill_sessions` ends that."""
        self._signal_sessions(signal.SIGSTOP)

    def _signal_sessions(self, number: int) -> None:
        for pid in self.sessions():
            for process in [*(child for child in _children(pid) if _is_sshd(child)), pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)

    def log(self) -> str:
        """What the server has logged so far."""
        return self.log_file.read_text(errors="replace")

    def down(self) -> None:
        """End the listener and the connections, as a machine that goes down; idempotent. `up` brings it back."""
        if self._process.poll() is None:
            self.kill_sessions()
            self._process.terminate()
        self._process.wait(timeout=10)

    def up(self) -> None:
        """Start it anew, on the port that it had."""
        self._start(self.port)

    def stop(self) -> None:
        """End the listener and the connections for good; idempotent."""
        self.down()
        shutil.rmtree(self._public, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, port: int = 0) -> None:
        for _attempt in range(5):
            self.port = port or (_SSH_PORT if self._place.enter else _free_port())
            config = self.directory / "sshd_config"
            config.write_text("\n".join(self._config_lines()) + "\n")
            _make_privilege_separation_directory()
            self._process = self._begin()
            if self._answers():
                return
            self._process.kill()
            self._process.wait()
        raise AssertionError(f"sshd does not start: {self.log()}")

    def _begin(self) -> subprocess.Popen[bytes]:
        assert _SSHD is not None
        return subprocess.Popen(
            [*self._place.enter, _SSHD, "-D", "-f", str(self.directory / "sshd_config"), "-E", str(self.log_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _config_lines(self) -> list[str]:
        lines = [
            *self._options,  # the first value of a keyword counts
            f"ListenAddress {self.address}",
            f"Port {self.port}",
            f"HostKey {self.host_key_file}",
            f"PidFile {self.directory / 'sshd.pid'}",
            f"AuthorizedKeysFile {self._authorized}",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "PrintMotd no",
            "MaxStartups 100:30:200",
            "LogLevel VERBOSE",
            "Subsystem sftp internal-sftp",
        ]
        pairs = " ".join(f'"{key}={value}"' for key, value in {**_PLAIN, **self._environment}.items())
        return [*lines, f"SetEnv {pairs}"]

    def _answers(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._knock():
                return self._process.poll() is None
            time.sleep(0.02)
        return False

    def _knock(self) -> bool:
        if self._place.reach:
            command = [*self._place.reach, sys.executable, "-I", "-c", _KNOCK, self.address, str(self.port)]
            return subprocess.run(command, check=False, capture_output=True).returncode == 0
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
        return False


def generate_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> Path:
    """Make a key pair ``path`` and ``path``.pub; returns ``path``."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "throw-away", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


@contextlib.contextmanager
def throwaway_user(shell: str = "/bin/sh") -> Iterator[tuple[str, str]]:
    """A new account of this machine with a home and a password, gone at the end: (name, password). Needs root."""
    if os.geteuid() != 0 or shutil.which("useradd") is None:
        pytest.skip("only root can make accounts")
    name, password = f"voltool-{secrets.token_hex(4)}", secrets.token_hex(12)
    subprocess.run(["useradd", "--create-home", "--shell", shell, name], check=True, capture_output=True)
    try:
        subprocess.run(["chpasswd"], input=f"{name}:{password}", text=True, check=True)
        yield name, password
    finally:
        _remove_user(name)


def _remove_user(name: str) -> None:
    for _attempt in range(50):  # userdel refuses while a process of the account is still ending
        subprocess.run(["pkill", "-KILL", "-u", name], check=False)
        done = subprocess.run(["userdel", "--remove", name], check=False, capture_output=True, text=True)
        if done.returncode in (0, 6):
            return
        time.sleep(0.1)
    raise AssertionError(f"the account {name} stays: {done.stderr}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _make_privilege_separation_directory() -> None:
    """As root, sshd insists on its directory, which the service's unit makes elsewhere."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
    except OSError:
        return False
