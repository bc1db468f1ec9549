"""What is here of a lazy replica, and how more gets there: every file whole, checked and with all its attributes, or not there.

The files lie in a staging in flat form (`tree.apply`), a large one under its name from its first chunk on. What is here stands in
memory that all processes share (`shared.Presence`), and in a file that is written only when what it says is on disk: after a
power cut it promises nothing that is not there. Knows nothing of mounts and of who fetches. Ships to servers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib
from typing import Iterator, List, Sequence, Tuple

from voltool import durable
from voltool.agent.lazy.index import TreeIndex, data_chunks
from voltool.agent.lazy.shared import BEGUN, LOST, MISSING, PRESENT, Claims, Counter, Presence
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import Extent, ObjectRecord
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, Attributes
from voltool.tree.apply.batches import extend, make_missing
from voltool.tree.apply.files import FileMaker, Piece, flat_path, shard_path, translate, write_at
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.records import is_omitted
from voltool.tree.apply.staging import Staging

#: What lies in the staging beside the tree.
INDEX = b"lazy"
_PRESENT = b"lazy-present"
_CLAIMS = b"lazy-claims"
_LOSSES = b"lazy-losses"
_HEAD = struct.Struct(">8s32sQQ")
_MAGIC = b"vtlazy1\0"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ZEROS = bytes(fmt.BLOCK_SIZE)
#: A path that is longer is walked in steps.
_LONG_PATH = 3900


class Store:
    """One lazy replica's files. Make it before the processes are forked that use it; each then makes its own `Writer`s."""

    def __init__(self, held: HeldTree, index: TreeIndex, *, numeric_owner: bool = False) -> None:
        self.held = held
        self.staging: Staging = held.staging
        self.index = index
        self.owners = Owners(numeric=numeric_owner)
        held.learn_owners(self.owners, [])
        self.presence = Presence(index.count, index.chunks)
        self._saved = b""
        self._roots: List[int] = []
        self._load()

    # ---------------------------------------------------------------------------------------------- what is on disk

    def _load(self) -> None:
        """Only what is safe there counts; what more there may be is made again."""
        data = _read_saved(self.staging.path, self.index)
        if data:
            self.presence.objects[:] = data[: self.index.count]
            self.presence.chunks[:] = data[self.index.count :]
            self._saved = data

    def save(self) -> None:
        """Make durable what is here, then say so durably. Raises VoltoolError where it cannot be (an I/O error, a full disk)."""
        # Chunks before objects: a chunk counts only in a file that has been begun.
        chunks = bytes(self.presence.chunks)
        objects = bytes(self.presence.objects)
        if objects + chunks == self._saved:
            return
        self.staging.sync()
        head = _HEAD.pack(_MAGIC, bytes.fromhex(self.index.state_id), len(objects), len(chunks))
        try:
            durable.write_file(os.path.join(self.staging.path, _PRESENT), head + zlib.compress(objects + chunks, 1))
        except OSError as error:
            raise translate(error, "what is there of a lazy replica") from error
        self._saved = objects + chunks

    def prepare(self) -> None:
        """Make the flat directories: files can be put into them then. Repeatable. Raises VoltoolError."""
        attributes = Attributes(self.owners, Losses())
        try:
            for position in range(self.index.count):
                if self.presence.objects[position] == MISSING and self.index.size(position) < 0:
                    record = self.index.record(position)
                    if stat.S_ISDIR(record.mode):
                        self._make_directory(record, attributes)
                        self.presence.objects[position] = PRESENT
        except OSError as error:
            raise translate(error, "a directory") from error
        self.save()
        self._open_roots()

    def _make_directory(self, record: ObjectRecord, attributes: Attributes) -> None:
        path = flat_path(record.number)
        try:
            os.mkdir(path, 0o700, dir_fd=self.staging.descriptor)
        except FileNotFoundError:
            make_missing(self.staging.descriptor, shard_path(record.number))
            make_missing(self.staging.descriptor, path)
        except FileExistsError:
            pass
        if record.flags & EARLY_DIRECTORY_FLAGS:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.staging.descriptor)
            try:
                attributes.early(descriptor, record, EARLY_DIRECTORY_FLAGS)
            finally:
                os.close(descriptor)

    def open_claims(self) -> Claims:
        """For this process."""
        return Claims(os.path.join(self.staging.path, _CLAIMS))

    def losses(self) -> Losses:
        """What could not be held, of all processes and runs."""
        found = Losses()
        with contextlib.suppress(FileNotFoundError), open(os.path.join(self.staging.path, _LOSSES), "rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # cut off by a power cut
                    found.merge(line)
        return found

    def note_losses(self, losses: Losses) -> None:
        """Keep them, and begin anew. Raises VoltoolError."""
        line = losses.take()
        if not line:
            return
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(os.path.join(self.staging.path, _LOSSES), flags, 0o600)
            try:
                os.write(descriptor, line + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise translate(error, "what could not be held") from error

    def clear_up(self) -> None:
        """Remove what only a lazy replica needs; its tree is a plain one from here on."""
        for name in (_PRESENT, _CLAIMS, _LOSSES):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.staging.path, name))

    # --------------------------------------------------------------------------------------------------- what is here

    def is_present(self, position: int) -> bool:
        """Whether all of it is here."""
        return self.presence.objects[position] == PRESENT

    def has_chunk(self, position: int, chunk: int) -> bool:
        """Whether a chunk (by id) of the large file at ``position`` is here."""
        return bool(self.presence.chunks[chunk]) and self.presence.objects[position] in (BEGUN, PRESENT)

    def open(self, position: int) -> int:
        """A descriptor for reading of what is here of a file; wherever the tree has got to meanwhile. Raises OSError."""
        name = self.index.names(position)[0]
        path = name.name
        directory = name.directory
        while directory != ROOT_OBJECT:
            # A directory stands flat until it is put into its parent, which does too: in this order none is missed.
            with contextlib.suppress(FileNotFoundError):
                return _open_below(self.staging.descriptor, flat_path(directory) + b"/" + path)
            above = self.index.names(self.index.position(directory))[0]
            directory, path = above.directory, above.name + b"/" + path
        for root in self._roots[:-1]:
            with contextlib.suppress(FileNotFoundError):
                return _open_below(root, path)
        return _open_below(self._roots[-1], path)

    def _open_roots(self) -> None:
        """Where the tree's root is, and where it goes: its names do not matter any more then."""
        flat = os.open(flat_path(ROOT_OBJECT), _READ | os.O_DIRECTORY, dir_fd=self.staging.descriptor)
        self._roots = [flat]
        if os.path.isdir(self.staging.target):
            self._roots.append(self.staging.open_target())

    def missing_size(self) -> Tuple[int, int]:
        """How many files, and bytes of them, are not here."""
        files = size = 0
        position = self.presence.next_unsettled(0)
        while position >= 0:
            length = self.index.size(position)
            if length >= 0:
                files += 1
                size += self._missing_of(position, length)
            position = self.presence.next_unsettled(position + 1)
        return files, size

    def _missing_of(self, position: int, length: int) -> int:
        if length <= fmt.CHUNK_SIZE:
            return length
        begun = self.presence.objects[position] == BEGUN
        missing = 0
        for _first, count, base in self.index.runs(position):
            missing += count - (self.presence.count_chunks(base, base + count) if begun else 0)
        return min(missing * fmt.CHUNK_SIZE, length)

    def has_all_chunks(self, position: int) -> bool:
        """Whether of a large file nothing but its end is missing."""
        runs = self.index.runs(position)
        return all(self.presence.count_chunks(base, base + count) == count for _first, count, base in runs)


def read_presence(staging: bytes, index: TreeIndex) -> bytes:
    """What is here of each object, as it was last made durable: as in `shared.Presence`. For who only looks."""
    return _read_saved(staging, index)[: index.count] or bytes([MISSING]) * index.count


def _read_saved(staging: bytes, index: TreeIndex) -> bytes:
    """Empty where nothing was saved for this index."""
    try:
        with open(os.path.join(staging, _PRESENT), "rb") as file:
            magic, state, objects, chunks = _HEAD.unpack(file.read(_HEAD.size))
            data = zlib.decompress(file.read())
    except (OSError, struct.error, zlib.error):
        return b""
    known = (magic, state.hex(), objects, chunks) == (_MAGIC, index.state_id, index.count, index.chunks)
    return data if known and len(data) == objects + chunks else b""


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

    def small(self, position: int, record: ObjectRecord, data: bytes) -> None:
        """A whole file of at most CHUNK_SIZE bytes. Raises VoltoolError: SpaceError leaves nothing."""
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
    return is_omitted(fmt.encode_object(record))


def data_runs(data: bytes) -> Iterator[Tuple[int, int]]:
    """(start, end) of what is not zero, in whole blocks."""
    if _ZEROS not in data:
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


def _open_below(directory: int, path: bytes) -> int:
    if len(path) < _LONG_PATH:
        return os.open(path, _READ, dir_fd=directory)
    current = os.dup(directory)
    try:
        *above, name = path.split(b"/")
        for part in above:
            below = os.open(part, _READ | os.O_DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
        return os.open(name, _READ, dir_fd=current)
    finally:
        os.close(current)
