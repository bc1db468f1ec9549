"""The file that says what is safely here of a lazy replica: written only when what it says is on disk. Ships to servers."""

from __future__ import annotations

import os
import struct
import zlib

from voltool import durable
from voltool.agent.lazy.index import TreeIndex
from voltool.agent.lazy.shared import MISSING

NAME = b"lazy-present"
#: Magic, the state, how many objects and chunks; then a byte of each, compressed.
_HEAD = struct.Struct(">8s32sQQ")
_MAGIC = b"vtlazy1\0"


def write(staging: bytes, index: TreeIndex, presence: bytes) -> None:
    """Replace it, durably: the bytes of `shared.Presence`, objects, then chunks. Raises OSError."""
    head = _HEAD.pack(_MAGIC, bytes.fromhex(index.state_id), index.count, index.chunks)
    durable.write_file(os.path.join(staging, NAME), head + zlib.compress(presence, 1))


def read(staging: bytes, index: TreeIndex) -> bytes:
    """What was written; empty where nothing was, for this index."""
    try:
        with open(os.path.join(staging, NAME), "rb") as file:
            magic, state, objects, chunks = _HEAD.unpack(file.read(_HEAD.size))
            data = zlib.decompress(file.read())
    except (OSError, struct.error, zlib.error):
        return b""
    known = (magic, state.hex(), objects, chunks) == (_MAGIC, index.state_id, index.count, index.chunks)
    return data if known and len(data) == objects + chunks else b""


def objects_present(staging: bytes, index: TreeIndex) -> bytes:
    """What is here of each object, for who only looks."""
    return read(staging, index)[: index.count] or bytes([MISSING]) * index.count
