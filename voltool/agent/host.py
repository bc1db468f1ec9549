"""Where the agent keeps things on its host, and who the host is. See docs/footprint.md.

Part of what is shipped to servers.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Mapping


@dataclass(frozen=True)
class HostState:
    """The state directory of this host (``$VOLTOOL_STATE_DIR``, else /var/lib/voltool for root, else
    ``$XDG_STATE_HOME/voltool``), and the host's identity."""

    directory: bytes
    hostname: str
    machine_id: str
    boot_id: str


def find_host_state(environment: Mapping[str, str], uid: int) -> HostState:
    """The host's state from the environment and /etc/machine-id; creates nothing."""
    return HostState(
        directory=os.fsencode(state_directory(environment, uid)),
        hostname=socket.gethostname(),
        machine_id=_first_line("/etc/machine-id"),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
    )


def state_directory(environment: Mapping[str, str], uid: int) -> str:
    """The path of the state directory."""
    if environment.get("VOLTOOL_STATE_DIR"):
        return os.path.abspath(environment["VOLTOOL_STATE_DIR"])
    if uid == 0:
        return "/var/lib/voltool"
    home = environment.get("XDG_STATE_HOME") or os.path.join(environment.get("HOME", "/"), ".local/state")
    return os.path.join(home, "voltool")


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
