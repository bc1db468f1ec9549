"""What both ends do with a connection, as a protocol: send and receive messages and data. No I/O here.

`remote.session.AgentSession` implements it at the CLI, `agent.channel.StdioChannel` on the server; tests join two ends
in one process. Part of what is shipped to servers.
"""

from __future__ import annotations

from typing import Any, Protocol, Type, TypeVar, Union

from voltool.errors import AgentError, VoltoolError
from voltool.events import Event
from voltool.wire.messages import HelloReply, Message

Buffer = Union[bytes, bytearray, memoryview]
Reply = TypeVar("Reply")


class Conversation(Protocol):
    """One connection, used by one thread at a time."""

    def send(self, message: Message) -> None:
        """Send one message. Raises AgentError when the other side is gone."""

    def send_data(self, data: Buffer) -> None:
        """Send raw bytes (split into frames as needed); blocks while the other side is slow."""

    def receive(self) -> Any:
        """The next message, or ``bytes`` for a data frame; blocks.

        At the CLI: events (`Progress`) are reported on the way and not returned, a `Failure` is raised as its error.
        Raises AgentError when the other side is gone.
        """

    def report(self, event: Event) -> None:
        """Agent: send an event. CLI: report it. Makes a Conversation a Reporter."""


class IntroducedConversation(Conversation, Protocol):
    """A conversation at the CLI whose agent has said who it is. ``host``: what the user calls its host; ``ports``: where that may
    wait for other hosts (``from-to``, empty: anywhere); ``silence``: seconds after which it counts as gone (0: never)."""

    agent: HelloReply
    host: str
    ports: str
    silence: float

    def address(self) -> str:
        """The name or number by which the host is reached from here, by which others may reach it too; empty: none."""

    def attend(self, timeout: float) -> bool:
        """Take what has arrived, waiting ``timeout`` seconds at the most for something to come: events are reported, a `Failure`
        is raised as its error. Whether something waits for `receive`."""

    def give_up(self, error: VoltoolError) -> None:
        """End the conversation, from any thread: whoever is in it gets ``error``."""


def expect(agent: Conversation, kind: Type[Reply]) -> Reply:
    """The next message, of the kind that belongs to the request; AgentError for any other."""
    reply = agent.receive()
    if not isinstance(reply, kind):
        raise AgentError("the agent gave an answer that does not belong to the question", why=type(reply).__name__)
    return reply
