"""Dump streams for tests of apply: of a real tree, or of hand-made records, right or hostile. Its own reader of trees, so
that apply is tested without the scan."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from voltool import inodes
from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import Extent, ObjectRecord
from voltool.dumpfile.writer import DumpWriter, pack_frame
from voltool.model import Consistency, DumpHeader, Epoch

VOLUME = "5f0c7a52-2f5f-4ed7-9b0e-3c1f0f6a9a11"


def header(volume: str = VOLUME, level: int = 0) -> DumpHeader:
    return DumpHeader(
        dump_id="d" * 16,
        volume_uuid=volume,
        volume_name="vol",
        level=level,
        sequence=1,
        epoch=Epoch(1, "token", "host"),
        clone_time_ns=0,
        boot_id="",
        host="host",
        driver="directory",
        consistency=Consistency.SNAPSHOT,
        source_path=b"/srv/vol",
        base_state_id=None if level == 0 else "0" * 64,
    )


def record(number: int, mode: int, **values: object) -> ObjectRecord:
    """An object record with plain values."""
    plain = ObjectRecord(number, mode, 0, 0, 0, 1_600_000_000, 5, 0, 0, 0, fmt.NO_HASH, b"", b"")
    return plain._replace(**values)  # type: ignore[arg-type]


@dataclass
class File:
    """A regular file of a stream: its final record and its data extents."""

    final: ObjectRecord
    parts: Sequence[tuple[int, bytes]] = ()


@dataclass
class Stream:
    """What a stream is made of; whatever a test wants to spoil can be changed before `encode`."""

    objects: list[ObjectRecord] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    owners: list[bytes] = field(default_factory=list)
    volume: str = VOLUME
    level: int = 0
    batch: int = 1 << 20
    #: A CHUNKS frame follows after so many chunks of a large file.
    chunks_per_frame: int = 4

    def directory(self, number: int, parent: int = 0, name: bytes = b"", **values: object) -> None:
        self.objects.append(record(number, stat.S_IFDIR | 0o755, **values))
        if name:
            self.entries.append(fmt.encode_entry(parent, name, number))

    def file(self, number: int, parent: int, name: bytes, data: bytes, **values: object) -> None:
        values = {"size": len(data), "content": hash_of(data), **values}
        final = record(number, stat.S_IFREG | 0o644, **values)
        self.objects.append(final._replace(state=fmt.STATE_PENDING, content=fmt.NO_HASH))
        self.files.append(File(final, [(0, data)] if data else []))
        self.entries.append(fmt.encode_entry(parent, name, number))

    @property
    def state_id(self) -> str:
        finals = {file.final.number: file.final for file in self.files}
        objects = sorted(self.objects, key=lambda one: one.number)
        return fmt.state_id([fmt.encode_object(finals.get(one.number, one)) for one in objects], sorted(self.entries))

    def encode(self, resume_after: int = 0, state_id: str | None = None) -> bytes:
        """The bytes of the dump; data of objects up to ``resume_after`` is left out."""
        out = bytearray()
        writer = DumpWriter(out.extend, codecs.default_codec())
        writer.begin(header(self.volume, self.level))
        if self.owners:
            writer.owners(self.owners)
        writer.objects([fmt.encode_object(one) for one in sorted(self.objects, key=lambda one: one.number)])
        writer.entries(sorted(self.entries))
        self._content(writer, [file for file in self.files if file.final.number > resume_after])
        writer.finish(state_id or self.state_id, len(self.objects), len(self.entries))
        return bytes(out)

    def _content(self, writer: DumpWriter, files: list[File]) -> None:
        batch: list[File] = []
        size = 0
        for file in sorted(files, key=lambda one: one.final.number):
            if file.final.size > fmt.CHUNK_SIZE:
                self._small(writer, batch)
                batch, size = [], 0
                self._large(writer, file)
                continue
            batch.append(file)
            size += sum(len(data) for _at, data in file.parts)
            if size >= self.batch:
                self._small(writer, batch)
                batch, size = [], 0
        self._small(writer, batch)

    def _small(self, writer: DumpWriter, files: list[File]) -> None:
        extents: list[Extent] = []
        parts: list[bytes] = []
        for file in files:
            number = file.final.number
            if not file.parts and file.final.size:
                extents.append(Extent(number, 0, file.final.size, fmt.EXTENT_HOLE, fmt.EXTENT_FRESH))
            for index, (at, data) in enumerate(file.parts):
                extents.append(Extent(number, at, len(data), fmt.EXTENT_DATA, fmt.EXTENT_FRESH if not index else 0))
                parts.append(data)
        if extents:
            raw = fmt.encode_data(extents, parts)
            writer.frame(pack_frame(fmt.DATA, raw, len(extents), codecs.default_codec(), extents[0].number))
        if files:
            writer.content([fmt.encode_object(file.final) for file in files])

    def _large(self, writer: DumpWriter, file: File) -> None:
        number, size = file.final.number, file.final.size
        flags = fmt.EXTENT_FRESH
        waiting: list[int] = []
        for index in _touched(file.parts):
            extents, parts = [], []
            for at, data in _within(file.parts, index * fmt.CHUNK_SIZE, (index + 1) * fmt.CHUNK_SIZE):
                extents.append(Extent(number, at, len(data), fmt.EXTENT_DATA, flags))
                parts.append(data)
                flags = 0
            raw = fmt.encode_data(extents, parts)
            packed = pack_frame(fmt.DATA, raw, len(extents), codecs.default_codec(), number, extents[0].offset)
            writer.frame(packed)
            waiting.append(index)
            if len(waiting) >= self.chunks_per_frame:
                writer.chunks([_run(file, number, at, size) for at in waiting])
                waiting = []
        if waiting:
            writer.chunks([_run(file, number, at, size) for at in waiting])
        writer.content([fmt.encode_object(file.final)])


def hash_of(data: bytes) -> bytes:
    """The content hash of dense data."""
    if len(data) <= fmt.CHUNK_SIZE:
        return fmt.hash_small(data)
    return large_hash([(0, data)], len(data))


def large_hash(parts: Sequence[tuple[int, bytes]], size: int) -> bytes:
    """The content hash of a large, perhaps sparse file."""
    runs: list[tuple[bytes, int]] = []
    at = 0
    for index in _touched(parts):
        if index > at:
            runs.append((fmt.ZERO_CHUNK, index - at))
        runs.append((_chunk_hash(parts, index, size), 1))
        at = index + 1
    count = -(-size // fmt.CHUNK_SIZE)
    if count > at:
        runs.append((fmt.ZERO_CHUNK, count - at))
    return fmt.content_hash(size, runs)


def _run(file: File, number: int, index: int, size: int) -> bytes:
    return fmt.encode_chunk_run(number, index, [_chunk_hash(file.parts, index, size)])


def _chunk_hash(parts: Sequence[tuple[int, bytes]], index: int, size: int) -> bytes:
    start = index * fmt.CHUNK_SIZE
    chunk = bytearray(min(fmt.CHUNK_SIZE, size - start))
    for at, data in _within(parts, start, start + len(chunk)):
        chunk[at - start : at - start + len(data)] = data
    view = memoryview(chunk)
    return fmt.ZERO_CHUNK if fmt.is_zero(view) else fmt.chunk_hash(fmt.block_hashes(view))


def _touched(parts: Sequence[tuple[int, bytes]]) -> list[int]:
    found: dict[int, None] = {}
    for at, data in parts:
        for index in range(at // fmt.CHUNK_SIZE, (at + len(data) - 1) // fmt.CHUNK_SIZE + 1):
            found[index] = None
    return sorted(found)


def _within(parts: Sequence[tuple[int, bytes]], start: int, end: int) -> Iterator[tuple[int, bytes]]:
    for at, data in parts:
        low, high = max(at, start), min(at + len(data), end)
        if low < high:
            yield low, data[low - at : high - at]


def stream_of(root: str | bytes | os.PathLike[str]) -> Stream:
    """A real tree as a stream."""
    stream = Stream()
    descriptor = os.open(os.fsencode(root), os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(descriptor)
        stream.objects.append(_describe(1, descriptor, b".", status))
        _walk(stream, 1, descriptor, {})
    finally:
        os.close(descriptor)
    return stream


def _walk(stream: Stream, number: int, descriptor: int, known: dict[tuple[int, int], int]) -> None:
    for name in sorted(os.fsencode(name) for name in os.listdir(descriptor)):
        if number == 1 and name == b".voltool":
            continue
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        identity = (status.st_dev, status.st_ino)
        child = known.get(identity) or len(stream.objects) + 1
        stream.entries.append(fmt.encode_entry(number, name, child))
        if identity in known:
            continue
        known[identity] = child
        found = _describe(child, descriptor, name, status)
        stream.objects.append(found)
        if stat.S_ISREG(status.st_mode):
            _add_file(stream, found, descriptor, name)
        elif stat.S_ISDIR(status.st_mode):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            try:
                _walk(stream, child, below, known)
            finally:
                os.close(below)


def _describe(number: int, directory: int, name: bytes, status: os.stat_result) -> ObjectRecord:
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    listed = [os.fsencode(one) for one in os.listxattr(path, follow_symlinks=False)]
    xattrs = [(one, os.getxattr(path, one, follow_symlinks=False)) for one in listed]
    flags = project = 0
    target, size = b"", 0
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        flags, project = inodes.get_flags(descriptor)
        os.close(descriptor)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    elif stat.S_ISLNK(status.st_mode):
        target = os.readlink(name, dir_fd=directory)
    else:
        size = status.st_rdev
    state = fmt.STATE_PENDING if stat.S_ISREG(status.st_mode) else 0
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    return ObjectRecord(
        number, status.st_mode, status.st_uid, status.st_gid, size, seconds, nanoseconds, flags, project, state,
        fmt.NO_HASH, target, fmt.encode_xattrs(xattrs),
    )  # fmt: skip


def _add_file(stream: Stream, found: ObjectRecord, directory: int, name: bytes) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
    parts: list[tuple[int, bytes]] = []
    at = 0
    try:
        while at < found.size:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(descriptor, at, os.SEEK_HOLE)
            parts.append((at, os.pread(descriptor, end - at, at)))
            at = end
    finally:
        os.close(descriptor)
    if found.size > fmt.CHUNK_SIZE:
        content = large_hash(parts, found.size)
    else:
        data = bytearray(found.size)
        for at, part in parts:
            data[at : at + len(part)] = part
        content = fmt.hash_small(bytes(data))
    stream.files.append(File(found._replace(state=0, content=content), parts))
