"""One connection with a host that serves files, from the asker's end. Knows nothing of other hosts, or of what is right.

Ships to servers.
"""

from __future__ import annotations

import collections
from typing import Callable, Deque, Iterator, List, Optional, Protocol, Sequence

from voltool.agent.fetching.answering import pack_wants, unpack
from voltool.errors import UnreachableError
from voltool.wire.fetching import ANSWERS, Answer, FetchDecoder, FetchFrame, Want, batches, decode_answers
from voltool.wire.messages import Message

#: Wants and bytes of one request; the next one is on its way while its answers come.
_WANTS = 512
_BYTES = 4 << 20
#: A longer request is not sent ahead: each side could wait for the other one to read.
_AHEAD = 16 << 10


class FetchLink(Protocol):
    """What is used of a `path.link.Link`; any VoltoolError ends it."""

    def send(self, message: Message) -> None:
        """Send a message."""

    def send_data(self, data: bytes) -> None:
        """Send bytes."""

    def receive(self, timeout: Optional[float] = None) -> object:
        """Wait for bytes."""

    def close(self) -> None:
        """End it, from any thread; whoever waits in it gets an error."""


#: Connects with a host within so many seconds, or raises VoltoolError.
Connect = Callable[[float], FetchLink]


class Asker:
    """Asks over ``link``. After an error, or where `ask` was not read to its end, it is of no use any more."""

    def __init__(self, link: FetchLink) -> None:
        self._link = link
        self._decoder = FetchDecoder(ANSWERS)
        self._frames: Deque[FetchFrame] = collections.deque()

    def ask(self, wants: Sequence[Want], patience: float) -> Iterator[Answer]:
        """One answer for each want, in order. VoltoolError where the connection breaks, nothing comes for ``patience`` seconds,
        or what comes is no answer."""
        waiting: Deque[List[Want]] = collections.deque()
        for batch in batches(wants, _WANTS, _BYTES):
            request = pack_wants(batch)
            while waiting and (len(waiting) > 1 or len(request) > _AHEAD):
                yield from self._answers(waiting.popleft(), patience)
            self._link.send_data(request)
            waiting.append(batch)
        while waiting:
            yield from self._answers(waiting.popleft(), patience)

    def close(self) -> None:
        """Give up the connection, from any thread. Idempotent."""
        self._link.close()

    def _answers(self, batch: List[Want], patience: float) -> Iterator[Answer]:
        at = 0
        while at < len(batch):
            frame = self._frame(patience)
            part = batch[at : at + frame.items]
            if frame.items > len(part):
                raise UnreachableError("the other side answers what it was not asked")
            yield from decode_answers(unpack(frame), part)
            at += frame.items

    def _frame(self, patience: float) -> FetchFrame:
        while not self._frames:
            received = self._link.receive(patience)
            if not isinstance(received, bytes):
                raise UnreachableError("the other side does not serve files")
            self._frames.extend(self._decoder.feed(received))
        return self._frames.popleft()
