"""What the processes of a lazy replica know together: what is here, and who is fetching what. Ships to servers.

A byte for each object and one for each chunk of a large file, in memory that forked processes share: one byte is written at once,
so no lock is needed. Claims are locks on bytes of a file (fcntl(2), open file description locks): they end with the process
that holds them, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import struct
import threading
from typing import Iterator, List, NamedTuple, Set, Tuple

#: Of an object: nothing is here; all of it is; it is settled that it cannot be here (the file system cannot hold it, nobody has
#: its content); a large file has been begun, its chunks have bytes of their own.
MISSING, PRESENT, LOST, BEGUN = 0, 1, 2, 3

_UNSETTLED = re.compile(b"[\\x00\\x03]")
_MISSING_RUN = re.compile(b"\\x00*")
_SLOT = struct.Struct("=qqqq")
#: One slot for each process, written by it alone.
SLOTS = 8
_HEAD = SLOTS * _SLOT.size
_FLOCK = struct.Struct("hhqqi4x")


class Counts(NamedTuple):
    """``files`` and ``size`` (bytes) stored since the start; ``waiting``: reads that wait for a fetch now; ``full``: whether the
    last attempt to store found the disk full."""

    files: int
    size: int
    waiting: int
    full: int


class Presence:
    """The bytes. Make it before the processes are forked that share it."""

    def __init__(self, objects: int, chunks: int) -> None:
        self._map = mmap.mmap(-1, _HEAD + objects + chunks)
        self._chunks_at = _HEAD + objects
        view = memoryview(self._map)
        self.objects = view[_HEAD : self._chunks_at]
        self.chunks = view[self._chunks_at :]

    def is_complete(self) -> bool:
        """Whether every object is settled."""
        return self.next_unsettled(0) < 0

    def next_unsettled(self, position: int) -> int:
        """The first object from ``position`` on that is not settled; -1: none."""
        found = _UNSETTLED.search(self._map, _HEAD + position, self._chunks_at)
        return found.start() - _HEAD if found is not None else -1

    def missing_run(self, position: int, most: int) -> int:
        """Where the objects end of which nothing is here, from ``position`` on; not after more than ``most``."""
        start = _HEAD + position
        found = _MISSING_RUN.match(self._map, start, min(start + most, self._chunks_at))
        return found.end() - _HEAD if found is not None else position

    def count_chunks(self, start: int, stop: int) -> int:
        """How many of the chunks ``start`` to ``stop`` are here."""
        return bytes(self.chunks[start:stop]).count(1)

    def counts(self) -> List[Counts]:
        """What each slot says."""
        return [Counts(*_SLOT.unpack_from(self._map, slot * _SLOT.size)) for slot in range(SLOTS)]

    def waiting(self) -> bool:
        """Whether anybody waits for a fetch."""
        return any(count.waiting > 0 for count in self.counts())

    def reset(self, slot: int) -> None:
        """The process that wrote this slot is dead: nobody waits there any more; what it counted stays."""
        files, size, _waiting, _full = _SLOT.unpack_from(self._map, slot * _SLOT.size)
        _SLOT.pack_into(self._map, slot * _SLOT.size, files, size, 0, 0)


class Counter:
    """The slot of this process, for its threads."""

    def __init__(self, presence: Presence, slot: int) -> None:
        self._map = presence._map  # noqa: SLF001 - two halves of one thing
        self._at = slot * _SLOT.size
        self._lock = threading.Lock()

    def stored(self, files: int, size: int) -> None:
        """Something has come."""
        self._add(files, size, 0, None)

    def set_full(self, *, full: bool) -> None:
        """Whether the disk is full."""
        self._add(0, 0, 0, int(full))

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """A read waits while the context lasts."""
        self._add(0, 0, 1, None)
        try:
            yield
        finally:
            self._add(0, 0, -1, None)

    def _add(self, files: int, size: int, waiting: int, full: int | None) -> None:
        with self._lock:
            old = Counts(*_SLOT.unpack_from(self._map, self._at))
            _SLOT.pack_into(
                self._map,
                self._at,
                old.files + files,
                old.size + size,
                old.waiting + waiting,
                old.full if full is None else full,
            )


class Claims:
    """Who fetches or makes what, by number. One instance in each process, made in it."""

    def __init__(self, path: bytes) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._mine: Set[int] = set()
        self._lock = threading.Lock()

    def take(self, number: int) -> bool:
        """Whether it is ours now; another thread's of this process counts as another's."""
        with self._lock:
            if number in self._mine or not self._locked(number, number + 1):
                return False
            self._mine.add(number)
            return True

    def take_first(self, start: int, stop: int) -> Tuple[int, int]:
        """Take the first numbers from ``start`` on, as many as are free in a row; ``stop`` twice where none is before it."""
        with self._lock:
            first, end = start, stop
            while first < stop:
                end = min(self._mine.intersection(range(first, end)), default=end)
                if end == first:
                    first, end = first + 1, stop
                elif self._locked(first, end):
                    self._mine.update(range(first, end))
                    return first, end
                else:
                    taken = self._taken(first, end)
                    first, end = (first, taken[0]) if taken[0] > first else (taken[1], stop)
            return stop, stop

    def give_back(self, number: int) -> None:
        """It is nobody's."""
        self.give_back_span(number, number + 1)

    def give_back_span(self, start: int, stop: int) -> None:
        """They are nobody's."""
        with self._lock:
            self._mine.difference_update(range(start, stop))
            self._lock_bytes(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start, stop)

    def _locked(self, start: int, stop: int) -> bool:
        try:
            self._lock_bytes(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, start, stop)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True

    def _taken(self, start: int, stop: int) -> Tuple[int, int]:
        """A span of others in there; an empty one where they have just let go."""
        kind, _whence, first, length, _pid = _FLOCK.unpack(
            self._lock_bytes(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, start, stop)
        )
        return (start, start) if kind == fcntl.F_UNLCK else (max(first, start), min(first + length, stop))

    def _lock_bytes(self, what: int, kind: int, start: int, stop: int) -> bytes:
        return fcntl.fcntl(self._descriptor, what, _FLOCK.pack(kind, os.SEEK_SET, start, stop - start, 0))
