"""The end of a direct path that connects to the one that listens. Ships to servers.

All addresses are tried at once. Who answers must prove to be the peer before the token is said, and it is said to one alone; so
whatever else listens at such an address, of this host or another, learns nothing, and there is one link.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
from typing import Dict, List, Optional, Sequence, Tuple

from voltool.agent.path.contexts import client_context
from voltool.agent.path.greeting import introduce, shake_hands
from voltool.agent.path.identity import Identity
from voltool.agent.path.link import SILENCE, Link
from voltool.errors import UnreachableError, VoltoolError

_MOST_ADDRESSES = 32
#: Between two attempts at an address where somebody hung up in the middle of the handshake, seconds.
_AGAIN = 0.1


def join(
    identity: Identity,
    peer: bytes,
    addresses: Sequence[str],
    port: int,
    token: bytes,
    timeout: float,
    *,
    silence: float = SILENCE,
    preamble: bytes = b"",
) -> Link:
    """A link to the `Listener` at one of the ``addresses`` that holds the key of the certificate ``peer`` (DER). ``preamble`` is
    sent before TLS begins, in clear.

    UnreachableError, with what happened at each address, where none is made within ``timeout`` seconds."""
    attempts = _Attempts(identity, peer, port, time.monotonic() + timeout, preamble)
    try:
        return Link(attempts.first(addresses[:_MOST_ADDRESSES], token), peer, silence)
    finally:
        attempts.stop()


class _Attempts:
    """One thread an address, up to the certificates; then one at a time, in the order in which they got there."""

    def __init__(self, identity: Identity, peer: bytes, port: int, deadline: float, preamble: bytes) -> None:
        self._preamble = preamble
        self._context = client_context(identity, peer)
        self._peer = peer
        self._port = port
        self._deadline = deadline
        self._results: queue.Queue[Optional[ssl.SSLSocket]] = queue.Queue()
        self._stopped = threading.Event()
        self._why: Dict[str, str] = {}

    def first(self, addresses: Sequence[str], token: bytes) -> ssl.SSLSocket:
        """The first that welcomes us."""
        for address in addresses:
            threading.Thread(target=self._try, args=(address,), name="voltool-join", daemon=True).start()
        for _each in addresses:
            try:
                connection = self._results.get(timeout=max(0.0, self._deadline - time.monotonic()))
            except queue.Empty:
                break
            if connection is None:
                continue
            try:
                introduce(connection, token, self._deadline)
            except (OSError, VoltoolError) as error:
                self._why[f"port {self._port}"] = _reason(error)
                connection.close()
            else:
                return connection
        raise self._unreachable(addresses)

    def stop(self) -> None:
        """Who comes now comes too late."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):
            while True:
                late = self._results.get_nowait()
                if late is not None:
                    late.close()

    def _try(self, address: str) -> None:
        """Until it is clear what is at that address. Who hangs up in the middle may have too many strangers to care for."""
        connection, again = self._attempt(address)
        while again and time.monotonic() + _AGAIN < self._deadline and not self._stopped.wait(_AGAIN):
            connection, again = self._attempt(address)
        self._results.put(connection)
        if self._stopped.is_set():
            self.stop()

    def _attempt(self, address: str) -> Tuple[Optional[ssl.SSLSocket], bool]:
        try:
            return self._shake_hands(address), False
        except (OSError, VoltoolError, ValueError) as error:
            self._why[address] = _reason(error)
            return None, isinstance(error, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError))

    def _shake_hands(self, address: str) -> ssl.SSLSocket:
        left = max(0.01, self._deadline - time.monotonic())
        raw = socket.create_connection((address, self._port), timeout=left)
        try:
            if self._preamble:
                raw.sendall(self._preamble)
            connection = self._context.wrap_socket(raw, do_handshake_on_connect=False)
        except BaseException:
            raw.close()
            raise
        try:
            shake_hands(connection, self._peer, self._deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def _unreachable(self, addresses: Sequence[str]) -> UnreachableError:
        reasons: List[str] = [f"{address}: {self._why.get(address, 'no answer in time')}" for address in addresses]
        reasons += [f"{place}: {why}" for place, why in self._why.items() if place not in addresses]
        return UnreachableError(
            "the other host cannot be reached directly",
            where=f"port {self._port}",
            why="; ".join(reasons) or "it has no address but its own",
        )


def _reason(error: Exception) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "who answers is not the other host"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error)
