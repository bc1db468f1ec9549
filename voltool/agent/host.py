"""Where the agent keeps things on its host, and who the host is. See docs/footprint.md.

Part of what is shipped to servers.
"""

from __future__ import annotations

import os
from typing import Mapping

from voltool.frozen import dataclass
from voltool.machine import first_line, this_machine
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
    machine = this_machine()
    return HostState(
        directory=os.fsencode(state_directory(environment, uid)),
        hostname=machine.hostname,
        machine_id=machine.machine_id,
        boot_id=first_line("/proc/sys/kernel/random/boot_id"),
    )
