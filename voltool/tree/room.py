"""Frames on their way from a worker to its parent: what is large lies in the memory that both share. Ships to servers."""

from __future__ import annotations

from typing import Any, Tuple, Union

from voltool.dumpfile.writer import PackedFrame


class Room:
    """In a worker: where the payloads of one task's frames are put."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._used = 0

    def keep(self, frame: PackedFrame) -> Tuple[Any, ...]:
        """The frame as it can be marshalled; its payload is copied, so its buffer may be used again."""
        length = len(frame.payload)
        end = self._used + length
        payload: Union[bytes, Tuple[int, int]]
        if end > len(self._memory):
            payload = bytes(frame.payload)
        else:
            self._memory[self._used : end] = frame.payload
            payload = (self._used, length)
            self._used = end
        return (*frame[:-1], payload)


def unpack_frame(kept: Tuple[Any, ...], memory: memoryview) -> PackedFrame:
    """In the parent: the frame. Its payload is there as long as ``memory`` belongs to the result."""
    payload: Any = kept[-1]
    if isinstance(payload, tuple):
        offset, length = payload
        payload = memory[offset : offset + length]
    return PackedFrame._make((*kept[:-1], payload))
