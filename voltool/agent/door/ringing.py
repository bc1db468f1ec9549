"""What the processes of a lazy replica want of its door, over its socket: who is there, and connections. Ships to servers.

The socket lies in a directory that only its owner enters. One question a connection, a line of JSON; the answer is one too, with
which a connection comes along as a descriptor. TLS on it is made here, so that the door has no part in what passes.
Sources: unix(7) (SCM_RIGHTS; a path has at most 107 bytes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from typing import Any, Dict, Iterator, List, Tuple

from voltool.agent.path.contexts import server_context
from voltool.agent.path.greeting import welcome
from voltool.agent.path.identity import Identity
from voltool.agent.path.link import Link
from voltool.errors import UnreachableError, VoltoolError

SUFFIX = b".sock"
MOST = 65_536
#: What the door may take besides the time that it was given, seconds.
_GRACE = 2.0


def name_of(certificate: bytes) -> str:
    """How a guest is called in what is said over the socket."""
    return hashlib.sha256(certificate).hexdigest()


@contextlib.contextmanager
def short_path(directory: bytes, purpose: str) -> Iterator[str]:
    """The socket's path, short enough for any kernel while the context lasts. OSError."""
    place = os.open(os.path.join(directory, b"daemons"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{place}/door-{purpose}{SUFFIX.decode()}"
    finally:
        os.close(place)


def guests(directory: bytes, purpose: str, timeout: float) -> Tuple[bytes, ...]:
    """The certificates of who is there, waiting up to ``timeout`` seconds for the first. UnreachableError: there is no door."""
    answer, _descriptors = _ask(directory, purpose, {"who": timeout}, timeout)
    return tuple(bytes.fromhex(each) for each in answer["guests"])


def take_link(directory: bytes, purpose: str, identity: Identity, peer: bytes, timeout: float) -> Link:
    """A new connection with the guest who has the certificate ``peer``. UnreachableError, with why there is none."""
    deadline = time.monotonic() + timeout
    answer, descriptors = _ask(directory, purpose, {"take": name_of(peer), "timeout": timeout}, timeout)
    if not descriptors:
        raise UnreachableError("a host that serves files is not there", why=str(answer.get("why", "")))
    raw = socket.socket(fileno=descriptors[0])
    try:
        raw.settimeout(timeout)
        connection = server_context(identity, [peer]).wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
    except BaseException:
        raw.close()
        raise
    try:
        return Link(connection, welcome(connection, [peer], b"", deadline))
    except (OSError, VoltoolError, ValueError) as error:
        connection.close()
        raise UnreachableError("a host that serves files came and was not let in", why=str(error)) from None


def _ask(directory: bytes, purpose: str, question: Dict[str, Any], timeout: float) -> Tuple[Dict[str, Any], List[int]]:
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(timeout + _GRACE)
            with short_path(directory, purpose) as path:
                asking.connect(path)
            asking.sendall(json.dumps(question).encode() + b"\n")
            data, descriptors = _receive(asking)
    except OSError as error:
        raise UnreachableError(
            "nobody waits for the hosts that serve files", why=error.strerror or str(error),
            remedy="voltool replica sync NAME; of a lazy move: voltool move --resume NAME",
        ) from None  # fmt: skip
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {"why": "the door went away"}
    return answer, descriptors


def _receive(asking: socket.socket) -> Tuple[bytes, List[int]]:
    data, found = b"", []
    while not data.endswith(b"\n") and len(data) < MOST:
        part, descriptors, _flags, _address = socket.recv_fds(asking, MOST, 1)
        found += descriptors
        if not part:
            break
        data += part
    for descriptor in found:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - so it is called
    return data, found
