"""What is here of a lazy replica, and how more gets there: every file whole, checked and with all its attributes, or not there.

The files lie in a staging in flat form (`tree.apply`), a large one under its name from its first chunk on. What is here stands in
memory that all processes share (`shared.Presence`), and in a file that is written only when what it says is on disk: after a
power cut it promises nothing that is not there. Knows nothing of mounts and of who fetches. Ships to servers.
"""

from __future__ import annotations

import contextlib
import os
from itertools import compress
from typing import List, Tuple

from voltool.agent.lazy import saved
from voltool.agent.lazy.index import TreeIndex
from voltool.agent.lazy.shared import BEGUN, MISSING, PRESENT, Claims, Presence
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, Attributes
from voltool.tree.apply.batches import make_missing
from voltool.tree.apply.files import flat_path, shard_path, translate
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.staging import Staging

#: What lies in the staging beside the tree.
INDEX = b"lazy"
_CLAIMS = b"lazy-claims"
_LOSSES = b"lazy-losses"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_ZEROS = bytes(fmt.BLOCK_SIZE)
#: A path that is longer is walked in steps.
_LONG_PATH = 3900
_AT_ONCE = 1 << 16
#: A byte of what is here of an object to whether it is not settled.
_IS_UNSETTLED = bytes(value in (MISSING, BEGUN) for value in range(256))


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
        data = saved.read(self.staging.path, self.index)
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
        try:
            saved.write(self.staging.path, self.index, objects + chunks)
        except OSError as error:
            raise translate(error, "what is there of a lazy replica") from error
        self._saved = objects + chunks

    def prepare(self) -> None:
        """Make the flat directories: files can be put into them then. Repeatable. Raises VoltoolError."""
        attributes = Attributes(self.owners, Losses())
        try:
            for position in self.index.all_directories:
                if self.presence.objects[position] == MISSING:
                    self._make_directory(self.index.record(position), attributes)
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
        for name in (saved.NAME, _CLAIMS, _LOSSES):
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
        for start in range(0, self.index.count, _AT_ONCE):
            unsettled = bytes(self.presence.objects[start : start + _AT_ONCE]).translate(_IS_UNSETTLED)
            lengths = [
                length for length in compress(self.index.sizes[start : start + _AT_ONCE], unsettled) if length >= 0
            ]
            files += len(lengths)
            size += sum(lengths)
        for position in self.index.all_large:
            if self.presence.objects[position] in (MISSING, BEGUN):
                length = self.index.size(position)
                size += self._missing_of(position, length) - length
        return files, size

    def _missing_of(self, position: int, length: int) -> int:
        begun = self.presence.objects[position] == BEGUN
        missing = 0
        for _first, count, base in self.index.runs(position):
            missing += count - (self.presence.count_chunks(base, base + count) if begun else 0)
        return min(missing * fmt.CHUNK_SIZE, length)

    def has_all_chunks(self, position: int) -> bool:
        """Whether of a large file nothing but its end is missing."""
        runs = self.index.runs(position)
        return all(self.presence.count_chunks(base, base + count) == count for _first, count, base in runs)


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
