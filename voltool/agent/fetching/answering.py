"""Answers wants of the fetch protocol out of one tree. Knows nothing of connections, manifests or who asks. Ships to servers.

What is asked for comes from another host, and is not trusted: nothing but regular files is opened, only for reading, beneath the
root, and no link is followed. A device node is not even opened: it is looked at first. Sources: open(2) O_PATH, posix_fadvise(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from typing import Iterator, List, Optional, Union

from voltool.beneath import open_beneath
from voltool.dumpfile import codec as codecs
from voltool.dumpfile.format import CHUNK_SIZE, CODEC_NONE
from voltool.wire import fetching
from voltool.wire.fetching import ABSENT, ANSWERS, FOUND, UNREADABLE, FetchFrame, Want

#: Bytes of answers that are gathered in one frame.
_FRAME = CHUNK_SIZE
#: Files that are kept open between two wants, so that a large one is read ahead as one that is read in order.
_KEPT_OPEN = 8
#: What does not shrink by a tenth was not worth it; then only one frame in so many is tried.
_SELDOM = 8

_NOT_HERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENAMETOOLONG, errno.ENXIO)

_Buffer = Union[bytes, bytearray, memoryview]


class Answerer:
    """Serves the tree below the descriptor ``root``, which stays the caller's. For one thread."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._packing = Packing()

    def answer(self, frame: FetchFrame) -> Iterator[bytes]:
        """The frames that answer one frame of wants. Raises AgentError for what no voltool asks."""
        payload = unpack(frame)
        parts: List[_Buffer] = []
        gathered = items = 0
        for want in fetching.decode_wants(payload, frame.items):
            if items and gathered + want.length > _FRAME:
                yield self._packing.pack(items, parts)
                parts, gathered, items = [], 0, 0
            answer = self._one(want)
            parts += answer
            gathered += sum(len(part) for part in answer)
            items += 1
        yield self._packing.pack(items, parts)

    def close(self) -> None:
        """Close all files; idempotent."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _one(self, want: Want) -> List[_Buffer]:
        try:
            small = want.offset == 0 and want.length < CHUNK_SIZE
            data = self._small(want) if small else self._part(want)
        except OSError as error:
            kind = ABSENT if error.errno in _NOT_HERE else UNREADABLE
            return fetching.encode_refusal(kind, error.strerror or str(error))
        if data is None:
            return fetching.encode_refusal(ABSENT, "no regular file of that name is there")
        return fetching.encode_answer(FOUND, data)

    def _small(self, want: Want) -> Optional[bytes]:
        """Of a file that nobody will ask for again; None where it is not a regular one."""
        descriptor = self._open_regular(want.path)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, want.length, 0)
        finally:
            os.close(descriptor)

    def _part(self, want: Want) -> Optional[bytes]:
        """Of a file of which more will be asked for: it stays open for a while."""
        descriptor = self._open.get(want.path)
        if descriptor is None:
            descriptor = self._open_regular(want.path)
            if descriptor is None:
                return None
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            self._open[want.path] = descriptor
            while len(self._open) > _KEPT_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(want.path)
        return os.pread(descriptor, want.length, want.offset)

    def _open_regular(self, path: bytes) -> Optional[int]:
        found = open_beneath(self._root, path, os.O_PATH)
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                return None
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(found)


class Packing:
    """Makes frames of answers, and notices where compressing is in vain. For one thread."""

    def __init__(self) -> None:
        self._codec = codecs.default_codec()
        self._in_vain = 0

    def pack(self, items: int, parts: List[_Buffer]) -> bytes:
        """One frame."""
        raw = b"".join(parts)
        codec = CODEC_NONE
        stored: _Buffer = raw
        if self._in_vain % _SELDOM == 0:
            codec, stored = codecs.compress(raw, self._codec)
            if len(stored) * 10 > len(raw) * 9:
                codec, stored = CODEC_NONE, raw
        self._in_vain = 0 if codec != CODEC_NONE else self._in_vain + 1
        return fetching.encode_head(ANSWERS, items, codec, len(stored), len(raw)) + stored


def pack_wants(wants: List[Want]) -> bytes:
    """A frame of wants: thousands of paths are mostly alike."""
    raw = fetching.encode_wants(wants)
    codec, stored = codecs.compress(raw, codecs.default_codec())
    return fetching.encode_head(fetching.WANTS, len(wants), codec, len(stored), len(raw)) + stored


def unpack(frame: FetchFrame) -> bytes:
    """A frame's payload; IntegrityError where it does not decompress to what it claims."""
    return codecs.decompress(frame.codec, frame.stored, frame.raw, "a fetch")
