"""The verbs OpenDoor, AwaitGuests and CloseDoor, and what is kept of a door: ``daemons/door-PURPOSE.*``. Ships to servers.

Who waits at it is a long-running process (`agent.door.keeping`); whoever wants something of it asks by its socket
(`agent.door.ringing`).
"""

from __future__ import annotations

import dataclasses
import os
from typing import Optional, Tuple

from voltool.agent.daemon import Daemon
from voltool.agent.door.ringing import guests
from voltool.agent.fetching.keys import has_identity, kept_identity
from voltool.agent.host import HostState
from voltool.agent.path.addresses import own_addresses
from voltool.agent.path.listening import parse_ports
from voltool.frozen import dataclass
from voltool.wire.codec import from_plain, to_plain
from voltool.wire.conversation import Conversation
from voltool.wire.doors import AwaitGuests, CloseDoor, Door, DoorOpened, Guests, OpenDoor
from voltool.wire.messages import Done

KIND = "door"


@dataclass(frozen=True)
class DoorWishes:
    """``peers`` are the certificates (DER) of those who may come, ``port`` the one it had last time."""

    peers: Tuple[bytes, ...]
    ports: str
    port: int = 0


class DoorBook:
    """What is kept of the door for ``purpose``."""

    def __init__(self, directory: bytes, purpose: str) -> None:
        self.daemon = Daemon(directory, KIND, purpose)

    def wishes(self) -> Optional[DoorWishes]:
        """What it shall do; None where there is no such door."""
        plain = self.daemon.wishes()
        wishes: Optional[DoorWishes] = from_plain(DoorWishes, plain) if plain is not None else None
        return wishes

    def save(self, wishes: DoorWishes) -> None:
        """Write it down."""
        self.daemon.save(to_plain(wishes))


def open_door(request: OpenDoor, conversation: Conversation, host: HostState) -> DoorOpened:
    """Handle `OpenDoor`."""
    del conversation
    parse_ports(request.ports)
    book = DoorBook(host.directory, request.purpose)
    with book.daemon.controlled():
        kept_identity(host, request.purpose)
        known = book.wishes()
        wishes = DoorWishes(request.peers, request.ports, known.port if known is not None else 0)
        running = book.daemon.running()
        if running is None or not running.ready or known != wishes or not book.daemon.is_current():
            book.save(wishes)
            running = book.daemon.start(f"voltool: lets hosts come that serve files to {request.purpose}")
        port = int(running.facts["port"])
        if port != wishes.port:
            book.save(dataclasses.replace(wishes, port=port))
    return DoorOpened(Door(tuple(own_addresses(os.environ, loopback=True)), port, request.ports))


def await_guests(request: AwaitGuests, conversation: Conversation, host: HostState) -> Guests:
    """Handle `AwaitGuests`. UnreachableError where nobody waits at the door."""
    del conversation
    return Guests(guests(host.directory, request.purpose, request.timeout))


def close_door(request: CloseDoor, conversation: Conversation, host: HostState) -> Done:
    """Handle `CloseDoor`."""
    del conversation
    end_door(host, request.purpose)
    return Done()


def end_door(host: HostState, purpose: str) -> None:
    """It is there no more, and nothing of it; the key pair stays. Idempotent. HostError where its process does not end."""
    daemon = DoorBook(host.directory, purpose).daemon
    if daemon.wishes() is not None:
        with daemon.controlled():
            daemon.remove()


def is_wanted(host: HostState, purpose: str) -> bool:
    """Whether the replica is still one that is being filled: as long as it has its key pair."""
    return has_identity(host, purpose)
