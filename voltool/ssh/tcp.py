"""The TCP connection below SSH: opened, watched by the kernel, prompt. Knows no SSH.

Sources: tcp(7); RFC 896 (Nagle) and RFC 1122 section 4.2.3.2 (delayed acknowledgements), which together cost 40 ms wherever a
server says two short things one after the other: OpenSSH's sets TCP_NODELAY only for a session with a terminal.
"""

from __future__ import annotations

import socket

from voltool.ssh.resolve import Destination

#: TCP gives up later than we do, who can say why: milliseconds for a second of the time-out of silence.
_KERNEL_WAITS = 1500
#: Who asks for so little wants the head of a packet; the rest of it has come with it, or comes at once.
_SHORT = 64


class PromptSocket(socket.socket):
    """A TCP socket that acknowledges at once what begins a packet, so that the server may go on."""

    def recv(self, limit: int, flags: int = 0, /) -> bytes:
        """See `socket.socket.recv`."""
        data = super().recv(limit, flags)
        if limit <= _SHORT:
            # It does not last: the kernel goes back to delaying by itself.
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


def open_socket(destination: Destination, connect_timeout: float, silence_timeout: float) -> socket.socket:
    """A connection to wherever the name leads that answers first. Seconds; the ssh configuration's own time-out goes first.
    Raises OSError."""
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(destination.address_family, socket.AF_UNSPEC)
    timeout = destination.connect_timeout or connect_timeout
    last: OSError = OSError("no address")
    for kind, _, _, _, address in socket.getaddrinfo(destination.address, destination.port, family, socket.SOCK_STREAM):
        connection = PromptSocket(kind, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_timeout * _KERNEL_WAITS))
        return connection
    raise last
