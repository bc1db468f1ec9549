"""The messages with whoever serves files to a lazy replica: a key pair, a process that serves, its end. The protocol between
that process and who asks it stands in `wire.fetching`. Part of what is shipped to servers.
"""

from __future__ import annotations

from typing import Optional, Tuple

from voltool.frozen import dataclass
from voltool.wire.doors import Door


@dataclass(frozen=True)
class MakeIdentity:
    """Make a key pair for ``purpose`` (a replica's id), or give the one that was made: it stays on this host. Answered by
    `IdentityReply`. Idempotent."""

    purpose: str


@dataclass(frozen=True)
class IdentityReply:
    """The certificate (DER)."""

    certificate: bytes


@dataclass(frozen=True)
class ServeFiles:
    """Serve the files of one tree to a lazy replica, by a process that outlives this connection: of the clone that is kept for
    ``replica_id`` (``what`` ``clone``), of the replica of the volume that is on this host (``replica``), or of the copy
    that the volume left here (``retired``). Only who shows ``peer`` (a certificate, DER) gets anything. ``ports``:
    ``from-to`` or empty. ``door``: connect to that one of the replica's host too, again whenever that breaks; None: as before.
    Answered by `FilesServed`. Repeatable."""

    uuid: str
    replica_id: str
    what: str
    peer: bytes
    ports: str = ""
    door: Optional[Door] = None


@dataclass(frozen=True)
class FilesServed:
    """Where, and the certificate (DER) that is shown. ``fault``: why the host is not at the door where it should be."""

    addresses: Tuple[str, ...]
    port: int
    certificate: bytes
    fault: str = ""


@dataclass(frozen=True)
class StopServing:
    """Serve no more; keys and records of it go. Answered by `Done`. Idempotent."""

    replica_id: str
