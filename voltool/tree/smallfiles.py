"""Small files in batches: read, hash, one compressed frame for many. What a worker process does. Ships to servers."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, List, NamedTuple, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import PackedFrame, pack_frame
from voltool.leases import lease_test
from voltool.tree import opening
from voltool.tree.layout import data_segments, layout_digest, with_holes
from voltool.tree.opening import OPEN_QUIET, READ, UNREADABLE, UNSTABLE, VANISHED, Opener, encode_file, reason_of
from voltool.tree.stamps import NO_LAYOUT, SIZE
from voltool.tree.walk import TICK_NS

#: How often a file that is being written to is read again in the hope that it settles, and the pause between (s).
ATTEMPTS = 3
PAUSE = 0.03


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


class Outcome(NamedTuple):
    """What became of one file, and the parts of its home stamp; ``inode`` 0: another file has taken its name."""

    number: int
    inode: int
    status: int
    stamp: bytes
    settled: bool
    layout: bytes
    directory: int
    name: bytes
    why: str


@dataclass
class _Batch:
    """What a batch of small files gathers."""

    extents: List[fmt.Extent]
    parts: List[bytes]
    records: List[bytes]
    outcomes: List[Tuple[Any, ...]]
    read: int = 0


class SmallFileReader:
    """Reads batches of small files through ``opener``."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._settings = opener.settings

    def read(self, runs: List[Tuple[int, bytes, List[Tuple[Any, ...]]]]) -> Tuple[Any, ...]:
        """A batch, as runs of files of one directory; what `Worker.work` returns for it."""
        batch = _Batch([], [], [], [])
        for directory, path, files in runs:
            for fields in files:
                if not self._read_at_rest(path, directory, fields, batch):
                    self._read_restless(path, directory, SmallFile(*fields), batch)
        frames = self._small_frames(batch.extents, batch.parts, batch.records)
        return frames, b"", batch.outcomes, batch.records, batch.read

    def _read_at_rest(self, path: bytes, directory: int, fields: Tuple[Any, ...], batch: _Batch) -> bool:
        """The short way, for a file that is as the scan saw it and that nobody writes to: nine system calls.

        False (and nothing done) when it is not, or is not certain: then `_read_restless` looks closely.
        """
        number, name, stamp, inode, base, base_layout, old = fields
        settings = self._settings
        try:
            descriptor = os.open(name, OPEN_QUIET, dir_fd=self._opener.directory(path))
        except OSError:
            return False
        try:
            if settings.live:
                if not settings.leases or not lease_test(descriptor):
                    return False
                moment = time.time_ns()
            else:
                moment = settings.clone_time_ns
            data = os.read(descriptor, int.from_bytes(stamp[SIZE], "big") + 1)
            size = len(data)
            hole = os.lseek(descriptor, 0, os.SEEK_HOLE) if size else 0
            segments = [(0, size)] if hole >= size else list(data_segments(descriptor, 0, size))
            found = self._opener.attributes(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        after = found.stamp
        if after != stamp or found.status.st_ino != inode or found.status.st_size != size:
            return False
        age = moment - found.status.st_ctime_ns
        settled = age > (TICK_NS if settings.live else opening.FRESH_NS)
        content = fmt.hash_small(data)
        layout = layout_digest(segments, size) if hole < size else NO_LAYOUT
        record = encode_file(number, after, size, found.flags, found.project, 0, content, found.xattrs)
        batch.outcomes.append((number, inode, READ, after, settled, layout, directory, name, ""))
        batch.read += size
        sent = content != base or layout != base_layout
        if sent:
            _add_extents(batch.extents, batch.parts, number, segments, data)
        if sent or record != old:
            batch.records.append(record)
        return True

    def _read_restless(self, path: bytes, directory: int, file: SmallFile, batch: _Batch) -> None:
        record, outcome, segments, data = self._small_file(path, directory, file)
        batch.outcomes.append(tuple(outcome))
        if record is None:
            return
        batch.read += len(data)
        if segments is not None or record != file.old:
            batch.records.append(record)
        if segments is not None:
            _add_extents(batch.extents, batch.parts, file.number, segments, data)

    def _small_frames(
        self, extents: List[fmt.Extent], parts: List[bytes], records: List[bytes]
    ) -> List[Tuple[Any, ...]]:
        frames: List[PackedFrame] = []
        if extents:
            raw = fmt.encode_data(extents, parts)
            frames.append(
                pack_frame(fmt.DATA, raw, len(extents), self._settings.codec, extents[0].number, extents[0].offset)
            )
        if records:
            key = int.from_bytes(records[0][:8], "big")
            frames.append(pack_frame(fmt.CONTENT, fmt.pack_records(records), len(records), self._settings.codec, key))
        return [tuple(frame) for frame in frames]

    def _small_file(
        self, path: bytes, directory: int, file: SmallFile
    ) -> Tuple[Optional[bytes], Outcome, Optional[List[Tuple[int, int]]], bytes]:
        for attempt in range(ATTEMPTS):
            try:
                opened = self._opener.open(self._opener.directory(path), file.name, file.inode)
            except FileNotFoundError:
                return None, _lost(file, directory, VANISHED, "it vanished"), None, b""
            except OSError as error:
                return None, _lost(file, directory, UNREADABLE, error.strerror or str(error)), None, b""
            grown = opened.status.st_size > fmt.CHUNK_SIZE
            try:
                # Too large now to be hashed and packed as a small file: what the scan saw of it is kept, and said so.
                wanted = int.from_bytes(file.stamp[SIZE], "big") if grown else opened.status.st_size
                data, segments = self._read_small(opened.descriptor, wanted)
                found = self._opener.attributes(opened.descriptor)
            except OSError as error:
                return None, _lost(file, directory, UNREADABLE, error.strerror or str(error)), None, b""
            finally:
                os.close(opened.descriptor)
            settled, status = (False, UNSTABLE) if grown else self._opener.judge(opened, found.stamp)
            if status == READ or grown or attempt == ATTEMPTS - 1:
                break
            time.sleep(PAUSE * (attempt + 1))
        content = fmt.hash_small(data)
        layout = layout_digest(segments, len(data))
        after = found.stamp
        bits = fmt.STATE_UNSETTLED if status == UNSTABLE else 0
        record = encode_file(file.number, after, len(data), found.flags, found.project, bits, content, found.xattrs)
        inode = file.inode if opened.status.st_ino == file.inode else 0
        outcome = Outcome(file.number, inode, status, after, settled, layout, directory, file.name, reason_of(status))
        same = content == file.base and layout == file.layout
        return record, outcome, (None if same else segments), data

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


def _add_extents(
    extents: List[fmt.Extent], parts: List[bytes], number: int, segments: List[Tuple[int, int]], data: bytes
) -> None:
    if not data:
        return
    flags = fmt.EXTENT_FRESH
    for offset, length, is_data in with_holes(segments, 0, len(data)):
        kind = fmt.EXTENT_DATA if is_data else fmt.EXTENT_HOLE
        extents.append(fmt.Extent(number, offset, length, kind, flags))
        flags = 0
        if is_data:
            parts.append(data if length == len(data) else data[offset : offset + length])


def _lost(file: SmallFile, directory: int, status: int, why: str) -> Outcome:
    return Outcome(
        number=file.number,
        inode=file.inode,
        status=status,
        stamp=file.stamp,
        settled=False,
        layout=NO_LAYOUT,
        directory=directory,
        name=file.name,
        why=why,
    )
