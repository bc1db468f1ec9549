"""Where the agent keeps things on its host, and who the host is. See docs/footprint.md.

Part of what is shipped to servers.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Mapping

from voltool.statedir import state_directory


@dataclass(frozen=True)
class HostState:
    """The state directory of this host (see `voltool.statedir`), and the host's identity."""

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


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
