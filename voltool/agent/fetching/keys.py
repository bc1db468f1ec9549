"""The key pairs that a host keeps for a lazy replica, for as long as it is one. Ships to servers.

``<state>/keys/<purpose>.pem``, 0600. On the replica's host the purpose is the replica's id, on one that serves `serving_purpose`.
"""

from __future__ import annotations

import contextlib
import os

from voltool import durable
from voltool.agent.host import HostState
from voltool.agent.path.identity import Identity, load_identity, make_identity, save_identity
from voltool.errors import AgentError
from voltool.showing import shown
from voltool.wire.conversation import Conversation
from voltool.wire.serving import IdentityReply, MakeIdentity

KEYS = b"keys"


def answer_identity(request: MakeIdentity, conversation: Conversation, host: HostState) -> IdentityReply:
    """Handle `MakeIdentity`."""
    del conversation
    return IdentityReply(kept_identity(host, request.purpose).certificate)


def serving_purpose(replica_id: str) -> str:
    """For whoever serves to that replica: both may be one host."""
    return f"{replica_id}-served"


def kept_identity(host: HostState, purpose: str) -> Identity:
    """The one for that purpose, made and kept when first asked for. HostError."""
    path = _path(host, purpose)
    with contextlib.suppress(FileNotFoundError):
        return load_identity(path)
    durable.make_directory(os.path.dirname(path))
    identity = make_identity()
    save_identity(identity, path)
    return load_identity(path)  # two at once: whoever came last


def has_identity(host: HostState, purpose: str) -> bool:
    """Whether there is one."""
    return os.path.lexists(_path(host, purpose))


def drop_identity(host: HostState, purpose: str) -> None:
    """It is needed no more. Idempotent."""
    with contextlib.suppress(FileNotFoundError):
        durable.remove_file(_path(host, purpose))


def _path(host: HostState, purpose: str) -> bytes:
    if not purpose.replace("-", "").isalnum() or not purpose.isascii():
        raise AgentError("an id has a form that no voltool gives it", why=shown(purpose.encode(errors="replace")))
    return os.path.join(host.directory, KEYS, purpose.encode() + b".pem")
