"""Small files in batches: read, hash, one compressed frame for many. What a worker process does. Ships to servers."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import time
from dataclasses import dataclass, field
from typing import Any, Deque, List, NamedTuple, Optional, Tuple, Union

from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import PackedFrame, pack_frame
from voltool.leases import lease_test
from voltool.tree.layout import data_segments, layout_digest, with_holes
from voltool.tree.opening import (
    OPEN_QUIET,
    READ,
    UNREADABLE,
    UNSTABLE,
    VANISHED,
    Opener,
    encode_file,
    flags_of,
    reason_of,
)
from voltool.tree.room import Room
from voltool.tree.stamps import NO_LAYOUT, SIZE, encode_file_stamp, encode_home, encode_stamp
from voltool.tree.walk import TICK_NS

#: How often a file that is being written to is read again in the hope that it settles, and the pause between (s).
ATTEMPTS = 3
PAUSE = 0.03
#: How many files of a frozen image are open before it is their turn.
AHEAD = 32


class SmallFile(NamedTuple):
    """One file of a batch. ``base`` is the base's content hash (empty: send it in any case), ``layout`` its layout,
    ``old`` its whole record: what turns out to be as it was leaves no trace in the dump."""

    number: int
    name: bytes
    stamp: bytes
    inode: int
    base: bytes
    layout: bytes
    old: bytes


class Trouble(NamedTuple):
    """A file that was not read as it stood: its position in the batch, how that ended, and why."""

    position: int
    status: int
    why: str


class _Found(NamedTuple):
    """What a close look found; ``inode`` 0: another file has taken its name; ``segments`` None: as in the base."""

    record: bytes
    stamp: bytes
    inode: int
    status: int
    settled: bool
    layout: bytes
    segments: Optional[List[Tuple[int, int]]]
    data: bytes


@dataclass
class _Batch:
    """What a batch of small files gathers: the raw extent table, the data, final records, home stamps."""

    extents: List[bytes] = field(default_factory=list)
    parts: List[bytes] = field(default_factory=list)
    records: List[bytes] = field(default_factory=list)
    homes: List[bytes] = field(default_factory=list)
    troubles: List[Tuple[Any, ...]] = field(default_factory=list)
    read: int = 0
    position: int = 0


class _Ahead:
    """Opens the files of a frozen image some places ahead of who reads them, and has them read from the disk meanwhile: nobody
    has read that image before, so each would be waited for otherwise. Not of a live tree, where each is judged at its open."""

    def __init__(self, opener: Opener, runs: List[Tuple[bytes, List[Tuple[Any, ...]]]]) -> None:
        self._opener = opener
        self._due = ((path, fields[1]) for path, files in runs for fields in files)
        self._opened: Deque[Union[int, OSError]] = collections.deque()
        for path, name in itertools.islice(self._due, AHEAD):
            self._open(path, name)

    def _open(self, path: bytes, name: bytes) -> None:
        try:
            descriptor = os.open(name, OPEN_QUIET, dir_fd=self._opener.directory(path))
        except OSError as error:
            self._opened.append(error)
            return
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        self._opened.append(descriptor)

    def next(self) -> int:
        """The descriptor of the next file, the caller's from now on. Raises what opening it has."""
        for path, name in itertools.islice(self._due, 1):
            self._open(path, name)
        opened = self._opened.popleft()
        if isinstance(opened, OSError):
            raise opened
        return opened

    def close(self) -> None:
        """Close what was not asked for."""
        while self._opened:
            opened = self._opened.popleft()
            if isinstance(opened, int):
                os.close(opened)


class SmallFileReader:
    """Reads batches of small files through ``opener``."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._settings = opener.settings

    def read(self, room: Room, runs: List[Tuple[bytes, List[Tuple[Any, ...]]]]) -> Tuple[Any, ...]:
        """A batch, as runs of files of one directory; what `Worker.work` returns for it."""
        batch = _Batch()
        live, leases = self._settings.live, self._settings.leases
        ahead = _Ahead(self._opener, [] if live else runs)
        try:
            for path, files in runs:
                for fields in files:
                    if (live and not leases) or not self._read_at_rest(path, fields, batch, ahead):
                        self._read_restless(path, SmallFile(*fields), batch)
                    batch.position += 1
        finally:
            ahead.close()
        frames = self._small_frames(batch, room)
        return frames, b"", batch.homes, batch.records, batch.troubles, batch.read

    def _read_at_rest(self, path: bytes, fields: Tuple[Any, ...], batch: _Batch, ahead: _Ahead) -> bool:
        """The short way, for a file that is as the scan saw it and that nobody writes to: nine system calls.

        False (and nothing done) when it is not, or is not certain: then `_read_restless` looks closely.
        """
        number, name, stamp, inode, base, base_layout, old = fields
        settings, opener = self._settings, self._opener
        try:
            descriptor = ahead.next() if not settings.live else os.open(name, OPEN_QUIET, dir_fd=opener.directory(path))
        except OSError:
            return False
        try:
            if settings.live and not lease_test(descriptor):
                return False
            moment = time.time_ns()
            data = os.read(descriptor, int.from_bytes(stamp[SIZE], "big") + 1)
            size = len(data)
            hole = os.lseek(descriptor, 0, os.SEEK_HOLE) if size else 0
            segments = None if hole >= size else list(data_segments(descriptor, 0, size))
            flags, project, xattrs, status = opener.attributes(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        if status.st_ino != inode or status.st_size != size or encode_file_stamp(status) != stamp:
            return False
        content = fmt.hash_small(data)
        layout = layout_digest(segments, size) if segments is not None else NO_LAYOUT
        record = encode_file(number, stamp, size, flags, project, 0, content, xattrs)
        at_rest = moment - status.st_ctime_ns > TICK_NS if settings.live else opener.frozen_settled(status)
        batch.homes.append(encode_home(inode, number, stamp, flags_of(settings, settled=at_rest), layout))
        batch.read += size
        if content != base or layout != base_layout:
            _add_extents(batch, number, segments, data)
            batch.records.append(record)
        elif record != old:
            batch.records.append(record)
        return True

    def _read_restless(self, path: bytes, file: SmallFile, batch: _Batch) -> None:
        found = self._small_file(path, file)
        if isinstance(found, str):
            batch.troubles.append((batch.position, UNREADABLE if found else VANISHED, found))
            return
        inode, status, settled = found.inode, found.status, found.settled
        if status != READ:
            batch.troubles.append((batch.position, status, reason_of(status)))
        if inode:
            flags = flags_of(self._settings, settled=settled) if status == READ else 0
            batch.homes.append(encode_home(inode, file.number, found.stamp, flags, found.layout))
        batch.read += len(found.data)
        if found.segments is not None or found.record != file.old:
            batch.records.append(found.record)
        if found.segments is not None:
            _add_extents(batch, file.number, found.segments, found.data)

    def _small_frames(self, batch: _Batch, room: Room) -> List[Tuple[Any, ...]]:
        frames: List[PackedFrame] = []
        codec, extents, records = self._settings.codec, batch.extents, batch.records
        if extents:
            first = fmt.Extent(*fmt.EXTENT.unpack(extents[0]))
            raw = b"".join(extents + batch.parts)
            frames.append(pack_frame(fmt.DATA, raw, len(extents), codec, first.number, first.offset))
        if records:
            key = int.from_bytes(records[0][:8], "big")
            frames.append(pack_frame(fmt.CONTENT, fmt.pack_records(records), len(records), codec, key))
        return [room.keep(frame) for frame in frames]

    def _small_file(self, path: bytes, file: SmallFile) -> Union[_Found, str]:
        """What was found, or why nothing was (empty: it vanished)."""
        for attempt in range(ATTEMPTS):
            try:
                opened = self._opener.open(self._opener.directory(path), file.name, file.inode)
            except FileNotFoundError:
                return ""
            except OSError as error:
                return error.strerror or str(error)
            grown = opened.status.st_size > fmt.CHUNK_SIZE
            try:
                # Too large now to be hashed and packed as a small file: what the scan saw of it is kept, and said so.
                wanted = int.from_bytes(file.stamp[SIZE], "big") if grown else opened.status.st_size
                data, segments = self._read_small(opened.descriptor, wanted)
                flags, project, xattrs, after = self._opener.attributes(opened.descriptor)
            except OSError as error:
                return error.strerror or str(error)
            finally:
                os.close(opened.descriptor)
            stamp = encode_stamp(after)
            settled, status = (False, UNSTABLE) if grown else self._opener.judge(opened, stamp)
            if status == READ or grown or attempt == ATTEMPTS - 1:
                break
            time.sleep(PAUSE * (attempt + 1))
        content = fmt.hash_small(data)
        layout = layout_digest(segments, len(data))
        bits = fmt.STATE_UNSETTLED if status == UNSTABLE else 0
        record = encode_file(file.number, stamp, len(data), flags, project, bits, content, xattrs)
        inode = file.inode if opened.status.st_ino == file.inode else 0
        same = content == file.base and layout == file.layout
        return _Found(record, stamp, inode, status, settled, layout, None if same else segments, data)

    def _read_small(self, descriptor: int, size: int) -> Tuple[bytes, List[Tuple[int, int]]]:
        if not size:
            return b"", []
        data = os.read(descriptor, size)
        while len(data) < size:
            more = os.read(descriptor, size - len(data))
            if not more:
                break
            data += more
        size = len(data)
        if os.lseek(descriptor, 0, os.SEEK_HOLE) >= size:
            return data, [(0, size)]
        return data, list(data_segments(descriptor, 0, size))


def _add_extents(batch: _Batch, number: int, segments: Optional[List[Tuple[int, int]]], data: bytes) -> None:
    """The extents of a fresh version; ``segments`` None: all of it is data."""
    pack = fmt.EXTENT.pack
    if not data:
        return
    if segments is None:
        batch.extents.append(pack(number, 0, len(data), fmt.EXTENT_DATA, fmt.EXTENT_FRESH))
        batch.parts.append(data)
        return
    flags = fmt.EXTENT_FRESH
    for offset, length, is_data in with_holes(segments, 0, len(data)):
        batch.extents.append(pack(number, offset, length, fmt.EXTENT_DATA if is_data else fmt.EXTENT_HOLE, flags))
        flags = 0
        if is_data:
            batch.parts.append(data[offset : offset + length])
