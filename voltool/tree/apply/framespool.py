"""Frames of records set aside as they came, compressed, and read again as a stream. Ships to servers.

Knows nothing of what the records mean.
"""

from __future__ import annotations

import os
import struct
from typing import Iterator, List

from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import Frame

#: codec, stored length, raw length, records
_HEAD = struct.Struct(">BIII")


class FrameSpool:
    """Append frames to an open file, iterate over all their records; the caller owns the descriptor."""

    def __init__(self, descriptor: int, length: int = 0) -> None:
        self._descriptor = descriptor
        self.length = length

    def append(self, frame: Frame) -> None:
        """Add a frame at the end. Raises OSError."""
        header = frame.header
        self._write(_HEAD.pack(header.codec, header.stored, header.raw, header.records) + frame.payload)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, self.length)
            self.length += written
            view = view[written:]

    def append_records(self, records: List[bytes]) -> None:
        """Add records as a frame of their own. Raises OSError."""
        raw = fmt.pack_records(records)
        codec, stored = codecs.compress(raw, codecs.default_codec())
        self._write(_HEAD.pack(codec, len(stored), len(raw), len(records)) + stored)

    def records(self) -> Iterator[bytes]:
        """All records, in the order they were added."""
        for batch in self.batches():
            yield from batch

    def batches(self) -> Iterator[List[bytes]]:
        """The records of each frame."""
        position = 0
        while position < self.length:
            head = os.pread(self._descriptor, _HEAD.size, position)
            if len(head) != _HEAD.size:
                raise fmt.damaged("what staging kept of an interrupted restore is cut off")
            codec, stored, raw, records = _HEAD.unpack(head)
            payload = os.pread(self._descriptor, stored, position + _HEAD.size)
            position += _HEAD.size + stored
            yield fmt.unpack_records(codecs.decompress(codec, payload, raw), records)
