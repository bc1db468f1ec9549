"""Who keeps a long-running process of voltool alive: systemd, where it is the one that would start it here; else nobody.

A unit survives a reboot and the end of the log-in. Without systemd the process is detached: in a session of its own, not below
the agent, and after a reboot the next `voltool replica sync` starts it. Knows nothing of what the process does. Ships to servers.
Sources: systemd.unit(5), systemd.service(5) on quoting; daemon(7); setsid(2).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from typing import Mapping, Protocol, Sequence

from voltool import durable
from voltool.errors import HostError

_RUNNING = "/run/systemd/system"
_UNITS = "/etc/systemd/system"
_TIMEOUT = 60.0

_UNIT = """\
[Unit]
Description={description}
Documentation=man:voltool-replica-add(1)
After=network-online.target local-fs.target remote-fs.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}Restart=on-failure
RestartSec=2
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
"""


class Supervisor(Protocol):
    """Starts and keeps processes, by a name that is unique on the host."""

    def start(self, name: str, description: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it, and see that it is started again where that is possible. It does not run yet. HostError."""

    def forget(self, name: str) -> None:
        """It is not started again from now on; one that runs goes on, or is ended. Idempotent."""


def find_supervisor() -> Supervisor:
    """Systemd where it runs, we may write units, and what it starts sees the mounts and the network that we see."""
    usable = os.path.isdir(_RUNNING) and os.geteuid() == 0 and shutil.which("systemctl") is not None
    return Systemd() if usable and all(_shared(kind) for kind in ("mnt", "net", "pid")) else Detached()


def _shared(kind: str) -> bool:
    """Whether process 1 is in our namespace of that kind."""
    try:
        return os.path.samestat(os.stat(f"/proc/self/ns/{kind}"), os.stat(f"/proc/1/ns/{kind}"))
    except OSError:
        return False


class Systemd:
    """See `Supervisor`: a unit file each, enabled."""

    def start(self, name: str, description: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """See `Supervisor`."""
        durable.write_file(self._path(name), unit_text(description, command, environment).encode(), 0o644)
        self._call("daemon-reload")
        self._call("enable", f"{name}.service")
        self._call("restart", f"{name}.service")

    def forget(self, name: str) -> None:
        """See `Supervisor`. Also from inside the unit: nothing is waited for."""
        if os.path.lexists(self._path(name)):
            with contextlib.suppress(HostError):
                self._call("disable", f"{name}.service")
            durable.remove_file(self._path(name))
            with contextlib.suppress(HostError):
                self._call("daemon-reload")
        with contextlib.suppress(HostError):
            self._call("stop", "--no-block", f"{name}.service")

    def _path(self, name: str) -> str:
        return os.path.join(_UNITS, f"{name}.service")

    def _call(self, *arguments: str) -> None:
        try:
            done = subprocess.run(
                ["systemctl", "--quiet", "--no-ask-password", *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise HostError("systemctl cannot be run", why=str(error)) from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise HostError(
                f"systemctl {arguments[0]} failed",
                where=arguments[-1],
                why=said or f"exit status {done.returncode}",
                remedy="look at systemctl status, and at the host's journal",
            )


class Detached:
    """See `Supervisor`: a process in a session of its own."""

    def start(self, name: str, description: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """See `Supervisor`."""
        del name, description
        first = os.fork()
        if first == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    _become(command, environment)
            finally:
                os._exit(0)
        os.waitpid(first, 0)

    def forget(self, name: str) -> None:
        """See `Supervisor`: nobody starts it again."""
        del name


def _become(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Hold nothing of the agent's, and become the command. Does not return."""
    os.chdir("/")
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))
    for signal_number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGIO):
        signal.signal(signal_number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.execve(command[0], list(command), {**os.environ, **environment})  # noqa: S606 - no shell is the point


def unit_text(description: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit file."""
    settings = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items()))
    words = " ".join(_quoted(word).replace("$", "$$") for word in command)
    return _UNIT.format(description=description.replace("%", "%%"), command=words, environment=settings)


def _quoted(word: str) -> str:
    """A word as systemd reads it: C's escapes inside quotes, and no specifiers."""
    plain = "".join(
        char if char.isprintable() and char not in '"\\' else "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
        for char in word
    )
    return '"' + plain.replace("%", "%%") + '"'
