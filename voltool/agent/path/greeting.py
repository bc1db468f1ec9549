"""From a TCP connection to a trusted one: TLS, certificates, the token; nothing else is said before. Ships to servers.

The end that connects speaks first: `_MAGIC`, the token. The end that listens compares, and says `_WELCOME` or nothing at all.
All of it within a deadline, however slowly the other end drips.
"""

from __future__ import annotations

import hmac
import socket
import ssl
import time
from typing import Sequence

from voltool.agent.path.contexts import check_peer
from voltool.errors import PathBrokenError

_MAGIC = b"voltool path 1\n"
_WELCOME = b"+"


def welcome(connection: ssl.SSLSocket, peers: Sequence[bytes], token: bytes, deadline: float) -> bytes:
    """The end that listens: the certificate of who came. ``deadline`` of time.monotonic(). OSError or PathBrokenError for whoever
    is not the peer."""
    connection.settimeout(_left(deadline))
    connection.do_handshake()
    peer = check_peer(connection, peers)
    wanted = _MAGIC + token
    if not hmac.compare_digest(_read(connection, len(wanted), deadline), wanted):
        raise PathBrokenError("the other end of the direct path does not know the token")
    connection.settimeout(_left(deadline))
    connection.sendall(_WELCOME)
    return peer


def shake_hands(connection: ssl.SSLSocket, peer: bytes, deadline: float) -> None:
    """The end that connects, up to the certificates: nothing secret has been said yet. OSError, PathBrokenError."""
    connection.settimeout(_left(deadline))
    connection.do_handshake()
    check_peer(connection, (peer,))


def introduce(connection: ssl.SSLSocket, token: bytes, deadline: float) -> None:
    """The end that connects says the token, and hears that it is welcome. OSError, PathBrokenError."""
    connection.settimeout(_left(deadline))
    connection.sendall(_MAGIC + token)
    if _read(connection, len(_WELCOME), deadline) != _WELCOME:
        raise PathBrokenError("the other end of the direct path does not welcome us")


def _read(connection: ssl.SSLSocket, length: int, deadline: float) -> bytes:
    data = b""
    while len(data) < length:
        connection.settimeout(_left(deadline))
        piece = connection.recv(length - len(data))
        if not piece:
            raise PathBrokenError("the other end of the direct path went away", why="it may not know our certificate")
        data += piece
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout("timed out")
    return left
