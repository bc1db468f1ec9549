"""An increment applied in place to a held tree: names, contents and attributes that differ, and the new manifest.

What is touched is first held by a link under its number (`rewrite.HOLD`), then old names go, contents are changed, new names
come: so nothing is lost however names were swapped, and all of it can be repeated after a crash. The increment lies whole in
a file and was checked before anything is touched. Ships to servers.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Iterator, List, Optional, Sequence, Union

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.format import ObjectRecord
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, SEALS, Attributes
from voltool.tree.apply.batches import make_missing
from voltool.tree.apply.files import FileMaker, flat_path, shard_path, translate
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.names import Name
from voltool.tree.apply.parts import load_parts
from voltool.tree.apply.records import is_omitted
from voltool.tree.apply.rewrite import HOLD, Rewriter, chunk_file, hold_path
from voltool.tree.apply.skeleton import is_directory
from voltool.tree.blocks import block_file_number
from voltool.tree.recordfile import Block, RecordFile, joined
from voltool.tree.state import BaseState, StateWriter

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


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
        self._next_number = 2
        self._rewriter = Rewriter(held, reader, self._maker)
        self._parts = load_parts(held.staging.path)
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

    @property
    def size(self) -> int:
        """Bytes of file content written."""
        return self._rewriter.bytes

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
        wanted = sorted(self._parts.directories) if self._parts is not None else None
        for old, new in joined(_records(base.entries, wanted), self._reader.entries(), 8):
            if isinstance(old, Block):
                state.entries.add_block(old)
                self._hasher.add_entries(old.raw, old.records)
                continue
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
        source, target = flat_path(directory) + b"/" + name, hold_path(child)
        try:
            self._link(source, target)
        except (FileNotFoundError, FileExistsError):
            pass  # a directory, which has no place in the flat tree; or it is held already
        except PermissionError:
            if stat.S_ISDIR(os.stat(source, dir_fd=self._staging, follow_symlinks=False).st_mode):
                return
            self._rewriter.unseal(source)
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
        held = hold_path(number)
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
        wanted = sorted(self._parts.touched) if self._parts is not None else None
        if wanted is not None:
            large = self._held.keeper.large(base.state_id)
            state.large += [name for name in large if block_file_number(name) not in self._touched]
        for old, new in joined(_records(base.objects, wanted), self._reader.objects(), 0):
            if isinstance(old, Block):
                state.objects.add_block(old)
                self._hasher.add_objects(old.raw, old.records)
                continue
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
                if new is None and self._held.shared and self._only_names(record, found, state):
                    continue
                self._bring(record, fmt.decode_object(old) if old is not None else None, found, state)
            elif int.from_bytes(final[20:28], "big") > fmt.CHUNK_SIZE:
                state.large.append(chunk_file(fmt.decode_object(final)))

    def _only_names(self, record: ObjectRecord, names: List[Name], state: StateWriter) -> bool:
        """Of an object that is as it was, and shares its inode with another tree, the names alone; False where more is needed."""
        if record.flags & SEALS or not self._is_held(record.number):
            return False
        self.files += 1
        self._place(record.number, names)
        if stat.S_ISREG(record.mode) and record.size > fmt.CHUNK_SIZE:
            state.large.append(chunk_file(record))
        return True

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
        change = self._rewriter.change(record, old)
        if is_omitted(fmt.encode_object(record)):
            if not record.state & fmt.STATE_VANISHED:
                self._losses.unread(record.number)
            self._remove_all(record.number, names)
            return
        descriptor = change.open(held=self._is_held(record.number))
        if descriptor < 0:
            return
        try:
            chunks = change.write(descriptor)
            if chunks:
                state.large.append(chunks)
            self._place(record.number, names)
            self._attributes.strip(descriptor, record)
            self._attributes.finish(descriptor, record, seal=bool(sealed) and not record.state & fmt.STATE_VERITY)
        finally:
            os.close(descriptor)
        if record.state & fmt.STATE_VERITY and change.is_new_to_verity:
            self._maker.end_large(record, [Name(HOLD, b"%x" % record.number)])

    def _is_held(self, number: int) -> bool:
        try:
            self._inode(hold_path(number))
        except FileNotFoundError:
            return False
        return True

    def _remove_all(self, number: int, names: List[Name]) -> None:
        for path in [hold_path(number), *map(self._maker.path, names)]:
            self._maker.remove(path)


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


def _records(file: RecordFile, wanted: Optional[Sequence[int]]) -> Iterator[Union[bytes, Block]]:
    """The records of a file; with ``wanted``, what cannot concern these numbers in blocks."""
    return iter(file) if wanted is None else file.around(wanted)
