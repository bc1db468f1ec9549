"""What TLS shall demand: version 1.3, and a certificate from both ends that is one of those that were named. Ships to servers.

Two checks, each of which would do alone: the named certificates are the only trust anchors, and after the handshake what the
other end has shown is compared byte by byte (`check_peer`). Dates are not checked: the hosts' clocks may be wrong, and trust
comes from the command line. Sources: SSL_CTX_set_verify(3), X509_VERIFY_PARAM_set_flags(3).
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import ssl
from typing import Iterator, Sequence

from voltool.agent.path.identity import Identity
from voltool.errors import HostError, PathBrokenError

_NO_CHECK_TIME = 0x200000
_PARTIAL_CHAIN = 0x80000


def server_context(identity: Identity, peers: Sequence[bytes]) -> ssl.SSLContext:
    """For the end that listens: shows ``identity``, lets in who holds the key of one of the certificates ``peers`` (DER).
    HostError where TLS here cannot do that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody comes back
    return _restrict(context, identity, peers)


def client_context(identity: Identity, peer: bytes) -> ssl.SSLContext:
    """For the end that connects: shows ``identity``, speaks only with who holds the key of the certificate ``peer`` (DER).
    HostError where TLS here cannot do that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # there are no names in these certificates; check_peer compares all of it
    return _restrict(context, identity, (peer,))


def check_peer(connection: ssl.SSLSocket, peers: Sequence[bytes]) -> bytes:
    """After the handshake: the certificate of the other end, which is one of ``peers``; else PathBrokenError."""
    shown = connection.getpeercert(binary_form=True) or b""
    if connection.version() != "TLSv1.3" or not any(hmac.compare_digest(shown, peer) for peer in peers):
        raise PathBrokenError("the other end of the direct path is not who it should be")
    return shown


def _restrict(context: ssl.SSLContext, identity: Identity, peers: Sequence[bytes]) -> ssl.SSLContext:
    try:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= _NO_CHECK_TIME | _PARTIAL_CHAIN
        context.load_verify_locations(cadata=b"".join(peers))
        with _in_memory(identity.pem()) as path:
            context.load_cert_chain(path)
    except (OSError, ValueError) as error:
        raise HostError("TLS cannot be set up on this host", why=f"{error} ({ssl.OPENSSL_VERSION})") from None
    return context


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A file that no disk ever sees: `ssl` reads keys only from files. OSError where this python cannot make one."""
    make = getattr(os, "memfd_create", None)  # not there where python was built for an old libc
    if make is None:
        raise OSError(errno.ENOSYS, "its python3 has no memfd_create")
    descriptor = make("voltool-path")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
