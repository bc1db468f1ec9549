"""The direct path that an agent's connection holds, and where the data of a transfer goes. Ships to servers.

Imports what knows TLS only when a path is wanted: most agents never need one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Iterator, Optional, Protocol

from voltool.durable import FileLock
from voltool.errors import AgentError, PathBrokenError
from voltool.wire.conversation import Buffer, Conversation
from voltool.wire.messages import Message

if TYPE_CHECKING:
    import socket

    from voltool.agent.path.identity import Identity
    from voltool.agent.path.link import Link
    from voltool.agent.path.listening import Listener


class DataWay(Protocol):
    """Where data frames and `EndOfData` of a transfer come from or go to: a conversation, or a link."""

    def send(self, message: Message) -> None:
        """See `Conversation`."""

    def send_data(self, data: Buffer) -> None:
        """See `Conversation`."""

    def receive(self) -> Any:
        """See `Conversation`."""


class HeldPath:
    """What there is of a path at this end."""

    def __init__(self) -> None:
        self.identity: Optional[Identity] = None
        self.listener: Optional[Listener] = None
        self.link: Optional[Link] = None
        #: Where a tunnel through the command line begins (`path.tunnel`), and the lock that keeps others from making one.
        self.entry: Optional[socket.socket] = None
        self.entry_lock: Optional[FileLock] = None

    def close(self) -> None:
        """Nothing is left of it. Idempotent."""
        self.identity = None
        self.drop()

    def drop(self) -> None:
        """No link, and nobody who waits for one; the identity stays. Idempotent."""
        if self.listener is not None:
            self.listener.close()
        if self.link is not None:
            self.link.close()
        self.listener = self.link = None


def path_of(conversation: Conversation) -> HeldPath:
    """What the connection behind a conversation holds."""
    held = getattr(conversation, "path", None)
    if not isinstance(held, HeldPath):
        raise AgentError("this connection cannot hold a direct path")
    return held


@contextlib.contextmanager
def data_way(conversation: Conversation, *, over_path: bool) -> Iterator[DataWay]:
    """For one transfer: the link if its request says so, else the conversation itself. Whatever goes wrong inside closes the
    link, so that the other end, which hears nothing from the command line, notices at once."""
    if not over_path:
        yield conversation
        return
    held = path_of(conversation)
    if held.link is None or held.link.closed:
        raise PathBrokenError("there is no direct path to the other host", remedy="begin again")
    try:
        yield held.link
    except BaseException:
        held.drop()
        raise
