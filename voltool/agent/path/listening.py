"""The end of a direct path that waits to be connected to, at a port that anybody can reach. Ships to servers.

A stranger gets nothing and blocks nothing: each connection has a thread and a deadline of its own, and where too many are
pending the oldest goes, so that silent ones cannot keep the peer out. Sources: socket(7), ipv6(7).
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import re
import socket
import ssl
import threading
import time
from typing import Callable, Deque, Dict, List, Optional, Sequence, Tuple

from voltool.agent.path.addresses import own_addresses
from voltool.agent.path.contexts import server_context
from voltool.agent.path.greeting import welcome
from voltool.agent.path.identity import Identity
from voltool.agent.path.link import SILENCE, Link, hang_up
from voltool.errors import HostError, PathBrokenError, UsageError, VoltoolError

#: What a handshake may take, seconds.
PATIENCE = 10.0
_MOST_PENDING = 64
_BACKLOG = 1024
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_MOST_PORT = 65_535

#: Given a connection before TLS begins, and until when (time.monotonic()): whether it has taken it. Raises what is wrong with it.
Claim = Callable[[ssl.SSLSocket, float], bool]


class Listener:
    """Listens from its making to `close`, at one port on all addresses, IPv4 and IPv6.

    ``peers``: the certificates (DER) of those who are let in, if they know ``token``. ``ports``: ``from-to``, empty: any.
    ``links``: after so many the port is closed (0: it stays open for more). ``patience``: seconds for each handshake;
    ``silence`` as of `Link`; ``claim`` may take connections. HostError where no port can be had, UsageError where
    ``ports`` is no range.
    """

    def __init__(
        self,
        identity: Identity,
        peers: Sequence[bytes],
        ports: str = "",
        *,
        token: bytes = b"",
        links: int = 1,
        patience: float = PATIENCE,
        silence: float = SILENCE,
        claim: Claim = lambda _connection, _deadline: False,
    ) -> None:
        self._claim = claim
        self._context = server_context(identity, peers)
        self._peers = tuple(peers)
        self._token = token
        self._wanted = links
        self._patience = patience
        self._silence = silence
        self._changed = threading.Condition()
        self._ready: Deque[Link] = collections.deque()
        self._made = 0
        self._pending: Dict[int, ssl.SSLSocket] = {}  # by number, oldest first
        self._number = 0
        self._open = True
        self._socket = _bind(ports)
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, name="voltool-listener", daemon=True).start()

    def addresses(self, *, loopback: bool = False) -> List[str]:
        """Where others might reach it, see `own_addresses`."""
        return own_addresses(os.environ, loopback=loopback)

    def accept(self, timeout: Optional[float] = None) -> Link:
        """The next link, for any thread. PathBrokenError where none comes within ``timeout`` seconds, or it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._open, timeout)
            if self._ready:
                return self._ready.popleft()
            why = f"nobody came within {timeout:g} s" if self._open and timeout is not None else "it waits no more"
        raise PathBrokenError("no direct path came about", where=f"port {self.port}", why=why)

    def close(self) -> None:
        """Listen no more; links that were not taken, and who is just shaking hands, are dropped. Idempotent."""
        self._close_port()
        with self._changed:
            for connection in self._pending.values():
                hang_up(connection)
            while self._ready:
                self._ready.popleft().close()

    def _close_port(self) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()

    def _serve(self) -> None:
        while self._open:
            try:
                raw, _address = self._socket.accept()
            except OSError as error:
                if error.errno in (errno.EBADF, errno.EINVAL):
                    return
                time.sleep(0.05)  # out of descriptors or memory
                continue
            self._begin(raw)

    def _begin(self, raw: socket.socket) -> None:
        try:
            connection = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # gone already
            raw.close()
            return
        number = self._admit(connection)
        greeting = threading.Thread(target=self._greet, args=(number, connection), name="voltool-greet", daemon=True)
        try:
            greeting.start()
        except RuntimeError:  # no more threads
            self._forget(number)
            connection.close()

    def _admit(self, connection: ssl.SSLSocket) -> int:
        with self._changed:
            if len(self._pending) >= _MOST_PENDING:
                hang_up(self._pending.pop(next(iter(self._pending))))
            self._number += 1
            self._pending[self._number] = connection
            return self._number

    def _forget(self, number: int) -> None:
        with self._changed:
            self._pending.pop(number, None)

    def _greet(self, number: int, connection: ssl.SSLSocket) -> None:
        deadline = time.monotonic() + self._patience
        try:
            if self._claim(connection, deadline):
                return
            peer = welcome(connection, self._peers, self._token, deadline)
            link = Link(connection, peer, self._silence)
        except (OSError, VoltoolError, ValueError):  # a stranger
            connection.close()
            return
        finally:
            self._forget(number)
        self._hand_over(link)

    def _hand_over(self, link: Link) -> None:
        with self._changed:
            if self._open:
                self._made += 1
                if self._made == self._wanted:
                    self._close_port()  # before anybody knows that there is a link
                self._ready.append(link)
                self._changed.notify_all()
                return
        link.close()


def parse_ports(text: str) -> Tuple[int, int]:
    """The first and the last port of ``from-to``; (0, 0) for an empty one: any. UsageError."""
    if not text:
        return 0, 0
    found = _RANGE.fullmatch(text)
    first, last = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < first <= last <= _MOST_PORT:
        raise UsageError(f"that is no range of ports: {text!a}", remedy="such as 50000-50100")
    return first, last


def _bind(ports: str) -> socket.socket:
    first, last = parse_ports(ports)
    why = ""
    for port in range(first, last + 1):
        listening, why = _try_port(port)
        if listening is not None:
            return listening
    raise HostError(
        "the host has no port to wait at for the other one",
        where=f"ports {ports}" if ports else "",
        why=why,
        remedy="another range for it in the configuration ([hosts.NAME] ports = ...)",
    )


def _try_port(port: int) -> Tuple[Optional[socket.socket], str]:
    try:
        return _listen(port), ""
    except OSError as error:
        return None, error.strerror or str(error)


def _listen(port: int) -> socket.socket:
    try:
        return _listen_at(socket.AF_INET6, ("::", port))  # IPv4 too
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
    return _listen_at(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 - the other host may come from anywhere


def _listen_at(family: int, address: Tuple[str, int]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
