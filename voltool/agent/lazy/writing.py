"""How something gets into the store of a lazy replica: whole, checked, with all its attributes, or not at all. Ships to servers.

Who writes has claimed what he writes (`shared.Claims`); what is right was checked before, and is again. See `store`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Iterator, List, Optional, Sequence, Tuple

from voltool.agent.lazy.index import data_chunks
from voltool.agent.lazy.shared import BEGUN, LOST, MISSING, PRESENT, Claims, Counter
from voltool.agent.lazy.store import Store
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import Extent, ObjectRecord
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.batches import extend
from voltool.tree.apply.files import FileMaker, Piece, translate, write_at
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name

_ZEROS = bytes(fmt.BLOCK_SIZE)


class Writer:
    """Puts files into a store. One for each thread. Who calls has claimed what he puts there, so nobody else does."""

    def __init__(self, store: Store, claims: Claims, counter: Counter) -> None:
        self._store = store
        self._claims = claims
        self._counter = counter
        self._losses = Losses()
        self._attributes = Attributes(store.owners, self._losses)
        self._maker = FileMaker(store.staging.descriptor, self._attributes, self._losses, again=True)
        self._large = -1
        self._large_fd = -1

    def small(self, position: int, record: ObjectRecord, data: bytes, names: Optional[Sequence[Name]] = None) -> None:
        """A whole file of at most CHUNK_SIZE bytes. ``names`` spare a look into the index. Raises VoltoolError: SpaceError leaves
        nothing."""
        if names is None:
            names = self._store.index.names(position)
        try:
            self._maker.small(record, names, pieces_of(record, data))
        except BaseException:
            with contextlib.suppress(OSError):
                self._remove(names)
            raise
        self._settled(position, record.number, len(data))

    def special(self, position: int, record: ObjectRecord) -> None:
        """A symlink, device, fifo or socket. Raises VoltoolError."""
        self._maker.special(record, self._store.index.names(position))
        self._settled(position, record.number, 0)

    def give_up(self, position: int, record: ObjectRecord) -> None:
        """Nobody has its content: there will be no file."""
        if not record.state & fmt.STATE_VANISHED:
            self._losses.unread(record.number)
        self._settled(position, record.number, 0, lost=True)

    def _settled(self, position: int, number: int, size: int, *, lost: bool = False) -> None:
        if self._losses.objects or self._losses.attributes:
            lost = lost or any(loss.number == number and not _is_there(loss.why) for loss in self._losses.objects)
            self._store.note_losses(self._losses)
        self._store.presence.objects[position] = LOST if lost else PRESENT
        self._counter.stored(1, size)

    def _remove(self, names: Sequence[Name]) -> None:
        for name in names:
            self._maker.remove(self._maker.path(name))

    # -------------------------------------------------------------------------------------------------- large files

    def chunk(self, position: int, record: ObjectRecord, index: int, chunk: int, data: bytes) -> bool:
        """Chunk ``index`` (by id: ``chunk``) of a large file; whether it was put there: not where the file cannot be held.
        Raises VoltoolError."""
        try:
            descriptor = self._open_large(position, record)
            if descriptor < 0:
                return False
            write_sparse(descriptor, data, index * fmt.CHUNK_SIZE)
        except OSError as error:
            raise translate(error, "a file") from error
        finally:
            if record.state & fmt.STATE_VERITY:
                self.close()  # which cannot be enabled while anybody has it open for writing
        self._store.presence.chunks[chunk] = 1
        self._counter.stored(0, len(data))
        return True

    def _open_large(self, position: int, record: ObjectRecord) -> int:
        if self._large == position and self._large_fd >= 0:
            return self._large_fd
        self.close()
        self._large_fd = self._begin(position, record)
        self._large = position
        return self._large_fd

    def _begin(self, position: int, record: ObjectRecord) -> int:
        """The file, open for writing; made where that has not been done; -1: it cannot be held here."""
        presence = self._store.presence
        names = self._store.index.names(position)
        with self._alone(position):
            if presence.objects[position] == BEGUN:
                descriptor = self._open_again(names)
                if descriptor >= 0:
                    return descriptor
                for _index, chunk in data_chunks(self._store.index, position):
                    presence.chunks[chunk] = 0  # of a file that is not as it was: nothing of it counts
                presence.objects[position] = MISSING
            if presence.objects[position] != MISSING:
                return -1
            self._remove(names)
            descriptor = self._maker.create(record, names)
            if descriptor >= 0 and not extend(descriptor, record.size):
                os.close(descriptor)
                self._remove(names)
                self._losses.object(record.number, "the target cannot hold a file of this size")
                descriptor = -1
            if descriptor < 0:
                self._settled(position, record.number, 0, lost=True)
            else:
                presence.objects[position] = BEGUN
        return descriptor

    def _open_again(self, names: Sequence[Name]) -> int:
        """-1 where it is not as a file that was begun is: an earlier run came further than it could say."""
        try:
            return self._maker.open_again(names)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOENT):
                raise
        return -1

    @contextlib.contextmanager
    def _alone(self, position: int) -> Iterator[None]:
        """Nobody else makes or finishes this file meanwhile; it takes a moment."""
        while not self._claims.take(position):
            os.sched_yield()
        try:
            yield
        finally:
            self._claims.give_back(position)

    def finish_large(self, position: int, record: ObjectRecord) -> bool:
        """Where all chunks are here: attributes, names, the hash over all; whether the file is settled. Raises VoltoolError."""
        store = self._store
        if not store.has_all_chunks(position):
            return False
        try:
            descriptor = self._open_large(position, record)
            names = store.index.names(position)
            with self._alone(position):
                if descriptor < 0 or store.presence.objects[position] in (PRESENT, LOST):
                    return store.presence.objects[position] in (PRESENT, LOST)
                self._remove(names[1:])
                runs = [(first, store.index.hashes(base, count)) for first, count, base in store.index.runs(position)]
                self._maker.finish_large(descriptor, record, names, runs)
                self.close()
                self._maker.end_large(record, names)
                self._settled(position, record.number, 0)
        except OSError as error:
            raise translate(error, "a file") from error
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Close the large file that was written last; idempotent."""
        if self._large_fd >= 0:
            os.close(self._large_fd)
        self._large, self._large_fd = -1, -1


def is_right_small(record: ObjectRecord, data: bytes) -> bool:
    """Whether these are the bytes of a small file."""
    return len(data) == record.size and fmt.hash_small(data) == record.content


def is_right_chunk(value: bytes, length: int, data: bytes) -> bool:
    """Whether these are the ``length`` bytes of a chunk with the hash ``value``."""
    return len(data) == length and fmt.chunk_hash(fmt.block_hashes(memoryview(data))) == value


def has_no_content(record: ObjectRecord) -> bool:
    """Whether nobody can have the bytes of a regular file: they were never read."""
    return bool(record.state & fmt.STATE_UNKNOWN) and record.content == fmt.NO_HASH


def data_runs(data: bytes) -> Iterator[Tuple[int, int]]:
    """(start, end) of what is not zero, in whole blocks."""
    whole = range(0, len(data) - fmt.BLOCK_SIZE + 1, fmt.BLOCK_SIZE)
    if not any(data[at] == 0 and data[at : at + fmt.BLOCK_SIZE] == _ZEROS for at in whole):
        if data:
            yield 0, len(data)
        return
    start = -1
    for at in range(0, len(data), fmt.BLOCK_SIZE):
        block = data[at : at + fmt.BLOCK_SIZE]
        if block == _ZEROS[: len(block)]:
            if start >= 0:
                yield start, at
            start = -1
        elif start < 0:
            start = at
    if start >= 0:
        yield start, len(data)


def write_sparse(descriptor: int, data: bytes, offset: int) -> None:
    """Write what is not zero: the file has its size, and holes elsewhere. Where an earlier run wrote something else, zeros are
    written too. Raises OSError."""
    view = memoryview(data)
    at = 0
    for start, end in [*data_runs(data), (len(data), len(data))]:
        if start > at and not _is_hole(descriptor, offset + at, offset + start):
            write_at(descriptor, view[at:start], offset + at)
        write_at(descriptor, view[start:end], offset + start)
        at = end


def _is_hole(descriptor: int, start: int, end: int) -> bool:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= end
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        raise


def pieces_of(record: ObjectRecord, data: bytes) -> List[Piece]:
    """A small file's bytes as `FileMaker` takes them."""
    view = memoryview(data)
    pieces: List[Piece] = []
    for start, end in data_runs(data):
        fresh = 0 if pieces else fmt.EXTENT_FRESH
        pieces.append((Extent(record.number, start, end - start, fmt.EXTENT_DATA, fresh), view[start:end]))
    return pieces


def _is_there(why: str) -> bool:
    """Whether a loss leaves the file itself: one of its further names is missing."""
    return "a hard link" in why
