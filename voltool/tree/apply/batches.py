"""What a worker does: one task of bytes in, one result of bytes out. Part of what is shipped to servers.

Tasks are marshalled tuples from our own parent through a private pipe; results likewise. A task holds everything a worker
needs but the names of files, which all workers read from one file.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import stat
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple, Union

from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, Attributes
from voltool.tree.apply.files import FileMaker, Piece, check_chunks, flat_path, shard_path, translate, write_at
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name, NameTable
from voltool.tree.apply.tally import ChunkTally, Hashed, hash_pieces
from voltool.tree.pool import Shared

#: A DATA frame as it travels to a worker: codec, raw length, extents, payload as stored.
PackedData = Tuple[int, int, int, Union[bytes, memoryview]]


class Result(NamedTuple):
    """What a task came to: files made, bytes of content written, losses (see `Losses.take`); for a check whether it held, for a
    piece what its chunks hash to."""

    files: int
    size: int
    losses: bytes
    held: bool
    hashed: Hashed


#: What a verb returns: files, size, held, hashed.
_Outcome = Tuple[int, int, bool, Hashed]


class _Large(NamedTuple):
    """A large file that is being made by one task; the descriptor is -1 where the target cannot hold it."""

    descriptor: int
    tally: ChunkTally


def data_task(
    span: Tuple[int, int], data: Sequence[PackedData], chunks: List[bytes], records: List[bytes], skip: int
) -> bytes:
    """Make these files (final ``records``, not empty) from the data frames and chunk records that belong to them.

    Data of objects up to ``skip`` is passed over: an earlier run has made them.
    """
    return marshal.dumps(("data", span, list(data), chunks, records, skip))


def piece_task(number: int, path_names: Sequence[Name], data: PackedData, size: int) -> bytes:
    """Write one piece of a large file that has been created with ``size`` bytes; the frame's payload is given with the task."""
    return marshal.dumps(("piece", number, [tuple(name) for name in path_names[:1]], data[:3], size))


def check_task(path_names: Sequence[Name], first: int, hashes: bytes, size: int) -> bytes:
    """Read chunks of a large file and compare their hashes."""
    return marshal.dumps(("check", [tuple(name) for name in path_names[:1]], first, hashes, size))


def special_task(objects: List[Tuple[bytes, List[Tuple[int, bytes]]]]) -> bytes:
    """Make symlinks, devices, fifos, sockets: their records with their names."""
    return marshal.dumps(("special", objects))


def directory_task(records: List[bytes]) -> bytes:
    """Make flat directories."""
    return marshal.dumps(("directory", records))


def decode_result(result: bytes) -> Result:
    """The result of any task."""
    return Result(*marshal.loads(result))  # noqa: S302 - from our own forked child through a private pipe


class Worker:
    """Carries tasks out under the staging directory."""

    def __init__(self, staging: int, names: NameTable, attributes: Attributes, losses: Losses, *, again: bool) -> None:
        self._staging = staging
        self._names = names
        self._attributes = attributes
        self._losses = losses
        self.maker = FileMaker(staging, attributes, losses, again=again)
        self._verbs: Dict[str, Callable[..., _Outcome]] = {
            "data": self._data,
            "piece": self._piece,
            "check": self._check,
            "special": self._special,
            "directory": self._directory,
        }

    def work(self, task: bytes, shared: Shared) -> bytes:
        """Carry out one task. Raises VoltoolError."""
        verb, *arguments = marshal.loads(task)  # noqa: S302 - from our own parent through a private pipe
        if verb == "piece":
            arguments.append(shared.given)
        try:
            files, size, held, hashed = self._verbs[verb](*arguments)
        except OSError as error:
            raise translate(error, "a file") from error
        return marshal.dumps((files, size, self._losses.take(), held, hashed))

    def _data(
        self, span: Tuple[int, int], data: List[PackedData], chunks: List[bytes], raw_records: List[bytes], skip: int
    ) -> _Outcome:
        records = [fmt.decode_object(record) for record in raw_records]
        waiting = {record.number: record for record in records}
        names = self._names.read(span, records[0].number, records[-1].number)
        runs: Dict[int, List[Tuple[int, bytes]]] = {}
        for chunk in chunks:
            number, first, _hashes = fmt.decode_chunk_run(chunk)
            runs.setdefault(number, []).append((first, chunk[fmt.CHUNK_RUN.size :]))
        size = 0
        large: Dict[int, _Large] = {}
        try:
            for packed in data:
                size += self._frame(packed, waiting, names, large, skip)
            for record in list(waiting.values()):
                self._rest(record, names[record.number], large, runs.get(record.number, []))
        finally:
            for made in large.values():
                if made.descriptor >= 0:
                    os.close(made.descriptor)
        for number in large:
            self.maker.end_large(next(r for r in records if r.number == number), names[number])
        return len(records), size, True, []

    def _frame(
        self,
        packed: PackedData,
        waiting: Dict[int, ObjectRecord],
        names: Dict[int, List[Name]],
        large: Dict[int, _Large],
        skip: int,
    ) -> int:
        """Write what one DATA frame holds; what is complete is taken out of ``waiting``."""
        size = 0
        for number, pieces in _by_object(packed):
            record = waiting.get(number)
            if number <= skip:
                continue
            if record is None:
                raise fmt.damaged("a frame holds data of an object that is not due")
            size += sum(len(part) for _extent, part in pieces)
            if record.size <= fmt.CHUNK_SIZE:
                self.maker.small(record, names[number], pieces)
                del waiting[number]
                continue
            if number not in large:
                if not pieces[0][0].flags & fmt.EXTENT_FRESH:
                    raise fmt.damaged("a change of a file comes without the file")
                large[number] = _Large(self._create_large(record, names[number]), ChunkTally())
            made = large[number]
            if made.descriptor >= 0:
                made.tally.add(hash_pieces(pieces, record.size))
                write_pieces(made.descriptor, pieces)
        return size

    def _create_large(self, record: ObjectRecord, names: List[Name]) -> int:
        descriptor = self.maker.create(record, names)
        if descriptor >= 0 and not extend(descriptor, record.size):
            os.close(descriptor)
            self.maker.remove(self.maker.path(names[0]))
            self._losses.object(record.number, "the target cannot hold a file of this size")
            return -1
        return descriptor

    def _rest(
        self, record: ObjectRecord, names: List[Name], large: Dict[int, _Large], runs: List[Tuple[int, bytes]]
    ) -> None:
        """A file of which no data came, or a large one of which all came."""
        if record.size <= fmt.CHUNK_SIZE:
            self.maker.small(record, names, [])
            return
        if record.number not in large:
            large[record.number] = _Large(self._create_large(record, names), ChunkTally())
        descriptor, tally = large[record.number]
        if descriptor < 0:
            return
        for run in runs:
            for first, hashes in tally.doubtful(*run):
                if not check_chunks(descriptor, first, hashes, record.size):
                    raise fmt.damaged(f"the content of object {record.number} does not match its hash")
        self.maker.finish_large(descriptor, record, names, runs)

    def _piece(
        self, number: int, names: List[Tuple[int, bytes]], data: Tuple[int, int, int], size: int, payload: memoryview
    ) -> _Outcome:
        descriptor = self.maker.open_again([Name(*name) for name in names])
        written = 0
        hashed: Hashed = []
        try:
            for owner, pieces in _by_object((*data, payload)):
                if owner != number:
                    raise fmt.damaged("a frame holds data of a file that is not due")
                hashed = hash_pieces(pieces, size)
                write_pieces(descriptor, pieces)
                written += sum(len(part) for _extent, part in pieces)
        finally:
            os.close(descriptor)
        return 0, written, True, hashed

    def _check(self, names: List[Tuple[int, bytes]], first: int, hashes: bytes, size: int) -> _Outcome:
        descriptor = self.maker.open_again([Name(*name) for name in names])
        try:
            return 0, 0, check_chunks(descriptor, first, hashes, size), []
        finally:
            os.close(descriptor)

    def _special(self, objects: List[Tuple[bytes, List[Tuple[int, bytes]]]]) -> _Outcome:
        for raw, names in objects:
            self.maker.special(fmt.decode_object(raw), [Name(*name) for name in names])
        return len(objects), 0, True, []

    def _directory(self, raw_records: List[bytes]) -> _Outcome:
        for raw in raw_records:
            record = fmt.decode_object(raw)
            if not stat.S_ISDIR(record.mode):
                raise fmt.damaged("a directory is not one")
            self._make_directory(record)
        return 0, 0, True, []

    def _make_directory(self, record: ObjectRecord) -> None:
        path = flat_path(record.number)
        try:
            os.mkdir(path, 0o700, dir_fd=self._staging)
        except FileNotFoundError:
            make_missing(self._staging, shard_path(record.number))
            make_missing(self._staging, path)
        except FileExistsError:
            return  # a restore that was interrupted has made it
        if record.flags & EARLY_DIRECTORY_FLAGS:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._staging)
            try:
                self._attributes.early(descriptor, record, EARLY_DIRECTORY_FLAGS)
            finally:
                os.close(descriptor)


def make_missing(staging: int, path: bytes) -> None:
    """mkdir, which another worker may just have done."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700, dir_fd=staging)


def extend(descriptor: int, size: int) -> bool:
    """Give a file its size before its data; False where no file can be as large here."""
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        return False
    return True


def write_pieces(descriptor: int, pieces: Sequence[Piece]) -> None:
    """Write the data extents; holes are there already, since the file is fresh and has its size."""
    for extent, part in pieces:
        if extent.kind == fmt.EXTENT_DATA:
            write_at(descriptor, part, extent.offset)


def _by_object(packed: PackedData) -> list[tuple[int, list[Piece]]]:
    codec, raw_length, count, payload = packed
    raw = codecs.decompress(codec, payload, raw_length)
    extents = fmt.decode_extents(raw, count)
    grouped: list[tuple[int, list[Any]]] = []
    last = 0
    for piece in fmt.iter_extents_with_data(raw, extents):
        number = piece[0].number
        if number != last:
            if number < last:
                raise fmt.damaged("the data of a frame is not in order")
            grouped.append((number, []))
            last = number
        grouped[-1][1].append(piece)
    return grouped
