"""An SSH connection by paramiko: reached directly, by ProxyJump or ProxyCommand; host key checked; logged in; fast.

Sources for the numbers: measured against OpenSSH 9.2 on loopback; RFC 4253 section 9 for rekeying.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from voltool.errors import UnreachableError
from voltool.events import Notice, Reporter
from voltool.ssh import hostkeys
from voltool.ssh.authentication import authenticate
from voltool.ssh.library import paramiko
from voltool.ssh.paramiko_channel import ChannelStream, PieceChannels
from voltool.ssh.resolve import Destination, resolve
from voltool.ssh.secrets import Secrets
from voltool.ssh.tcp import open_socket

#: What the server may send before we confirm: 1 Gbit/s at a round trip of 120 ms. A much larger window makes OpenSSH's
#: server slow, since it copies its output buffer around; small packets do the same.
WINDOW_SIZE = 16 << 20
PACKET_SIZE = 512 << 10
#: paramiko's own rekeying fails under load (it stops sending but not receiving, and times out). The server starts a
#: new key exchange itself in time (OpenSSH: RekeyLimit, by default 64 GiB with AES), and that works.
_NEVER = 1 << 50
_FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_KEEPALIVE = 30
_AUTH_TIMEOUT = 120.0
_REKEY_TIMEOUT = 600.0
_MAX_JUMPS = 8
_LOG = "voltool.ssh.paramiko"


@dataclass(frozen=True)
class SshSettings:
    """How to connect: seconds until a host counts as not answering, ssh config (None: the user's), secrets, reporter;
    seconds until a connection whose data is not acknowledged counts as dead."""

    reporter: Reporter
    connect_timeout: float = 20.0
    config_file: str | None = None
    secrets: Secrets = field(default_factory=Secrets)
    silence_timeout: float = 120.0


class Connection:
    """A logged-in connection and the jumps below it. ``run`` starts a command; ``close`` drops everything."""

    def __init__(
        self, transport: paramiko.Transport, carrier: socket.socket | paramiko.Channel, below: Callable[[], None]
    ) -> None:
        self.transport = transport
        self._carrier = carrier
        self._below = below

    def run(self, command: str, listener: Callable[[bytes], None] | None = None) -> ChannelStream:
        """Start ``command`` by the login shell; closing the stream closes the connection. Raises UnreachableError."""
        try:
            channel = self.transport.open_session()
            return ChannelStream(channel, command, listener=listener, on_close=self.close)
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise UnreachableError("the server does not start commands", why=str(error)) from None

    def tunnel(self, address: str, port: int, timeout: float) -> paramiko.Channel:
        """A channel to ``address`` as the server sees it (ProxyJump)."""
        return self.transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout)

    def close(self) -> None:
        """Drop the connection and what it stands on. Idempotent."""
        self.transport.close()
        self._carrier.close()
        self._below()


def connect(host: str, settings: SshSettings) -> Connection:
    """Connect to HOST. Raises UsageError (what HOST is), UnreachableError (everything else)."""
    return _connect(resolve(host, settings.config_file), settings, depth=0)


def _connect(destination: Destination, settings: SshSettings, depth: int) -> Connection:
    if depth > _MAX_JUMPS:
        raise UnreachableError("too many jumps", where=destination.host, why="ProxyJump goes in a circle")
    with _translated(destination):
        if destination.proxy_jump:
            return _by_jump(destination, settings, depth)
        if destination.proxy_command:
            connection, process = _start_proxy_command(destination.proxy_command)
            return _log_in(connection, destination, settings, lambda: _end_process(process))
        tcp = open_socket(destination, settings.connect_timeout, settings.silence_timeout)
        return _log_in(tcp, destination, settings, lambda: None)


@contextlib.contextmanager
def _translated(destination: Destination) -> Iterator[None]:
    try:
        yield
    except (paramiko.SSHException, OSError, EOFError) as error:
        where = f"{destination.host}: {destination.address} port {destination.port}"
        if isinstance(error, socket.gaierror):
            why = f"the name is not known ({error.strerror})"
        elif isinstance(error, TimeoutError):
            why = "it does not answer in time"
        else:
            why = str(error) or "the connection was closed"
        raise UnreachableError(
            "the host cannot be reached", where=where, why=why, remedy=f"ssh {destination.host}"
        ) from None


def _by_jump(destination: Destination, settings: SshSettings, depth: int) -> Connection:
    hops = [
        resolve(hop.strip().removeprefix("ssh://"), settings.config_file) for hop in destination.proxy_jump.split(",")
    ]
    # As OpenSSH: the first hop is reached by its own means, each further one through the hop before it.
    connection = _connect(hops[0], settings, depth + 1)
    try:
        for hop in (*hops[1:], destination):
            target = replace(hop, proxy_jump="", proxy_command="")
            timeout = settings.connect_timeout
            channel = connection.tunnel(target.address, target.port, timeout)
            connection = _log_in(channel, target, settings, connection.close)
    except BaseException:
        connection.close()
        raise
    return connection


def _start_proxy_command(command: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"], stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True
        )
    return ours, process


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _log_in(
    carrier: socket.socket | paramiko.Channel,
    destination: Destination,
    settings: SshSettings,
    below: Callable[[], None],
) -> Connection:
    """The handshake over ``carrier``, the check of the host key, the log-in. Closes everything when it fails."""
    try:
        transport = _make_transport(carrier, settings)
    except BaseException:
        carrier.close()
        below()
        raise
    connection = Connection(transport, carrier, below)
    try:
        known = hostkeys.known_keys(destination)
        for line in known.skipped:
            settings.reporter.report(Notice("info", f"skipped a line of known_hosts: {line}"))
        _prefer(transport, known.key_types())
        transport.start_client(timeout=settings.connect_timeout)
        offered = transport.get_remote_server_key()
        hostkeys.check(destination, known, hostkeys.HostKey(offered.get_name(), offered.asbytes()))
        authenticate(transport, destination, settings.secrets)
        transport.set_keepalive(destination.alive_interval or _KEEPALIVE)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_transport(carrier: Any, settings: SshSettings) -> paramiko.Transport:
    log = logging.getLogger(_LOG)
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # or paramiko's threads write to the terminal
        log.propagate = False
    transport = paramiko.Transport(carrier, default_window_size=WINDOW_SIZE, default_max_packet_size=PACKET_SIZE)
    transport.set_log_channel(_LOG)
    transport.banner_timeout = settings.connect_timeout
    transport.handshake_timeout = settings.connect_timeout
    transport.auth_timeout = _AUTH_TIMEOUT
    transport.clear_to_send_timeout = _REKEY_TIMEOUT
    # The only place where a channel can be had before it is open; not public (ChannelStream notices its loss).
    vars(transport)["_channels"] = PieceChannels()
    packetizer = transport.packetizer
    for limit in ("REKEY_BYTES", "REKEY_PACKETS", "REKEY_BYTES_OVERFLOW_MAX", "REKEY_PACKETS_OVERFLOW_MAX"):
        setattr(packetizer, limit, _NEVER)
    return transport


def _prefer(transport: paramiko.Transport, known_types: Sequence[str]) -> None:
    """AES-GCM first (hardware does it, one pass), and the host key types that we know first."""
    options = transport.get_security_options()
    ciphers = tuple(options.ciphers)
    options.ciphers = tuple(name for name in _FAST_CIPHERS if name in ciphers) + tuple(
        name for name in ciphers if name not in _FAST_CIPHERS
    )
    algorithms = tuple(options.key_types)
    known = {"rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"} if "ssh-rsa" in known_types else set()
    known |= set(known_types)
    options.key_types = tuple(name for name in algorithms if name in known) + tuple(
        name for name in algorithms if name not in known
    )
