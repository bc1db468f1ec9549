"""The system's own ssh client as a `Stream`: for hardware keys, ControlMaster, Kerberos. It asks on the terminal itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from voltool.errors import UnreachableError
from voltool.ssh.resolve import parse_host
from voltool.ssh.stream import ProcessStream


def open_command(
    host: str,
    command: str,
    *,
    config_file: str | None,
    connect_timeout: float,
    silence_timeout: float,
    interactive: bool,
    listener: Callable[[bytes], None] | None = None,
    subsystem: bool = False,
) -> ProcessStream:
    """Run ``command`` on ``host``, or start the ``subsystem`` of that name. Host keys are checked strictly; without
    ``interactive`` nothing is asked."""
    client = shutil.which("ssh")
    if client is None:
        raise UnreachableError(
            "there is no ssh client on this machine",
            where=host,
            remedy='install openssh-client, or transport = "paramiko"',
        )
    name = parse_host(host)
    arguments = [client, "-T", "-e", "none", "-o", "StrictHostKeyChecking=yes"]
    arguments += [
        "-o",
        f"BatchMode={'no' if interactive else 'yes'}",
        "-o",
        f"ConnectTimeout={int(connect_timeout) or 1}",
    ]
    arguments += ["-o", f"ServerAliveInterval={max(1, int(silence_timeout / 4))}", "-o", "ServerAliveCountMax=4"]
    arguments += ["-o", "RequestTTY=no", *(["-s"] if subsystem else [])]
    if config_file:
        arguments += ["-F", config_file]
    if name.user:
        arguments += ["-l", name.user]
    if name.port:
        arguments += ["-p", str(name.port)]
    # In our own session it could not ask on the terminal.
    return ProcessStream([*arguments, "--", name.name, command], listener=listener, own_session=not interactive)
