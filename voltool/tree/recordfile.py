"""Files of sorted records on a volume's host: written once front to back, read as a stream or from a key on.

The frames are those of the dump format (types OBJECTS and ENTRIES), followed by an index of first keys. They belong to one
host and one version of voltool: a file that cannot be read is treated as missing by the caller. Ships to servers.
"""

from __future__ import annotations

import bisect
import os
from array import array
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import pack_frame

#: Small enough that a few records that change cost little, and that one is found quickly.
_BLOCK = 32 << 10
_NUMBER = 8
_NO_END = 1 << 64


class Block(NamedTuple):
    """Records of a file as they lie there: ``raw`` is packed (`format.pack_records`), ``payload`` how it is stored."""

    first: int
    records: int
    raw: bytes
    payload: bytes
    codec: int


class RecordFileWriter:
    """Append records whose first 8 bytes are a big-endian number that never decreases; `close` makes it readable."""

    def __init__(self, path: bytes, kind: int) -> None:
        self._kind = kind
        self._file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by close()
        self._batch: List[bytes] = []
        self._size = 0
        self._offset = 0
        self._keys = array("Q")
        self._offsets = array("Q")

    def add(self, record: bytes) -> None:
        """Append one record."""
        self._batch.append(record)
        self._size += len(record) + 4
        if self._size >= _BLOCK:
            self._flush()

    def extend(self, records: Iterable[bytes]) -> None:
        """Append many."""
        for record in records:
            self.add(record)

    def add_block(self, block: Block) -> None:
        """Append all records of another file's block, as they are."""
        self._flush()
        self._write(block.codec, block.payload, len(block.raw), block.records, block.first)

    def _flush(self) -> None:
        if not self._batch:
            return
        key = int.from_bytes(self._batch[0][:_NUMBER], "big")
        raw = fmt.pack_records(self._batch)
        packed = pack_frame(self._kind, raw, len(self._batch), codecs.default_codec(), key)
        self._write(packed.codec, packed.payload, packed.raw, packed.records, key)
        self._batch, self._size = [], 0

    def _write(self, codec: int, payload: codecs.Buffer, raw: int, records: int, key: int) -> None:
        head = fmt.encode_frame_header(self._kind, codec, payload, raw, records, len(self._keys), key)
        self._keys.append(key)
        self._offsets.append(self._offset)
        self._file.write(head)
        self._file.write(payload)
        self._offset += len(head) + len(payload)

    def abandon(self) -> None:
        """Close an unfinished file; of a finished one nothing is changed. Idempotent."""
        self._file.close()

    def close(self) -> None:
        """Write the index and make the file durable."""
        self._flush()
        count = len(self._keys)
        self._file.write(self._keys.tobytes() + self._offsets.tobytes() + count.to_bytes(8, "big"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class RecordFile:
    """Read what a `RecordFileWriter` wrote. Raises IntegrityError when it is not that."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        count = int.from_bytes(os.pread(self._fd, 8, max(0, size - 8)), "big")
        start = size - 8 - 16 * count
        if size < 8 or start < 0:
            os.close(self._fd)
            raise fmt.damaged("a record file has no index", os.fsdecode(path))
        index = os.pread(self._fd, 16 * count, start)
        self._keys = array("Q", index[: 8 * count])
        self._offsets = array("Q", index[8 * count :])
        self._cached: Optional[int] = None
        self._cache: List[bytes] = []

    def _block(self, number: int) -> List[bytes]:
        if self._cached == number:
            return self._cache
        head, _payload, raw = self._stored(number)
        self._cache = fmt.unpack_records(raw, head.records)
        self._cached = number
        return self._cache

    def _stored(self, number: int) -> Tuple[fmt.FrameHeader, bytes, bytes]:
        head = fmt.decode_frame_header(os.pread(self._fd, fmt.FRAME_SIZE, self._offsets[number]))
        payload = os.pread(self._fd, head.stored, self._offsets[number] + fmt.FRAME_SIZE)
        fmt.check_payload(head, payload, os.fsdecode(self._path))
        return head, payload, codecs.decompress(head.codec, payload, head.raw)

    def __iter__(self) -> Iterator[bytes]:
        for number in range(len(self._keys)):
            yield from self._block(number)

    def count(self) -> int:
        """How many records there are; only the heads of their blocks are read."""
        heads = (os.pread(self._fd, fmt.FRAME_SIZE, offset) for offset in self._offsets)
        return sum(fmt.decode_frame_header(head).records for head in heads)

    def around(self, wanted: Sequence[int]) -> Iterator[Union[bytes, Block]]:
        """All records in order; those of a block in which no number of ``wanted`` (ascending) can be, as that block."""
        for number in range(len(self._keys)):
            if self._may_have(number, wanted):
                yield from self._block(number)
                continue
            head, payload, raw = self._stored(number)
            yield Block(self._keys[number], head.records, raw, payload, head.codec)

    def blocks(self) -> Iterator[Block]:
        """All blocks, in order."""
        for number in range(len(self._keys)):
            head, payload, raw = self._stored(number)
            yield Block(self._keys[number], head.records, raw, payload, head.codec)

    def packed(self) -> Iterator[bytes]:
        """All records in order, packed (`format.pack_records`), many at a time."""
        for number in range(len(self._keys)):
            yield self._stored(number)[2]

    def near(self, wanted: Sequence[int]) -> Iterator[bytes]:
        """All records, in order, of the blocks in which a number of ``wanted`` (ascending) can be; the others are not read."""
        for number in range(len(self._keys)):
            if self._may_have(number, wanted):
                yield from self._block(number)

    def _may_have(self, number: int, wanted: Sequence[int]) -> bool:
        last = self._keys[number + 1] if number + 1 < len(self._keys) else _NO_END
        at = bisect.bisect_left(wanted, self._keys[number])
        return at < len(wanted) and wanted[at] <= last

    def group(self, key: int) -> List[bytes]:
        """All records whose number is ``key``."""
        prefix = key.to_bytes(_NUMBER, "big")
        at = max(0, bisect.bisect_left(self._keys, key) - 1)
        found: List[bytes] = []
        while at < len(self._keys) and self._keys[at] <= key:
            block = self._block(at)
            low = bisect.bisect_left(block, prefix)
            for record in block[low:]:
                if record[:_NUMBER] != prefix:
                    break
                found.append(record)
            at += 1
        return found

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def joined(
    olds: Iterator[Union[bytes, Block]], news: Iterator[bytes], tail: int
) -> Iterator[Tuple[Union[bytes, Block, None], Optional[bytes]]]:
    """Pairs of the old and the new record of one key. Keys are all but the last ``tail`` bytes, or (0) the first 8. No new record
    belongs into an old block."""

    def key(record: Union[bytes, Block]) -> bytes:
        if isinstance(record, Block):
            return record.first.to_bytes(8, "big")
        return record[:-tail] if tail else record[:8]

    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if new is None or (old is not None and key(old) < key(new)):
            yield old, None
            old = next(olds, None)
        elif old is None or key(new) < key(old):
            yield None, new
            new = next(news, None)
        else:
            yield old, new
            old, new = next(olds, None), next(news, None)
