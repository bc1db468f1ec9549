"""What this package needs of the world, as narrow protocols; cli/ passes the real ones in, tests pass others."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from voltool.model import KnownVolume
from voltool.wire.conversation import Conversation


class Hosts(Protocol):
    """Ways to agents. `remote.connect.RemoteHosts` is the real one."""

    def connect(self, host: str) -> AbstractContextManager[Conversation]:
        """A conversation with a fresh agent on ``host`` (``Hello`` already done); leaving the context ends the agent.

        Raises UnreachableError, HostError (python3 missing or too old, with the remedy).
        """


class Volumes(Protocol):
    """The catalog, as far as volumes go."""

    def volume(self, name: str) -> KnownVolume:
        """NotFoundError with the names that are known."""


class World(Protocol):
    """The collaborators of a job."""

    @property
    def hosts(self) -> Hosts:
        """Where volumes live."""

    @property
    def catalog(self) -> Volumes:
        """What is known of them here."""
