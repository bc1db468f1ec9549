"""Where voltool keeps its state, on the machine of the command line and on a server alike: one rule. Ships to servers.

Creates nothing; docs/footprint.md says what lies there.
"""

from __future__ import annotations

import os
from typing import Mapping

SYSTEM = "/var/lib/voltool"


def state_directory(environment: Mapping[str, str], uid: int) -> str:
    """``$VOLTOOL_STATE_DIR``, else /var/lib/voltool for root, else ``$XDG_STATE_HOME/voltool`` (~/.local/state)."""
    if environment.get("VOLTOOL_STATE_DIR"):
        return os.path.abspath(environment["VOLTOOL_STATE_DIR"])
    if uid == 0:
        return SYSTEM
    base = environment.get("XDG_STATE_HOME") or os.path.join(environment.get("HOME", "/"), ".local/state")
    return os.path.join(base, "voltool")
