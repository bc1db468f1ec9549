"""What a worker process does for a dump: read files, hash, compress; small files in batches, large ones in pieces.

A worker gets a task and returns finished frames and records; it knows the tree's root descriptor and nothing of the
dump's order. Ships to servers.

*Settled* (live trees): the lease test succeeds just before the read, the stamp is equal after it, and the ctime is older
than that moment by more than a tick. Only what is settled may compare as unchanged next time.
"""

from __future__ import annotations

import marshal
import os
import stat
import time
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import PackedFrame, pack_frame
from voltool.inodes import FlagReader
from voltool.leases import lease_test
from voltool.tree.blocks import BLOCK_HASH_SIZE, HOLE_HASH, BlockTable, short_hashes
from voltool.tree.layout import data_segments, layout_digest, with_holes
from voltool.tree.stamps import NO_LAYOUT, SECOND, SHARED, SIZE, encode_stamp
from voltool.tree.walk import OPEN_DIRECTORY, TICK_NS, read_xattrs

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OPEN_QUIET = _OPEN_FILE | os.O_NOATIME
#: How often a file that is being written to is read again in the hope that it settles, and the pause between (s).
ATTEMPTS = 3
PAUSE = 0.03
#: In a frozen image an entry whose ctime is younger than this before the clone may still lack data that was on its way.
FRESH_NS = 60 * SECOND

#: How a file's reading ended.
READ, VANISHED, UNREADABLE, UNSTABLE = 0, 1, 2, 3


@dataclass(frozen=True)
class CaptureSettings:
    """What all workers share. ``clone_time_ns`` matters for frozen images; ``key`` keys the block hashes."""

    root_fd: int
    live: bool
    clone_time_ns: int
    codec: int
    key: bytes
    leases: bool
    blocks: bytes


class SmallFile(NamedTuple):
    """One file of a batch. ``base`` is the base's content hash (empty: send it in any case), ``layout`` its layout."""

    number: int
    name: bytes
    stamp: bytes
    inode: int
    base: bytes
    layout: bytes


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


class _Opened(NamedTuple):
    descriptor: int
    status: os.stat_result
    lease: Optional[bool]
    opened_ns: int


@dataclass
class _Batch:
    """What a batch of small files gathers."""

    extents: List[fmt.Extent]
    parts: List[bytes]
    records: List[bytes]
    outcomes: List[Tuple[Any, ...]]
    read: int = 0


class Worker:
    """The work of one process. `work` is called with marshalled tasks."""

    def __init__(self, settings: CaptureSettings) -> None:
        self._settings = settings
        self._directories: Dict[bytes, int] = {}
        self._buffer = bytearray(fmt.CHUNK_SIZE + fmt.BLOCK_SIZE)
        self._quiet = True
        self._flags = FlagReader()
        self._device = os.fstat(settings.root_fd).st_dev

    def work(self, task: bytes) -> bytes:
        """Dispatch one task; the marshalled result."""
        kind, *arguments = marshal.loads(task)  # noqa: S302 - from our own parent through a private pipe
        result = self._small(*arguments) if kind == "small" else self._piece(*arguments)
        return marshal.dumps(result)

    # ------------------------------------------------------------------------------------------------- small files

    def _small(self, runs: List[Tuple[int, bytes, List[Tuple[Any, ...]]]]) -> Tuple[Any, ...]:
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
        number, name, stamp, inode, base, base_layout = fields
        settings = self._settings
        try:
            descriptor = os.open(name, _OPEN_QUIET, dir_fd=self._directory(path))
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
            flags, project = self._flags.read(descriptor, self._device)
            xattrs = read_xattrs(descriptor)
            status = os.fstat(descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)
        after = encode_stamp(status)
        if after != stamp or status.st_ino != inode or status.st_size != size:
            return False
        age = moment - status.st_ctime_ns
        settled = age > (TICK_NS if settings.live else FRESH_NS)
        content = fmt.hash_small(data)
        layout = layout_digest(segments, size) if hole < size else NO_LAYOUT
        batch.records.append(_object(number, after, size, flags, project, 0, content, xattrs))
        batch.outcomes.append((number, inode, READ, after, settled, layout, directory, name, ""))
        batch.read += size
        if content != base or layout != base_layout:
            _add_extents(batch.extents, batch.parts, number, segments, data)
        return True

    def _read_restless(self, path: bytes, directory: int, file: SmallFile, batch: _Batch) -> None:
        record, outcome, segments, data = self._small_file(path, directory, file)
        batch.outcomes.append(tuple(outcome))
        if record is None:
            return
        batch.records.append(record)
        batch.read += len(data)
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
                opened = self._open(self._directory(path), file.name, file.inode)
            except FileNotFoundError:
                return None, _lost(file, directory, VANISHED, "it vanished"), None, b""
            except OSError as error:
                return None, _lost(file, directory, UNREADABLE, error.strerror or str(error)), None, b""
            grown = opened.status.st_size > fmt.CHUNK_SIZE
            try:
                # Too large now to be hashed and packed as a small file: what the scan saw of it is kept, and said so.
                wanted = int.from_bytes(file.stamp[SIZE], "big") if grown else opened.status.st_size
                data, segments = self._read_small(opened.descriptor, wanted)
                flags, project = self._flags.read(opened.descriptor, self._device)
                xattrs = read_xattrs(opened.descriptor)
                after = encode_stamp(os.fstat(opened.descriptor))
            except OSError as error:
                return None, _lost(file, directory, UNREADABLE, error.strerror or str(error)), None, b""
            finally:
                os.close(opened.descriptor)
            settled, status = (False, UNSTABLE) if grown else self._judge(opened, after)
            if status == READ or grown or attempt == ATTEMPTS - 1:
                break
            time.sleep(PAUSE * (attempt + 1))
        content = fmt.hash_small(data)
        layout = layout_digest(segments, len(data))
        bits = fmt.STATE_UNSETTLED if status == UNSTABLE else 0
        record = _object(file.number, after, len(data), flags, project, bits, content, xattrs)
        inode = file.inode if opened.status.st_ino == file.inode else 0
        outcome = Outcome(file.number, inode, status, after, settled, layout, directory, file.name, _why(status))
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

    def _open(self, directory_fd: int, name: bytes, inode: int) -> _Opened:
        flags = _OPEN_QUIET if self._quiet else _OPEN_FILE
        try:
            descriptor = os.open(name, flags, dir_fd=directory_fd)
        except PermissionError:
            if not self._quiet:
                raise
            descriptor = os.open(name, _OPEN_FILE, dir_fd=directory_fd)
        settings = self._settings
        lease = lease_test(descriptor) if settings.live and settings.leases else None
        opened_ns = time.time_ns() if settings.live else settings.clone_time_ns
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise FileNotFoundError
        if status.st_ino != inode:
            lease = None  # replaced by another file since the scan: its content counts, but nothing is settled
        return _Opened(descriptor, status, lease, opened_ns)

    def _judge(self, opened: _Opened, after: bytes) -> Tuple[bool, int]:
        """Whether the read was settled, and READ or UNSTABLE."""
        age = opened.opened_ns - opened.status.st_ctime_ns
        if not self._settings.live:
            return age > FRESH_NS, READ
        still = encode_stamp(opened.status) == after
        if opened.lease is None:
            return False, READ if still else UNSTABLE
        settled = still and opened.lease and age > TICK_NS
        if settled or (still and opened.lease):
            return settled, READ
        return False, UNSTABLE

    def _directory(self, path: bytes) -> int:
        """A descriptor of a directory, cached; raises OSError."""
        descriptor = self._directories.get(path)
        if descriptor is None:
            if len(self._directories) >= 64:
                os.close(self._directories.pop(next(iter(self._directories))))
            root = self._settings.root_fd
            descriptor = open_beneath(root, path, OPEN_DIRECTORY) if path else os.dup(root)
            self._directories[path] = descriptor
        return descriptor

    # ------------------------------------------------------------------------------------------------ large files

    def _piece(
        self, number: int, path: bytes, name: bytes, inode: int, start: int, end: int, base_name: bytes, fresh: bool
    ) -> Tuple[Any, ...]:
        """One piece ``[start, end)`` of a large file: frames, chunk hashes, block hashes, and how it was found."""
        try:
            opened = self._open(self._directory(path), name, inode)
        except FileNotFoundError:
            return [], [], b"", (VANISHED, b"", b"", False, "it vanished", 0, b""), 0
        except OSError as error:
            return [], [], b"", (UNREADABLE, b"", b"", False, error.strerror or str(error), 0, b""), 0
        try:
            frames, chunks, shorts, read = self._read_piece(number, opened.descriptor, start, end, base_name, fresh)
            flags, project = self._flags.read(opened.descriptor, self._device)
            xattrs = read_xattrs(opened.descriptor)
            after = encode_stamp(os.fstat(opened.descriptor))
        except OSError as error:
            return [], [], b"", (UNREADABLE, b"", b"", False, error.strerror or str(error), 0, b""), 0
        finally:
            os.close(opened.descriptor)
        settled, status = self._judge(opened, after)
        found = (status, encode_stamp(opened.status), after, settled, _why(status), (flags, project), xattrs)
        return frames, chunks, shorts, found, read

    def _read_piece(
        self, number: int, descriptor: int, start: int, end: int, base_name: bytes, fresh: bool
    ) -> Tuple[List[Tuple[Any, ...]], List[bytes], bytes, int]:
        base = BlockTable.open(os.path.join(self._settings.blocks, base_name)) if base_name else None
        segments = list(data_segments(descriptor, start, end))
        chunks: List[bytes] = []
        shorts: List[bytes] = []
        frames: List[Tuple[Any, ...]] = []
        read = 0
        for at in range(start, end, fmt.CHUNK_SIZE):
            stop = min(at + fmt.CHUNK_SIZE, end)
            inside = _clip(segments, at, stop)
            view = self._read_chunk(descriptor, inside, at, stop)
            read += sum(length for _offset, length in inside)
            chunk, short = self._hash_chunk(view, inside, at, stop)
            chunks.append(chunk)
            shorts.append(short)
            if base is not None and not fresh:
                pieces = _changed_pieces(base, at, stop, chunk, short, inside)
            else:
                pieces = with_holes(inside, at, stop)
            frame = self._chunk_frame(number, view, at, pieces, fresh and at == 0)
            if frame is not None:
                frames.append(tuple(frame))
        if base is not None:
            base.close()
        return frames, chunks, b"".join(shorts), read

    def _read_chunk(self, descriptor: int, segments: List[Tuple[int, int]], at: int, stop: int) -> memoryview:
        view = memoryview(self._buffer)[: stop - at]
        covered = sum(length for _offset, length in segments)
        if covered < stop - at:
            view[:] = bytes(stop - at)
        for offset, length in segments:
            part = view[offset - at : offset - at + length]
            done = 0
            while done < length:
                count = os.preadv(descriptor, [part[done:]], offset + done)
                if not count:
                    part[done:] = bytes(
                        length - done
                    )  # truncated meanwhile: its stamp has changed, and it is read again
                    break
                done += count
        return view

    def _hash_chunk(self, view: memoryview, segments: List[Tuple[int, int]], at: int, stop: int) -> Tuple[bytes, bytes]:
        if not segments:
            return fmt.ZERO_CHUNK, HOLE_HASH * (-(-(stop - at) // fmt.BLOCK_SIZE))
        blocks = fmt.block_hashes(view)
        chunk = fmt.ZERO_CHUNK if fmt.is_zero(view) else fmt.chunk_hash(blocks)
        return chunk, short_hashes(blocks, self._settings.key, segments, at, stop)

    def _chunk_frame(
        self, number: int, view: memoryview, at: int, pieces: List[Tuple[int, int, bool]], first: bool
    ) -> Optional[PackedFrame]:
        if not pieces:
            return None
        extents: List[fmt.Extent] = []
        parts: List[bytes] = []
        for offset, length, is_data in pieces:
            flags = fmt.EXTENT_FRESH if first and not extents else 0
            kind = fmt.EXTENT_DATA if is_data else fmt.EXTENT_HOLE
            extents.append(fmt.Extent(number, offset, length, kind, flags))
            if is_data:
                parts.append(bytes(view[offset - at : offset - at + length]))
        raw = fmt.encode_data(extents, parts)
        return pack_frame(fmt.DATA, raw, len(extents), self._settings.codec, number, extents[0].offset)


def _changed_pieces(
    base: BlockTable, at: int, stop: int, chunk: bytes, short: bytes, segments: List[Tuple[int, int]]
) -> List[Tuple[int, int, bool]]:
    """What of the chunk must be sent to one who has the base: runs of blocks whose hashes differ."""
    old_chunk, old_short = base.chunk(at // fmt.CHUNK_SIZE)
    if not base.blocks:
        return [] if chunk == old_chunk else with_holes(segments, at, stop)
    if short == old_short:
        return [] if chunk == old_chunk else with_holes(segments, at, stop)
    pieces: List[Tuple[int, int, bool]] = []
    size = BLOCK_HASH_SIZE
    for index in range(0, len(short), size):
        mine = short[index : index + size]
        theirs = old_short[index : index + size] or HOLE_HASH
        if mine == theirs:
            continue
        offset = at + index // size * fmt.BLOCK_SIZE
        length = min(fmt.BLOCK_SIZE, stop - offset)
        is_data = mine != HOLE_HASH
        if pieces and pieces[-1][2] == is_data and pieces[-1][0] + pieces[-1][1] == offset:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + length, is_data)
        else:
            pieces.append((offset, length, is_data))
    return pieces


def _clip(segments: List[Tuple[int, int]], at: int, stop: int) -> List[Tuple[int, int]]:
    clipped = []
    for offset, length in segments:
        low, high = max(offset, at), min(offset + length, stop)
        if low < high:
            clipped.append((low, high - low))
    return clipped


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


def _object(
    number: int,
    stamp: bytes,
    size: int,
    flags: int,
    project: int,
    state: int,
    content: bytes,
    xattrs: bytes,
) -> bytes:
    shared = stamp[SHARED]
    if stamp[SIZE] != size.to_bytes(8, "big"):
        shared = shared[: SIZE.start] + size.to_bytes(8, "big") + shared[SIZE.stop :]
    return (
        number.to_bytes(8, "big")
        + shared
        + fmt.OBJECT_REST.pack(flags, project, state, content, 0, len(xattrs))
        + xattrs
    )


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


def _why(status: int) -> str:
    return "it was being written to while it was read" if status == UNSTABLE else ""
