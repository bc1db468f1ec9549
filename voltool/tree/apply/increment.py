"""An increment applied in place to a held tree: names, contents and attributes that differ, and the new manifest.

What is touched is first held by a link under its number (``HOLD``), then old names go, contents are changed, new names
come: so nothing is lost however names were swapped, and all of it can be repeated after a crash. The increment lies whole in
a file and was checked before anything is touched. Ships to servers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from dataclasses import dataclass, replace
from typing import Iterator, List, Optional, Tuple

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.compose import ChunkTable
from voltool.dumpfile.format import ObjectRecord
from voltool.dumpfile.frames import FrameDecoder, decode_data
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, SEALS, Attributes
from voltool.tree.apply.batches import make_missing
from voltool.tree.apply.files import FileMaker, Piece, check_chunks, flat_path, shard_path, translate, write_at
from voltool.tree.apply.held import HeldRecord, HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.records import is_omitted
from voltool.tree.apply.skeleton import is_directory
from voltool.tree.blocks import BlockTable, block_file_name, write_chunk_file
from voltool.tree.spool import SortedSpool
from voltool.tree.stamps import NO_LAYOUT
from voltool.tree.state import BaseState, StateWriter

#: The directory of links by object number: 0 never names a directory of the tree.
HOLD = 0
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_PUNCH_HOLE_KEEP_SIZE = 3
#: Chunk hashes in one run of a chunk file.
_RUN_CHUNKS = 8192


@dataclass(frozen=True)
class Brought:
    """What an increment brought: files and other objects touched, bytes of data, and the state that is held now."""

    state_id: str
    files: int
    bytes: int


class IncrementFile:
    """Receives an increment into its file; `close` it. Nothing of the tree is touched before `finish` has checked it whole."""

    def __init__(self, held: HeldTree) -> None:
        self._held = held
        self._decoder = FrameDecoder("the increment")
        self._file = open(held.increment_path, "wb", buffering=1 << 20)  # noqa: SIM115 - see close

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the stream. Raises IntegrityError, SpaceError."""
        for _frame in self._decoder.feed(data):
            pass
        try:
            self._file.write(data)
        except OSError as error:
            raise translate(error, "an increment") from error

    def finish(self) -> None:
        """The stream is complete and whole: from now on it is applied, whatever happens."""
        self._decoder.finish()
        assert self._held.record is not None
        header = self._decoder.header
        if header is None or header.base_state_id != self._held.record.state_id:
            raise IntegrityError("the increment does not fit what is staged", why="it was made against another state")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise translate(error, "an increment") from error
        self._held.save(replace(self._held.record, applying=True))

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(OSError):
            self._file.close()


def apply_waiting(held: HeldTree, attributes: Attributes, owners: Owners, losses: Losses) -> Optional[Brought]:
    """Apply the increment that `IncrementFile.finish` left, or go on with it after a crash; None where none waits."""
    record = held.record
    if record is None or not record.applying:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(held.increment_path)
        return None
    source = _LocalFile(held.increment_path)
    try:
        reader = DumpReader(source, "the increment")
        held.learn_owners(owners, reader.records(fmt.OWNERS))
        increment = Increment(held, reader, attributes, losses)
        state_id = increment.apply()
        held.save(HeldRecord(state_id))
        increment.end()
    finally:
        source.close()
    os.unlink(held.increment_path)
    held.keeper.keep_only({state_id})
    return Brought(state_id, increment.files, increment.bytes)


class _LocalFile:
    """A file as `RandomAccess`."""

    def __init__(self, path: bytes) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """As of `RandomAccess`."""
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


class Increment:
    """One increment; `apply` it. Everything is derived from ``reader``, so it can be made anew after a crash."""

    def __init__(self, held: HeldTree, reader: DumpReader, attributes: Attributes, losses: Losses) -> None:
        self._held = held
        self._reader = reader
        self._attributes = attributes
        self._losses = losses
        self._staging = held.staging.descriptor
        self._maker = FileMaker(self._staging, attributes, losses, again=True)
        self._touched = Bitmap()
        self._dead: List[int] = []
        self._hasher = fmt.StateHasher()
        self._data = _Data(reader)
        self._next_number = 2
        self.bytes = 0
        self.files = 0

    def apply(self) -> str:
        """Bring tree and manifest to the increment's state; the id. IntegrityError where it does not fit what is held."""
        base = self._held.state()
        names = SortedSpool(self._held.staging.path)
        state = self._held.keeper.create("increment")
        try:
            if self._reader.header.base_state_id != base.state_id:
                raise IntegrityError(
                    "the increment does not fit what is staged", why="it was made against another state"
                )
            self._begin()
            self._merge_entries(base, state, names)
            self._held.staging.sync()
            self._remove_names()
            self._merge_objects(base, state, names)
            self._remove_directories()
            self._held.staging.sync()
            if self._hasher.state_id() != self._reader.state_id:
                raise fmt.damaged("its state id does not match what it leads to")
            state.publish(self._reader.state_id, max(self._next_number, base.next_number))
        except OSError as error:
            raise translate(error, "to the staging directory") from error
        finally:
            state.abandon()
            names.close()
            base.close()
        return self._reader.state_id

    def end(self) -> None:
        """After the new state is recorded: let go of what was held. Idempotent."""
        path = os.path.join(self._held.staging.path, flat_path(HOLD))
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(path):
                self._maker.remove(flat_path(HOLD) + b"/" + name)

    # -------------------------------------------------------------------------------------------------- what differs

    def _begin(self) -> None:
        self._make_directory(HOLD, 0)
        for record in self._reader.objects():
            number = int.from_bytes(record[:8], "big")
            if fmt.is_object_tombstone(record):
                self._dead.append(number)
                continue
            self._touched.add(number)
            if is_directory(record):
                self._make_directory(number, fmt.decode_object(record).flags)
        for entry in self._reader.entries():
            self._touched.add(int.from_bytes(entry[-8:], "big"))

    def _make_directory(self, number: int, flags: int) -> None:
        make_missing(self._staging, shard_path(number))
        try:
            os.mkdir(flat_path(number), 0o700, dir_fd=self._staging)
        except FileExistsError:
            return
        if flags & EARLY_DIRECTORY_FLAGS:
            descriptor = os.open(flat_path(number), _READ | os.O_DIRECTORY, dir_fd=self._staging)
            try:
                inodes.set_flags(descriptor, flags, EARLY_DIRECTORY_FLAGS)
            except OSError:
                self._losses.attribute("inode flag F (chattr +F)", number)
            finally:
                os.close(descriptor)

    # --------------------------------------------------------------------------------------------------------- names

    def _merge_entries(self, base: BaseState, state: StateWriter, names: SortedSpool) -> None:
        """The new manifest's entries; on the way everything that is touched is held, and its names are gathered."""
        touched = self._touched
        for old, new in _joined(iter(base.entries), self._reader.entries(), 8):
            if old is not None and int.from_bytes(old[-8:], "big") in touched:
                self._hold(old)
            final = new or old
            assert final is not None
            if final[-8:] == b"\0" * 8:
                continue
            state.entries.add(final)
            self._hasher.add_entry(final)
            if int.from_bytes(final[-8:], "big") in touched:
                names.add(final[-8:] + final[:-9])

    def _hold(self, entry: bytes) -> None:
        directory, name, child = fmt.decode_entry(entry)
        source, target = flat_path(directory) + b"/" + name, _hold_path(child)
        try:
            self._link(source, target)
        except (FileNotFoundError, FileExistsError):
            pass  # a directory, which has no place in the flat tree; or it is held already
        except PermissionError:
            if stat.S_ISDIR(os.stat(source, dir_fd=self._staging, follow_symlinks=False).st_mode):
                return
            self._unseal(source)
            self._link(source, target)

    def _link(self, source: bytes, target: bytes) -> None:
        os.link(source, target, src_dir_fd=self._staging, dst_dir_fd=self._staging, follow_symlinks=False)

    def _remove_names(self) -> None:
        """Names that are gone or now another object's; who is to have them is held."""
        for entry in self._reader.entries():
            directory, name, _child = fmt.decode_entry(entry)
            with contextlib.suppress(NotADirectoryError):
                self._maker.remove(flat_path(directory) + b"/" + name)

    def _remove_directories(self) -> None:
        for number in self._dead:
            path = flat_path(number)
            try:
                os.rmdir(path, dir_fd=self._staging)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                for name in os.listdir(os.path.join(self._held.staging.path, path)):
                    self._maker.remove(path + b"/" + name)
                os.rmdir(path, dir_fd=self._staging)

    def _place(self, number: int, names: List[Name]) -> None:
        """Give a held object its names, and take nobody else's away but theirs who have lost it."""
        held = _hold_path(number)
        for name in names:
            path = self._maker.path(name)
            try:
                self._link(held, path)
            except FileExistsError:
                here, there = self._inode(held), self._inode(path)
                if here != there:
                    self._maker.remove(path)
                    self._link(held, path)

    def _inode(self, path: bytes) -> int:
        return os.stat(path, dir_fd=self._staging, follow_symlinks=False).st_ino

    # ------------------------------------------------------------------------------------------------------- objects

    def _merge_objects(self, base: BaseState, state: StateWriter, names: SortedSpool) -> None:
        named = _Names(names)
        for old, new in _joined(iter(base.objects), self._reader.objects(), 0):
            final = new or old
            assert final is not None
            if fmt.is_object_tombstone(final):
                continue
            state.objects.add(final)
            self._hasher.add_object(final)
            number = int.from_bytes(final[:8], "big")
            self._next_number = max(self._next_number, number + 1)
            record = None
            if number in self._touched and not is_directory(final):
                record = fmt.decode_object(final)
                found = named.of(number)
                if not found:
                    raise fmt.damaged("an object has no name")
                self._bring(record, fmt.decode_object(old) if old is not None else None, found, state)
            elif int.from_bytes(final[20:28], "big") > fmt.CHUNK_SIZE:
                state.large.append(_chunk_file(fmt.decode_object(final)))

    def _bring(self, record: ObjectRecord, old: Optional[ObjectRecord], names: List[Name], state: StateWriter) -> None:
        """One touched object, to what it is now."""
        self.files += 1
        sealed = record.flags & SEALS and not any(name.directory == ROOT_OBJECT for name in names)
        if not stat.S_ISREG(record.mode):
            self._maker.special(record, [Name(HOLD, b"%x" % record.number)])
            if self._is_held(record.number):
                self._place(record.number, names)
            else:
                self._remove_all(record.number, names)
            return
        pieces = self._data.pieces(record.number)
        first = next(pieces, None)
        if is_omitted(fmt.encode_object(record)):
            self._losses.object(record.number, "it could not be read when it was dumped")
            self._remove_all(record.number, names)
            return
        descriptor = self._open(record, old, changes=first is not None)
        if descriptor < 0:
            return
        try:
            if first is not None:
                self._write(descriptor, record, first, pieces)
            elif not record.state & fmt.STATE_VERITY and os.fstat(descriptor).st_size != record.size:
                os.ftruncate(descriptor, record.size)
            self._check(descriptor, record, old, state, changed=first is not None)
            self._place(record.number, names)
            self._attributes.strip(descriptor, record)
            self._attributes.finish(descriptor, record, seal=bool(sealed) and not record.state & fmt.STATE_VERITY)
        finally:
            os.close(descriptor)
        if record.state & fmt.STATE_VERITY and first is not None:
            self._maker.end_large(record, [Name(HOLD, b"%x" % record.number)])

    def _is_held(self, number: int) -> bool:
        try:
            self._inode(_hold_path(number))
        except FileNotFoundError:
            return False
        return True

    def _remove_all(self, number: int, names: List[Name]) -> None:
        for path in [_hold_path(number), *map(self._maker.path, names)]:
            self._maker.remove(path)

    def _open(self, record: ObjectRecord, old: Optional[ObjectRecord], *, changes: bool) -> int:
        """The held file, or a new one; -1 where the target cannot hold it."""
        if old is not None and stat.S_ISREG(old.mode) and self._is_held(record.number):
            can_write = changes or not record.state & fmt.STATE_VERITY
            return self._reopen(_hold_path(record.number), _WRITE if can_write else _READ)
        return self._maker.create(record, [Name(HOLD, b"%x" % record.number)])

    def _reopen(self, path: bytes, how: int) -> int:
        try:
            return os.open(path, how, dir_fd=self._staging)
        except PermissionError:
            self._unseal(path)  # a run that was interrupted had come so far
            return os.open(path, how, dir_fd=self._staging)

    def _unseal(self, path: bytes) -> None:
        descriptor = os.open(path, _READ, dir_fd=self._staging)
        try:
            inodes.set_flags(descriptor, 0, SEALS)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, record: ObjectRecord, first: Piece, rest: Iterator[Piece]) -> None:
        if first[0].flags & fmt.EXTENT_FRESH:
            os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, record.size)
        fresh = bool(first[0].flags & fmt.EXTENT_FRESH)
        for extent, data in _and(first, rest):
            if extent.offset + extent.length > record.size:
                raise fmt.damaged("a file has more bytes than its size says")
            if extent.kind == fmt.EXTENT_DATA:
                write_at(descriptor, data, extent.offset)
                self.bytes += len(data)
            elif not fresh:
                _punch(descriptor, extent.offset, extent.length)

    def _check(
        self,
        descriptor: int,
        record: ObjectRecord,
        old: Optional[ObjectRecord],
        state: StateWriter,
        *,
        changed: bool,
    ) -> None:
        """What stands there now has the record's content; a large file's chunk hashes are kept."""
        if record.size <= fmt.CHUNK_SIZE:
            if (changed or old is None or old.content != record.content) and (
                fmt.hash_small(os.pread(descriptor, record.size + 1, 0)) != record.content
            ):
                raise fmt.damaged(f"the content of object {record.number} does not match its hash")
            return
        name = _chunk_file(record)
        if not changed and old is not None and old.content == record.content:
            state.large.append(name)
            return
        table = ChunkTable(record.size)
        if old is not None and self._reader.begins_fresh(record.number) is False:
            self._known_chunks(old, table, record.size)
        for first, hashes in self._reader.chunk_runs(record.number):
            if not check_chunks(descriptor, first, b"".join(hashes), record.size):
                raise fmt.damaged(f"the content of object {record.number} does not match its hash")
            for index, value in enumerate(hashes, first):
                table.set(index, value)
        if table.content_hash() != record.content:
            raise fmt.damaged(f"the content of object {record.number} does not match its hash")
        path = os.path.join(self._held.keeper.blocks, name)
        write_chunk_file(path, record.size, [(first, hashes, b"") for first, hashes in table.runs(_RUN_CHUNKS)])
        state.large.append(name)

    def _known_chunks(self, old: ObjectRecord, table: ChunkTable, size: int) -> None:
        """Lay the base's chunk hashes into ``table``, as far as the file reaches now."""
        known = BlockTable.open(os.path.join(self._held.keeper.blocks, _chunk_file(old)))
        try:
            whole = min(old.size, size) // fmt.CHUNK_SIZE
            last = known.chunks if old.size == size else min(known.chunks, whole)
            for index in range(last):
                table.set(index, known.chunk(index)[0])
        finally:
            known.close()


class _Data:
    """The increment's data, read forward once: objects come in ascending order."""

    def __init__(self, reader: DumpReader) -> None:
        self._pieces = self._all(reader)
        self._next: Optional[Piece] = next(self._pieces, None)

    @staticmethod
    def _all(reader: DumpReader) -> Iterator[Piece]:
        for position in reader.index.of_type(fmt.DATA):
            extents, raw = decode_data(reader.frame(position), reader.name)
            yield from fmt.iter_extents_with_data(raw, extents)

    def pieces(self, number: int) -> Iterator[Piece]:
        """The extents of one object with their bytes; those of objects before it are passed over."""
        while self._next is not None and self._next[0].number <= number:
            piece = self._next
            self._next = next(self._pieces, None)
            if piece[0].number == number:
                yield piece


class _Names:
    """The names of touched objects, in the order of objects."""

    def __init__(self, spool: SortedSpool) -> None:
        self._records = iter(spool)
        self._next = next(self._records, None)

    def of(self, number: int) -> List[Name]:
        """The names of object ``number``; asked for in ascending order."""
        found: List[Name] = []
        key = number.to_bytes(8, "big")
        while self._next is not None and self._next[:8] <= key:
            if self._next[:8] == key:
                found.append(Name(int.from_bytes(self._next[8:16], "big"), self._next[16:]))
            self._next = next(self._records, None)
        return found


def _hold_path(number: int) -> bytes:
    return flat_path(HOLD) + b"/%x" % number


def _chunk_file(record: ObjectRecord) -> bytes:
    return block_file_name(record.number, record.content, NO_LAYOUT)


def _and(first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    yield first
    yield from rest


def _joined(
    olds: Iterator[bytes], news: Iterator[bytes], tail: int
) -> Iterator[Tuple[Optional[bytes], Optional[bytes]]]:
    """Pairs of the old and the new record of one key. Keys are all but the last ``tail`` bytes, or (0) the first 8."""

    def key(record: bytes) -> bytes:
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


def _punch(descriptor: int, offset: int, length: int) -> None:
    """Make a hole; where the file system has none, zeros. Raises OSError. Source: fallocate(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    if call(descriptor, _PUNCH_HOLE_KEEP_SIZE, offset, length) != 0:
        zeros = memoryview(bytes(fmt.CHUNK_SIZE))
        for at in range(offset, offset + length, fmt.CHUNK_SIZE):
            write_at(descriptor, zeros[: min(fmt.CHUNK_SIZE, offset + length - at)], at)
