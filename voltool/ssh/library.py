"""paramiko, as everything here imports it: without `invoke`, a third of what it takes to import it, which only its parser of ssh
configurations uses, for ``Match exec``. That parser is for machines without OpenSSH: see `resolve`.
"""

from __future__ import annotations

import sys
from typing import Any

_modules: dict[str, Any] = sys.modules
_left_out = "invoke" not in _modules
if _left_out:
    _modules["invoke"] = None  # an ImportError for whoever imports it, which paramiko is prepared for
try:
    import paramiko
finally:
    if _left_out:
        del _modules["invoke"]

__all__ = ["paramiko", "with_commands"]


def with_commands() -> None:
    """Let paramiko's parser run the commands of ``Match exec``."""
    import invoke
    import paramiko.config

    vars(paramiko.config)["invoke"] = invoke
