"""The CLI's end of a conversation with an agent, over any `Stream`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable
from typing import Any

from voltool.errors import AgentError, UnreachableError, VoltoolError
from voltool.events import Event, Reporter
from voltool.remote.heart import Heart
from voltool.ssh.stream import Buffer, Stream
from voltool.wire import framing, messages
from voltool.wire.framing import FrameDecoder, WireFrame

_READ_SIZE = 1 << 20
#: How the remedy of a connection that broke begins; a job that knows better replaces it.
RUN_AGAIN = "run the command again"
#: How long an agent may take to clean up when it is told to end, seconds.
_GRACE = 30.0


class AgentSession:
    """Implements `wire.conversation.Conversation`.

    While it sends, it takes what has arrived: events are reported, a Failure is raised at once (an agent that has failed
    reads no more), anything else waits for ``receive``. ``agent`` says who answers.
    """

    def __init__(
        self,
        stream: Stream,
        decoder: FrameDecoder,
        frames: Iterable[WireFrame],
        reporter: Reporter,
        host: str,
        *,
        local: bool = False,
        silence: float = 0.0,
        ports: str = "",
        address: Callable[[], str] = lambda: "",
    ) -> None:
        self._stream = stream
        self._decoder = decoder
        self._frames = collections.deque(frames)
        self._waiting: collections.deque[Any] = collections.deque()
        self._reporter = reporter
        self.host = host
        self._local = local
        self.silence = silence
        self.ports = ports
        self.address = address
        self._heart = Heart(stream, silence, self._fell_silent)
        self._given_up: VoltoolError | None = None
        self._ending = threading.Lock()
        self._closed = False
        #: Called, from another thread, when the host has fallen silent and this conversation is over for that.
        self.when_silent: Callable[[VoltoolError], None] = lambda _error: None
        self.agent: messages.HelloReply

    def greet(self, caller: str) -> None:
        """Say Hello; sets ``agent``."""
        self.send(messages.Hello(caller, self.silence))
        self._heart.start()
        reply = self.receive()
        if not isinstance(reply, messages.HelloReply):
            raise AgentError("the agent does not introduce itself", where=self.host)
        self.agent = reply

    def send(self, message: messages.Message) -> None:
        """See `Conversation`."""
        payload = messages.encode(message)
        self._write(framing.encode_frame_head(framing.MESSAGE, len(payload)) + payload)

    def send_data(self, data: Buffer) -> None:
        """See `Conversation`."""
        for piece in framing.split_data(data):
            self._write(b"".join((framing.encode_frame_head(framing.DATA, len(piece)), piece)))

    def receive(self) -> Any:
        """See `Conversation`."""
        while not self._waiting:
            if not self._frames:
                self._read()
            self._sort()
        return self._waiting.popleft()

    def attend(self, timeout: float) -> bool:
        """See `IntroducedConversation`."""
        self._sort()
        if not self._waiting and (timeout > 0 or self._stream.readable()):
            with contextlib.suppress(TimeoutError):
                self._read(timeout)
            self._sort()
        return bool(self._waiting)

    def report(self, event: Event) -> None:
        """See `Conversation`."""
        self._reporter.report(event)

    def close(self) -> None:
        """End the agent; idempotent. It gets some time to clean up."""
        self._heart.stop()
        with self._ending:
            self._closed = True
        self._stream.close(_GRACE)

    def give_up(self, error: VoltoolError) -> None:
        """End the conversation, from any thread: whoever is in it gets ``error``."""
        with self._ending:
            if not self._closed:
                self._given_up = self._given_up or error
                self._stream.drop()

    def _fell_silent(self) -> None:
        error = UnreachableError(
            "the host does not answer any more", where=self.host,
            why=f"nothing has been heard of it for {self.silence:g} s",
            remedy=f"{RUN_AGAIN} when it can be reached; nothing half-done was published",
        )  # fmt: skip
        self.give_up(error)
        self.when_silent(error)

    def _write(self, data: bytes) -> None:
        while self._stream.readable():
            self._read()
            self._sort()
        try:
            with self._heart.held():
                self._stream.write(data)
        except BrokenPipeError:
            # Perhaps it said why before it went.
            with contextlib.suppress(AgentError, UnreachableError):
                while True:
                    self._read()
            self._sort()
            raise self._broken() from None

    def _read(self, timeout: float | None = None) -> None:
        data = self._stream.read(_READ_SIZE, timeout)
        if not data:
            raise self._broken()
        self._frames.extend(self._decoder.feed(data))

    def _sort(self) -> None:
        """Report events, raise a Failure, keep the rest for `receive`."""
        while self._frames:
            frame = self._frames.popleft()
            if frame.kind == framing.DATA:
                self._waiting.append(frame.payload)
                continue
            message = messages.decode(frame.payload)
            if isinstance(message, messages.Progress):
                self._reporter.report(messages.event_of(message))
            elif isinstance(message, messages.Failure):
                self._waiting.clear()
                messages.raise_failure(dataclasses.replace(message, where=self._place(message.where)))
            else:
                self._waiting.append(message)

    def _place(self, where: str) -> str:
        """Where on which host, since the agent speaks of its own paths alone."""
        if self._local:
            return where
        return f"{self.host}: {where}" if where else self.host

    def _broken(self) -> VoltoolError:
        if self._given_up is not None:
            return self._given_up
        status = self._stream.exit_status(1.0)
        last_words = self._stream.stderr_tail()
        if not last_words:
            last_words = "the connection ended" if status is None else f"it ended with status {status}"
        return AgentError(
            "the connection to the agent broke", where=self.host, why=last_words,
            remedy=f"{RUN_AGAIN}; nothing half-done was published",
        )  # fmt: skip
