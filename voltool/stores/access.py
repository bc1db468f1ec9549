"""How a store on another machine is reached: what the configuration says of its host. Knows no kind of store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from voltool.events import Reporter, Silent
from voltool.ssh.secrets import Secrets


@dataclass(frozen=True)
class StoreAccess:
    """``transport``: ``paramiko`` or ``openssh``. ``connect_timeout`` and ``silence_timeout`` in seconds. ``ssh_config``: instead
    of ~/.ssh/config. ``reporter`` is told what a person should know of the server."""

    transport: str = "paramiko"
    connect_timeout: float = 20.0
    silence_timeout: float = 120.0
    ssh_config: str | None = None
    secrets: Secrets = field(default_factory=Secrets)
    reporter: Reporter = field(default_factory=Silent)


#: The access to a host as it stands in a store's URL (``user@host:port``).
AccessTo = Callable[[str], StoreAccess]
