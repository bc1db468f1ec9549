"""The other direction: hosts that serve files to a lazy replica, and that it cannot connect to, connect to it.

At the replica's host a *door*, a long-running process, waits at one port. A host that serves comes to it and stays, as a guest,
by a connection (TLS, both certificates pinned) that carries nothing but `ComeIn`: whenever the replica wants a connection to
fetch over, the guest is told a ticket, and makes it. That one begins with the ticket, in clear, so that the door knows whom to
hand it to before TLS begins; who hands in a ticket has still to be that guest, by its certificate. No I/O here. Ships to servers.
"""

from __future__ import annotations

from typing import Optional, Tuple

from voltool.frozen import dataclass

#: Before the ticket. TLS never begins like this (RFC 8446, 5.1: the first byte of a handshake is 22).
MAGIC = b"voltool door 1\n"
TICKET_SIZE = 32
PREAMBLE_SIZE = len(MAGIC) + TICKET_SIZE


@dataclass(frozen=True)
class Door:
    """Where a door is: its ``addresses``, its ``port``, and the range it takes its port from after a reboot (``from-to`` or
    empty: any). ``port`` 0: there is none."""

    addresses: Tuple[str, ...] = ()
    port: int = 0
    ports: str = ""


@dataclass(frozen=True)
class OpenDoor:
    """Let a door wait for those who show one of the certificates ``peers`` (DER), with the key pair of ``purpose`` (see
    `MakeIdentity`), by a process that outlives this connection; it ends with the key pair. ``ports``: ``from-to`` or empty.
    Answered by `DoorOpened`. Repeatable: what runs and is right goes on, at its port."""

    purpose: str
    peers: Tuple[bytes, ...]
    ports: str = ""


@dataclass(frozen=True)
class DoorOpened:
    """Where it is, as far as this host knows."""

    door: Door


@dataclass(frozen=True)
class AwaitGuests:
    """Who of those who are let in is there? Answered by `Guests`, after ``timeout`` seconds at the latest, at once where somebody
    is."""

    purpose: str
    timeout: float


@dataclass(frozen=True)
class Guests:
    """The certificates of those who are there."""

    peers: Tuple[bytes, ...]


@dataclass(frozen=True)
class CloseDoor:
    """Nobody needs to come any more. Answered by `Done`. Idempotent."""

    purpose: str


@dataclass(frozen=True)
class ComeIn:
    """Of the door to a guest: connect once more, with this ticket. No answer but that."""

    ticket: bytes


def encode_preamble(ticket: bytes) -> bytes:
    """How a connection with a ticket begins."""
    assert len(ticket) == TICKET_SIZE
    return MAGIC + ticket


def decode_preamble(data: bytes) -> Optional[bytes]:
    """The ticket; None where it is something else."""
    return data[len(MAGIC) :] if len(data) == PREAMBLE_SIZE and data.startswith(MAGIC) else None
