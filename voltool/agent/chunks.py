"""The chunks of large files that a restore in place has asked for, as they come over the wire. Ships to servers."""

from __future__ import annotations

from voltool.agent.restore import Throttle
from voltool.dumpfile import format as fmt
from voltool.errors import AgentError
from voltool.tree.inplace.patch import PIECE
from voltool.wire import messages
from voltool.wire.conversation import Conversation


class ChunkStream:
    """Gives chunk after chunk, in the order in which they were asked for; then `end`."""

    def __init__(self, conversation: Conversation, bandwidth: int) -> None:
        self._conversation = conversation
        self._throttle = Throttle(bandwidth)
        self._buffer = bytearray()
        self._ended = False

    def next(self, number: int, index: int) -> memoryview:
        """The bytes of that chunk, empty for a hole. Raises IntegrityError where something else comes."""
        found_number, found_index, length = PIECE.unpack(self._take(PIECE.size))
        if (found_number, found_index) != (number, index) or length > fmt.CHUNK_SIZE:
            raise fmt.damaged("other chunks came than those asked for")
        return memoryview(self._take(length))

    def end(self) -> None:
        """Nothing more comes."""
        if self._buffer or (not self._ended and not isinstance(self._conversation.receive(), messages.EndOfData)):
            raise AgentError("more chunks came than were asked for")

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            item = self._conversation.receive()
            if isinstance(item, messages.EndOfData):
                self._ended = True
                raise fmt.damaged("the chunks of a large file are cut off")
            if not isinstance(item, bytes):
                raise AgentError("something else came where chunks should", why=type(item).__name__)
            self._throttle.passed(len(item))
            self._buffer += item
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken
