"""A volume as plain Python values, written as dumps by DumpWriter and read back in the simplest possible way.

`write_dump` is what a dump of a state against a base looks like; `read_stream` knows nothing of chains, bitmaps or layers.
"""

from __future__ import annotations

import dataclasses
import random
import stat

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import FrameDecoder, decode_data, decode_records
from voltool.dumpfile.reader import DumpReader
from voltool.dumpfile.writer import DumpWriter, pack_frame
from voltool.model import Consistency, DumpHeader, DumpTotals, Epoch

CHUNK = fmt.CHUNK_SIZE
BLOCK = fmt.BLOCK_SIZE
VOLUME = "00000000000000000000000000000001"


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object. ``data`` of a regular file; None: its content is unknown."""

    mode: int
    data: bytes | None = b""
    mtime: int = 0
    target: bytes = b""
    xattrs: bytes = b""
    state: int = 0

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


@dataclasses.dataclass(frozen=True)
class State:
    """A whole volume: objects by number, entries by (directory, name)."""

    objects: dict[int, Thing]
    entries: dict[tuple[int, bytes], int]


@dataclasses.dataclass
class Memory:
    """Random access to bytes."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def hash_content(data: bytes) -> bytes:
    if len(data) <= CHUNK:
        return fmt.hash_small(data)
    return fmt.content_hash(len(data), [(value, 1) for value in chunk_hashes(data)])


def chunk_hashes(data: bytes) -> list[bytes]:
    hashes = []
    for at in range(0, len(data), CHUNK):
        chunk = memoryview(data)[at : at + CHUNK]
        hashes.append(fmt.ZERO_CHUNK if not any(bytes(chunk)) else fmt.chunk_hash(fmt.block_hashes(chunk)))
    return hashes


def record_of(number: int, thing: Thing) -> bytes:
    size = len(thing.data) if thing.is_file and thing.data is not None else 0
    content = hash_content(thing.data) if thing.is_file and thing.data is not None else fmt.NO_HASH
    state = thing.state | (fmt.STATE_UNKNOWN if thing.is_file and thing.data is None else 0)
    return fmt.encode_object(
        fmt.ObjectRecord(
            number, thing.mode, 0, 0, size, thing.mtime, 0, 0, 0, state, content, thing.target, thing.xattrs
        )
    )


def records_of(state: State) -> tuple[list[bytes], list[bytes]]:
    objects = [record_of(number, thing) for number, thing in sorted(state.objects.items())]
    entries = sorted(fmt.encode_entry(directory, name, child) for (directory, name), child in state.entries.items())
    return objects, entries


def state_id_of(state: State) -> str:
    return fmt.state_id(*records_of(state))


def header_of(dump_id: str, level: int, base: State | None) -> DumpHeader:
    return DumpHeader(
        dump_id=dump_id,
        volume_uuid=VOLUME,
        volume_name="vol",
        level=level,
        sequence=1,
        epoch=Epoch(1, "token", "host"),
        clone_time_ns=1,
        boot_id="boot",
        host="host",
        driver="directory",
        consistency=Consistency.SNAPSHOT,
        source_path=b"/srv/vol",
        base_state_id=state_id_of(base) if base else None,
        base_dump_id="base" if base else None,
    )


def write_dump(state: State, base: State | None, header: DumpHeader, rng: random.Random) -> tuple[bytes, DumpTotals]:
    """A dump of ``state`` against ``base``; how data is cut into extents, frames and batches is up to ``rng``."""
    pieces: list[bytes] = []
    writer = DumpWriter(lambda data: pieces.append(bytes(data)), rng.choice([fmt.CODEC_NONE, fmt.CODEC_LZ4]))
    writer.begin(header)
    writer.owners([fmt.encode_owner(b"u", 0, b"root")])
    changed = changed_objects(state, base)
    objects = [(number, _early_record(number, state.objects.get(number))) for number in changed]
    _in_frames(writer, fmt.OBJECTS, [record for _number, record in objects], rng)
    _in_frames(writer, fmt.ENTRIES, _changed_entries(state, base), rng)
    files = [number for number in changed if number in state.objects and state.objects[number].is_file]
    Batches(writer, state, base, rng).write(files)
    totals = writer.finish(state_id_of(state), len(state.objects), len(state.entries))
    return b"".join(pieces), totals


def changed_objects(state: State, base: State | None) -> list[int]:
    old = base.objects if base else {}
    return sorted(n for n in {*state.objects, *old} if state.objects.get(n) != old.get(n))


def _early_record(number: int, thing: Thing | None) -> bytes:
    if thing is None:
        return fmt.encode_object_tombstone(number)
    if thing.is_file:
        return record_of(number, dataclasses.replace(thing, state=thing.state | fmt.STATE_PENDING, data=b""))
    return record_of(number, thing)


def _changed_entries(state: State, base: State | None) -> list[bytes]:
    old = base.entries if base else {}
    keys = {key for key in {*state.entries, *old} if state.entries.get(key) != old.get(key)}
    return sorted(fmt.encode_entry(*key, state.entries.get(key, 0)) for key in keys)


def _in_frames(writer: DumpWriter, kind: int, records: list[bytes], rng: random.Random) -> None:
    while records:
        count = rng.randint(1, 6)
        part, records = records[:count], records[count:]
        writer.records(kind, part, key_of=lambda record: int.from_bytes(record[:8], "big"))


class Batches:
    """The data part of a dump."""

    def __init__(self, writer: DumpWriter, state: State, base: State | None, rng: random.Random) -> None:
        self._writer = writer
        self._state = state
        self._base = base
        self._rng = rng

    def write(self, files: list[int]) -> None:
        batch: list[int] = []
        for number in files:
            data = self._state.objects[number].data
            if data is not None and len(data) > CHUNK:
                self._flush(batch)
                batch = []
                self._large(number, data)
                self._writer.content([record_of(number, self._state.objects[number])])
                continue
            batch.append(number)
            if self._rng.random() < 0.3:
                self._flush(batch)
                batch = []
        self._flush(batch)

    def _flush(self, batch: list[int]) -> None:
        extents: list[fmt.Extent] = []
        parts: list[bytes] = []
        for number in batch:
            data = self._state.objects[number].data
            if data and data != self._old(number):
                for extent, part in cut(number, data, self._rng, fresh=True):
                    extents.append(extent)
                    parts.append(part)
        self._frame(extents, parts)
        if batch:
            self._writer.content([record_of(number, self._state.objects[number]) for number in batch])

    def _old(self, number: int) -> bytes | None:
        thing = self._base.objects.get(number) if self._base else None
        return thing.data if thing else None

    def _frame(self, extents: list[fmt.Extent], parts: list[bytes]) -> None:
        if extents:
            raw = fmt.encode_data(extents, parts)
            codec = self._rng.choice([fmt.CODEC_NONE, fmt.CODEC_LZ4, fmt.CODEC_ZLIB])
            self._writer.frame(pack_frame(fmt.DATA, raw, len(extents), codec, extents[0].number, extents[0].offset))

    def _large(self, number: int, data: bytes) -> None:
        old = self._old(number)
        if data == old:
            return
        if old is None or (len(old) <= CHUNK and old) or self._rng.random() < 0.3:
            pieces, old = cut(number, data, self._rng, fresh=True), None
        else:
            pieces = patch(number, old, data)
        while pieces:
            count = self._rng.randint(1, 20)
            part, pieces = pieces[:count], pieces[count:]
            self._frame([extent for extent, _data in part], [piece for _extent, piece in part])
        self._chunk_records(number, data, old)

    def _chunk_records(self, number: int, data: bytes, old: bytes | None) -> None:
        before = chunk_hashes(old) if old is not None else []
        runs = []
        for chunk, value in enumerate(chunk_hashes(data)):
            if value != (before[chunk] if chunk < len(before) else fmt.ZERO_CHUNK):
                runs.append(fmt.encode_chunk_run(number, chunk, [value]))
        self._writer.chunks(runs)


def cut(number: int, data: bytes, rng: random.Random, *, fresh: bool) -> list[tuple[fmt.Extent, bytes]]:
    """A whole version as extents; what is zero is a hole (sometimes left out, where it is not the first)."""
    pieces: list[tuple[fmt.Extent, bytes]] = []
    at = 0
    while at < len(data):
        step = min(len(data) - at, rng.choice([BLOCK, 5 * BLOCK, 100, CHUNK]))
        part = data[at : at + step]
        flags = fmt.EXTENT_FRESH if fresh and not at else 0
        if any(part):
            pieces.append((fmt.Extent(number, at, step, fmt.EXTENT_DATA, flags), part))
        elif flags or rng.random() < 0.5:
            pieces.append((fmt.Extent(number, at, step, fmt.EXTENT_HOLE, flags), b""))
        at += step
    return pieces


def patch(number: int, old: bytes, data: bytes) -> list[tuple[fmt.Extent, bytes]]:
    """The blocks that differ from the base, cut or extended with a hole to the new size."""
    old = old[: len(data)] + bytes(max(0, len(data) - len(old)))
    pieces: list[tuple[fmt.Extent, bytes]] = []
    for at in range(0, len(data), BLOCK):
        part = data[at : at + BLOCK]
        if part != old[at : at + BLOCK]:
            kind = fmt.EXTENT_DATA if any(part) else fmt.EXTENT_HOLE
            pieces.append((fmt.Extent(number, at, len(part), kind, 0), part if any(part) else b""))
    return pieces


def open_dump(data: bytes, name: str = "dump") -> DumpReader:
    return DumpReader(Memory(data), name)


def read_stream(stream: bytes, resumed: dict[int, bytes] | None = None) -> State:
    """The state that a complete level 0 stream holds, its frames applied one by one."""
    decoder = FrameDecoder("stream")
    objects: dict[int, fmt.ObjectRecord] = {}
    entries: dict[tuple[int, bytes], int] = {}
    content: dict[int, bytearray] = {number: bytearray(data) for number, data in (resumed or {}).items()}
    ordered = 0
    for frame in decoder.feed(stream):
        kind = frame.header.type
        if kind in (fmt.OBJECTS, fmt.CONTENT):
            for record in map(fmt.decode_object, decode_records(frame)):
                assert (kind == fmt.CONTENT) == (record.number in objects)
                assert kind == fmt.OBJECTS or objects[record.number].state & fmt.STATE_PENDING
                assert record.mode
                objects[record.number] = record
        elif kind == fmt.ENTRIES:
            for directory, name, child in map(fmt.decode_entry, decode_records(frame)):
                assert child
                entries[directory, name] = child
        elif kind == fmt.DATA:
            extents, raw = decode_data(frame)
            for extent, data in fmt.iter_extents_with_data(raw, extents):
                assert extent.number >= ordered
                ordered = extent.number
                put(content, extent, data)
    decoder.finish()
    return State({n: thing_of(record, content.get(n)) for n, record in objects.items()}, entries)


def put(content: dict[int, bytearray], extent: fmt.Extent, data: memoryview) -> None:
    if extent.flags & fmt.EXTENT_FRESH:
        assert extent.number not in content
        content[extent.number] = bytearray()
    target = content[extent.number]
    end = extent.offset + extent.length
    target.extend(bytes(max(0, end - len(target))))
    target[extent.offset : end] = data if extent.kind == fmt.EXTENT_DATA else bytes(extent.length)


def thing_of(record: fmt.ObjectRecord, data: bytearray | None) -> Thing:
    assert not record.state & fmt.STATE_PENDING
    content: bytes | None = b""
    if stat.S_ISREG(record.mode):
        content = bytes(data or b"")[: record.size]
        content += bytes(record.size - len(content))
        assert hash_content(content) == record.content or record.state & fmt.STATE_UNKNOWN
        content = None if record.content == fmt.NO_HASH and record.state & fmt.STATE_UNKNOWN else content
    state = record.state & ~fmt.STATE_UNKNOWN
    return Thing(record.mode, content, record.mtime_s, record.target, record.xattrs, state)
