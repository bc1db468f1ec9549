"""The second half of a stream: DATA, CHUNKS and CONTENT frames become tasks for workers, in order.

A batch ends with its CONTENT frame; then everything it is about goes to one worker as one task. Only of a file that is
larger than that (`STREAM_BYTES` of stored data without an end) the pieces go out as they come, and it is finished here, once its
chunks are known to be right (`tally`) or were read back. Part of what is shipped to servers.
"""

from __future__ import annotations

import collections
import os
from typing import Callable, Deque, List, NamedTuple, Optional, Tuple, Union

from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.dumpfile.frames import Frame, decode_records
from voltool.tree.apply.batches import PackedData, check_task, data_task, extend, piece_task
from voltool.tree.apply.files import FileMaker, check_chunks, translate
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name, NameTable
from voltool.tree.apply.tally import ChunkTally, Hashed
from voltool.tree.apply.writeback import STEP, EarlyWriteback

#: Stored data of one file above which it is streamed.
STREAM_BYTES = 8 << 20
#: Stored data of one batch above which it is none of ours.
MAX_BATCH = 64 << 20
#: Final records handed to one worker in one task.
_MAX_RECORDS = 4096
_MAX_SIZE = (1 << 63) - 1
#: Chunks (MiB) that one task reads and checks.
_CHECK_CHUNKS = 16


class Task(NamedTuple):
    """Work for a worker, and what is ``given`` with it: ``last`` is the highest object that is complete with it (0: none),
    ``stream`` the number of the file it is a piece or check of (0: none)."""

    data: bytes
    last: int = 0
    stream: int = 0
    given: Union[bytes, memoryview] = b""


class _Stream:
    """A file that is being streamed. ``size`` is what OBJECTS said; ``recheck``: that was wrong, read all again."""

    def __init__(self, number: int, names: List[Name], size: int, descriptor: int) -> None:
        self.number = number
        self.names = names
        self.size = size
        self.descriptor = descriptor
        self.runs: List[Tuple[int, bytes]] = []
        self.tally = ChunkTally()
        self.unsent = 0
        self.recheck = False


class ContentReader:
    """Fed with frames; calls ``submit`` with tasks and ``drain`` to wait until all of them are done.

    ``pending`` gives the record that OBJECTS has of a file (its size, the flags it must be made with). Objects up to
    ``skip`` are here already; should their data come all the same, it is passed over.
    """

    def __init__(
        self,
        names: NameTable,
        maker: FileMaker,
        losses: Losses,
        submit: Callable[[Task], None],
        drain: Callable[[], None],
        pending: Callable[[int], ObjectRecord],
        skip: int,
    ) -> None:
        self._names = names
        self._maker = maker
        self._losses = losses
        self._submit = submit
        self._drain = drain
        self._pending = pending
        self._skip = skip
        self._data: Deque[Tuple[int, PackedData]] = collections.deque()
        self._stored = 0
        self._chunks: List[bytes] = []
        self._stream: Optional[_Stream] = None
        self._writeback = EarlyWriteback()

    def data(self, frame: Frame) -> None:
        """A DATA frame."""
        header = frame.header
        packed = (header.codec, header.raw, header.records, frame.payload)
        if self._stream is not None and header.key == self._stream.number:
            self._piece(self._stream, packed)
            return
        self._data.append((header.key, packed))
        self._stored += header.stored
        if self._stored > STREAM_BYTES and len(self._data) > 1 and self._data[-2][0] == header.key:
            if header.key <= self._skip:
                self.discard(header.key)
            else:
                self._begin_stream(header.key)
        if self._stored > MAX_BATCH:
            raise fmt.damaged("a batch of data has no end")

    def chunks(self, frame: Frame) -> None:
        """A CHUNKS frame."""
        for record in decode_records(frame):
            number, first, _hashes = fmt.decode_chunk_run(record)
            if number <= self._skip:
                continue
            if self._stream is not None and number == self._stream.number:
                self._expect(self._stream, first, record[fmt.CHUNK_RUN.size :])
            else:
                self._chunks.append(record)
                self._stored += len(record)

    def content(self, records: List[bytes]) -> None:
        """The final records of a CONTENT frame, in order: everything they need has come."""
        stream = self._stream
        if stream is not None:
            key = stream.number.to_bytes(8, "big")
            mine = [record for record in records if record[:8] == key]
            if mine:
                self._end_stream(stream, fmt.decode_object(mine[0]))
                records = [record for record in records if record[:8] != key]
        if not records:
            return
        for at in range(0, len(records), _MAX_RECORDS):
            self._batch(records[at : at + _MAX_RECORDS], ends=at + _MAX_RECORDS >= len(records))

    def discard(self, last: int) -> None:
        """Data of objects up to ``last`` is not needed."""
        while self._data and self._data[0][0] <= last:
            self._stored -= len(self._data.popleft()[1][3])

    def omit(self, record: bytes) -> None:
        """The file could not be read to its end: what has come of it is void, and there will be no file."""
        key = record[:8]
        number = int.from_bytes(key, "big")
        self._data = collections.deque(item for item in self._data if item[0] != number)
        self._chunks = [chunk for chunk in self._chunks if chunk[:8] != key]
        self._stored = sum(len(packed[3]) for _key, packed in self._data) + sum(map(len, self._chunks))
        stream = self._stream
        if stream is not None and stream.number == number:
            self._drain()
            self._close_stream()
            if stream.descriptor >= 0:
                self._maker.remove(self._maker.path(stream.names[0]))

    def finish(self) -> None:
        """No more frames come. IntegrityError where something was left unfinished."""
        if self._data or self._chunks or self._stream is not None:
            raise fmt.damaged("it has data of objects that were never completed")
        self._writeback.finish()

    def close(self) -> None:
        """End whatever is on its way; idempotent."""
        self._writeback.close()
        self._close_stream()

    def _close_stream(self) -> None:
        if self._stream is not None and self._stream.descriptor >= 0:
            os.close(self._stream.descriptor)
        self._stream = None

    def _batch(self, records: List[bytes], *, ends: bool) -> None:
        first, last = (int.from_bytes(record[:8], "big") for record in (records[0], records[-1]))
        data = []
        while self._data and self._data[0][0] <= last:
            data.append(self._data.popleft()[1])
        chunks = [chunk for chunk in self._chunks if int.from_bytes(chunk[:8], "big") <= last]
        self._chunks = self._chunks[len(chunks) :]
        self._stored = sum(len(packed[3]) for _key, packed in self._data) + sum(map(len, self._chunks))
        task = data_task(self._names.span(first, last), data, chunks, records, self._skip)
        self._submit(Task(task, last=last if ends else 0))

    # ------------------------------------------------------------------------------------------------------ streams

    def _begin_stream(self, number: int) -> None:
        record = self._pending(number)
        names = self._names.of(number)
        if self._stream is not None or not names or record.size > _MAX_SIZE:
            raise fmt.damaged("the data of a file is not where it belongs")
        descriptor = self._maker.create(record, names)
        if descriptor >= 0 and not extend(descriptor, record.size):
            os.close(descriptor)
            self._losses.object(number, "the target cannot hold a file of this size")
            descriptor = -1
        self._stream = _Stream(number, names, record.size, descriptor)
        self._flush_stream(number)

    def _flush_stream(self, number: int) -> None:
        assert self._stream is not None
        mine = [packed for key, packed in self._data if key == number]
        self._data = collections.deque((key, packed) for key, packed in self._data if key != number)
        self._stored = sum(len(packed[3]) for _key, packed in self._data)
        for packed in mine:
            self._piece(self._stream, packed)
        prefix = number.to_bytes(8, "big")
        early = [chunk for chunk in self._chunks if chunk[:8] == prefix]
        self._chunks = [chunk for chunk in self._chunks if chunk[:8] != prefix]
        for chunk in early:
            _number, first, _hashes = fmt.decode_chunk_run(chunk)
            self._expect(self._stream, first, chunk[fmt.CHUNK_RUN.size :])

    def _piece(self, stream: _Stream, packed: PackedData) -> None:
        if stream.descriptor >= 0:
            task = piece_task(stream.number, stream.names, packed, stream.size)
            self._submit(Task(task, stream=stream.number, given=packed[3]))

    def _expect(self, stream: _Stream, first: int, hashes: bytes) -> None:
        if stream.runs and first < stream.runs[-1][0] + len(stream.runs[-1][1]) // 32:
            raise fmt.damaged("the chunks of a file are not in order")
        stream.runs.append((first, hashes))

    def _check(self, stream: _Stream) -> None:
        """All pieces are written: read back what they did not say the hashes of, or other ones."""
        for run in stream.runs:
            for first, hashes in stream.tally.doubtful(*run):
                for at in range(0, len(hashes), 32 * _CHECK_CHUNKS):
                    part = hashes[at : at + 32 * _CHECK_CHUNKS]
                    task = check_task(stream.names, first + at // 32, part, stream.size)
                    self._submit(Task(task, stream=stream.number))
        self._drain()

    def written(self, number: int, size: int, hashed: Hashed) -> None:
        """A piece of a file is written: its bytes of data, and what the chunks in it hash to."""
        stream = self._stream
        if stream is not None and stream.number == number:
            stream.tally.add(hashed)
            stream.unsent += size
            if stream.unsent >= STEP:
                self._writeback.send(stream.descriptor)
                stream.unsent = 0

    def failed_check(self, number: int) -> None:
        """A check did not hold. The last chunk may be shorter than OBJECTS said: decided when the file is complete."""
        if self._stream is not None and self._stream.number == number:
            self._stream.recheck = True

    def _end_stream(self, stream: _Stream, record: ObjectRecord) -> None:
        self._drain()
        if stream.descriptor >= 0:
            self._check(stream)
            try:
                if stream.recheck or record.size != stream.size:
                    self._check_again(stream, record)
                self._maker.finish_large(stream.descriptor, record, stream.names, stream.runs)
                self._writeback.send(stream.descriptor, compressible=not record.flags & fmt.FLAG_NOCOMP)
            except OSError as error:
                raise translate(error, "a file") from error
        self._close_stream()
        if stream.descriptor >= 0:
            self._maker.end_large(record, stream.names)

    def _check_again(self, stream: _Stream, record: ObjectRecord) -> None:
        os.ftruncate(stream.descriptor, record.size)
        for first, hashes in stream.runs:
            if not check_chunks(stream.descriptor, first, hashes, record.size):
                raise fmt.damaged(f"the content of object {record.number} does not match its hash")
