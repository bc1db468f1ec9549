"""Every byte of dump format 1: preamble, frames, records, trailer, the content hash and the state id.

docs/dump-format.md shows the same tables and a test holds the two against each other. All integers are big-endian, so
that records sort as the bytes they are. Nothing here does I/O. Part of what is shipped to servers.

A dump is::

    preamble | HEADER | OWNERS | OBJECTS... | ENTRIES... | (DATA... CHUNKS... CONTENT...)... | INDEX... | trailer

An *object record* holds the attributes of one object, an *entry record* one name in one directory. A manifest is the
two sorted tables of them. In a dump above level 0 the tables hold only differences to the base; a record may then be a
tombstone. OBJECTS holds what was known before data was read (a regular file is `PENDING` there); CONTENT holds, after
the data, the final object record, which replaces it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Iterable, Iterator, List, NamedTuple, Sequence, Tuple, Union

from voltool.errors import IntegrityError

# --------------------------------------------------------------------------------------------------------- preamble

MAGIC = b"\x89voltool"
#: Frozen: a change that an older reader would misunderstand is an incompatible feature bit, or a new version beside this one.
FORMAT_VERSION = 1
#: 0 came before the freeze and is the same but for this number.
READABLE_VERSIONS = (0, FORMAT_VERSION)
#: magic, version, reserved, compatible / read-only-compatible / incompatible feature bits, crc32 of what precedes
PREAMBLE = struct.Struct(">8sHHIIII")
PREAMBLE_SIZE = 28
assert PREAMBLE.size == PREAMBLE_SIZE
#: Feature bits this version knows; any other incompatible bit refuses the dump.
KNOWN_INCOMPATIBLE = 0

# ----------------------------------------------------------------------------------------------------------- frames

#: type, codec, flags, stored length, raw length, records, frame number, key (first object number), key2, AEAD tag
#: (reserved), crc32 of the stored payload, crc32 of this header before it
FRAME = struct.Struct(">BBHIIIIQQ16sII")
FRAME_SIZE = 60
assert FRAME.size == FRAME_SIZE
_FRAME_BODY = struct.Struct(">BBHIIIIQQ16sI")

HEADER = 1  # JSON, see encode_header in header.py
OWNERS = 2  # owner records
OBJECTS = 3  # object records, sorted
ENTRIES = 4  # entry records, sorted
DATA = 5  # extents and their bytes
CHUNKS = 6  # chunk-hash records of files above CHUNK_SIZE
CONTENT = 7  # object records, sorted, after their data
INDEX = 8  # index records

FRAME_NAMES = {
    HEADER: "HEADER",
    OWNERS: "OWNERS",
    OBJECTS: "OBJECTS",
    ENTRIES: "ENTRIES",
    DATA: "DATA",
    CHUNKS: "CHUNKS",
    CONTENT: "CONTENT",
    INDEX: "INDEX",
}
#: An unknown frame type with this bit may be skipped; without it the dump is refused.
ANCILLARY_BIT = 0x80

FLAG_SEALED = 0x0001  # reserved: the payload is sealed by AEAD; refused until encryption exists

CODEC_NONE = 0
CODEC_LZ4 = 1  # one LZ4 block (raw length from the frame header)
CODEC_ZLIB = 2  # one zlib stream

#: Caps, checked before anything is allocated.
MAX_STORED = 8 << 20
MAX_RAW = 8 << 20
MAX_HEADER_JSON = 1 << 20
MAX_RECORD = 4 << 20
MAX_FRAMES = 1 << 31

#: What writers aim for.
TARGET_RAW = 1 << 20


class FrameHeader(NamedTuple):
    """A decoded frame header. ``stored`` and ``raw`` are lengths in bytes; ``records`` counts records or extents."""

    type: int
    codec: int
    flags: int
    stored: int
    raw: int
    records: int
    number: int
    key: int
    key2: int
    tag: bytes
    crc: int


def encode_frame_header(
    kind: int,
    codec: int,
    payload: Union[bytes, bytearray, memoryview],
    raw: int,
    records: int,
    number: int,
    key: int = 0,
    key2: int = 0,
) -> bytes:
    """The 60 bytes that precede ``payload`` (as stored) as frame ``number`` of a dump."""
    body = _FRAME_BODY.pack(
        kind, codec, 0, len(payload), raw, records, number, key, key2, b"\0" * 16, zlib.crc32(payload)
    )
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode_frame_header(data: bytes, where: str = "") -> FrameHeader:
    """Decode and check a frame header; raises IntegrityError on a bad checksum, an absurd length or a sealed frame."""
    if len(data) != FRAME_SIZE:
        raise damaged("a frame header is cut off", where)
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise damaged("a frame header's checksum does not match", where)
    header = FrameHeader(*FRAME.unpack(data)[:-1])
    if header.stored > MAX_STORED or header.raw > MAX_RAW or header.number > MAX_FRAMES:
        raise damaged("a frame claims an absurd length", where)
    if header.records > header.raw:
        raise damaged("a frame claims more records than it has bytes", where)
    if header.flags & FLAG_SEALED:
        raise IntegrityError(
            "the dump is encrypted", where=where, why="this voltool cannot read sealed frames", remedy="a newer voltool"
        )
    check_frame_type(header.type, where)
    return header


def check_frame_type(kind: int, where: str = "") -> None:
    """Raise IntegrityError for a type that this version does not know and must not pass over."""
    if kind not in FRAME_NAMES and not kind & ANCILLARY_BIT:
        raise IntegrityError(
            f"the dump has a vital frame of unknown type {kind}",
            where=where,
            why="it was made by a newer voltool",
            remedy="a newer voltool",
        )


def check_payload(header: FrameHeader, payload: bytes, where: str = "") -> None:
    """Raise IntegrityError unless ``payload`` is what the frame's header says."""
    if len(payload) != header.stored:
        raise damaged("a frame is cut off", where)
    if zlib.crc32(payload) != header.crc:
        raise damaged(f"the checksum of frame {header.number} does not match", where)


def damaged(why: str, where: str = "") -> IntegrityError:
    """The error for bytes that are not as a voltool wrote them."""
    return IntegrityError(
        "the dump is damaged",
        where=where,
        why=why,
        remedy="another copy of this dump, or an older point in time (--at)",
    )


def encode_preamble() -> bytes:
    """The first 28 bytes of a dump."""
    body = PREAMBLE.pack(MAGIC, FORMAT_VERSION, 0, 0, 0, 0, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "big")


def check_preamble(data: bytes, where: str = "") -> None:
    """Raise IntegrityError unless ``data`` begins a dump this version can read."""
    if len(data) != PREAMBLE_SIZE:
        raise damaged("it is shorter than its preamble", where)
    magic, version, _reserved, _compatible, _read_only, incompatible, crc = PREAMBLE.unpack(data)
    if magic != MAGIC:
        raise IntegrityError("this is not a voltool dump", where=where, why="its first bytes are not a dump's")
    if zlib.crc32(data[:-4]) != crc:
        raise damaged("the preamble's checksum does not match", where)
    if version not in READABLE_VERSIONS or incompatible & ~KNOWN_INCOMPATIBLE:
        raise IntegrityError(
            f"the dump has format {version} with features {incompatible:#x}",
            where=where,
            why="this voltool does not know them",
            remedy="a newer voltool",
        )


# ---------------------------------------------------------------------------------------------------------- records

#: OBJECTS, CONTENT, ENTRIES, OWNERS, CHUNKS and INDEX payloads are records, each with its length before it.
RECORD_LENGTH = struct.Struct(">I")


def pack_records(records: Iterable[bytes]) -> bytes:
    """Concatenate records with their lengths."""
    pack = RECORD_LENGTH.pack
    return b"".join([part for record in records for part in (pack(len(record)), record)])


def unpack_records(payload: bytes, count: int, where: str = "") -> List[bytes]:
    """The records of a decompressed payload; raises IntegrityError unless they are exactly ``count`` and fill it."""
    records = []
    position = 0
    end = len(payload)
    unpack = RECORD_LENGTH.unpack_from
    while position < end:
        if position + 4 > end:
            raise damaged("a record is cut off", where)
        (length,) = unpack(payload, position)
        position += 4
        if length > MAX_RECORD or position + length > end:
            raise damaged("a record is cut off", where)
        records.append(payload[position : position + length])
        position += length
    if len(records) != count:
        raise damaged("a frame does not hold the records it claims", where)
    return records


#: number, mode (0: tombstone), uid, gid, size (or device number), mtime seconds, nanoseconds, inode flags, project id,
#: state bits, content hash, length of the symlink target, length of the xattr block; then these two
OBJECT = struct.Struct(">QIIIQqIIIB32sHI")
OBJECT_SIZE = 87
assert OBJECT.size == OBJECT_SIZE
#: The part of it from the inode flags on.
OBJECT_REST = struct.Struct(">IIB32sHI")
assert OBJECT_REST.size == OBJECT_SIZE - 40
#: Where the byte of state bits is in an object record.
STATE_OFFSET = 48

#: State bits of an object record.
STATE_PENDING = 0x01  # only in OBJECTS: the final record follows in CONTENT
STATE_UNKNOWN = 0x02  # the content could not be read; hash and size are the base's last good ones (hash 0: none)
STATE_UNSETTLED = 0x04  # the content was read but never settled (a live tree): it may mix two instants
STATE_FUZZY = 0x08  # a directory whose listing did not become quiet; names missing were kept from the base
STATE_VERITY = 0x10  # fs-verity is to be enabled again
STATE_VANISHED = 0x20  # with UNKNOWN: it was deleted before it could be read, which is no fault
KNOWN_STATES = 0x3F

NO_HASH = b"\0" * 32


class ObjectRecord(NamedTuple):
    """One object: everything Linux keeps of it but its names and bytes.

    ``size`` is in bytes for a regular file, the device number for a device, else 0. ``flags`` are FS_IOC_GETFLAGS bits
    masked to `PORTABLE_FLAGS`. ``content`` is the content hash of a regular file. ``xattrs`` is an encoded block.
    """

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_s: int
    mtime_ns: int
    flags: int
    project: int
    state: int
    content: bytes
    target: bytes
    xattrs: bytes


def encode_object(record: ObjectRecord) -> bytes:
    """The bytes of an object record."""
    *fixed, target, xattrs = record
    return OBJECT.pack(*fixed, len(target), len(xattrs)) + target + xattrs


def decode_object(data: bytes, where: str = "") -> ObjectRecord:
    """An object record from its bytes; raises IntegrityError when they are inconsistent."""
    if len(data) < OBJECT_SIZE:
        raise damaged("an object record is cut off", where)
    *fixed, target_length, xattr_length = OBJECT.unpack_from(data)
    middle = OBJECT_SIZE + target_length
    if len(data) != middle + xattr_length:
        raise damaged("an object record has a wrong length", where)
    record = ObjectRecord._make([*fixed, data[OBJECT_SIZE:middle], data[middle:]])
    if record.mtime_ns > 999_999_999 or record.state & ~KNOWN_STATES or record.number == 0:
        raise damaged("an object record has a value out of range", where)
    return record


def encode_object_tombstone(number: int) -> bytes:
    """The record that says: object ``number`` of the base is gone."""
    return OBJECT.pack(number, 0, 0, 0, 0, 0, 0, 0, 0, 0, NO_HASH, 0, 0)


def is_object_tombstone(data: bytes) -> bool:
    """Whether the object record's mode is 0."""
    return data[8:12] == b"\0\0\0\0"


_NUMBER = struct.Struct(">Q")


def object_key(data: bytes) -> bytes:
    """The sort key of an object record: its number's 8 bytes."""
    return data[:8]


def encode_entry(directory: int, name: bytes, child: int) -> bytes:
    """The bytes of an entry record: directory, name, NUL, object. They sort by directory, then by name.

    ``child`` 0 is a tombstone: the name is gone.
    """
    return _NUMBER.pack(directory) + name + b"\0" + _NUMBER.pack(child)


def decode_entry(data: bytes, where: str = "") -> Tuple[int, bytes, int]:
    """Directory, name, child (0: tombstone) of an entry record; refuses names that could escape a directory."""
    if len(data) < 18 or data[-9] != 0:
        raise damaged("an entry record is malformed", where)
    name = data[8:-9]
    if b"\0" in name or b"/" in name or name in (b".", b"..") or len(name) > 255:
        raise damaged("an entry has a name that no directory can hold", where)
    return int.from_bytes(data[:8], "big"), name, int.from_bytes(data[-8:], "big")


def entry_key(data: bytes) -> bytes:
    """The sort key of an entry record: directory, name, NUL."""
    return data[:-8]


#: kind (``u`` or ``g``), number; then the name
OWNER = struct.Struct(">cI")


def encode_owner(kind: bytes, number: int, name: bytes) -> bytes:
    """An owner record: user (``b"u"``) or group (``b"g"``) ``number`` is called ``name`` on the source."""
    return OWNER.pack(kind, number) + name


def decode_owner(data: bytes, where: str = "") -> Tuple[bytes, int, bytes]:
    """Kind, number, name."""
    if len(data) < OWNER.size or data[:1] not in (b"u", b"g"):
        raise damaged("an owner record is malformed", where)
    kind, number = OWNER.unpack_from(data)
    return kind, number, data[OWNER.size :]


_XATTR = struct.Struct(">HI")


def encode_xattrs(pairs: Iterable[Tuple[bytes, bytes]]) -> bytes:
    """An xattr block: pairs of full name and value, sorted by name."""
    return b"".join([_XATTR.pack(len(name), len(value)) + name + value for name, value in sorted(pairs)])


def decode_xattrs(block: bytes, where: str = "") -> List[Tuple[bytes, bytes]]:
    """The pairs of an xattr block."""
    pairs = []
    position = 0
    while position < len(block):
        if position + 6 > len(block):
            raise damaged("an extended attribute is cut off", where)
        name_length, value_length = _XATTR.unpack_from(block, position)
        position += 6
        end = position + name_length + value_length
        if end > len(block) or not name_length or b"\0" in block[position : position + name_length]:
            raise damaged("an extended attribute is malformed", where)
        pairs.append((block[position : position + name_length], block[position + name_length : end]))
        position = end
    return pairs


#: Inode flags (linux/fs.h, FS_*_FL) that a user can set and that mean the same on every file system. Left out are those
#: the kernel sets by itself (extents, index, inline data, encrypted, verity).
FLAG_COMPR, FLAG_SYNC, FLAG_IMMUTABLE, FLAG_APPEND = 0x4, 0x8, 0x10, 0x20
FLAG_NODUMP, FLAG_NOATIME, FLAG_NOCOMP, FLAG_JOURNAL = 0x40, 0x80, 0x400, 0x4000
FLAG_DIRSYNC, FLAG_TOPDIR, FLAG_NOCOW, FLAG_DAX = 0x10000, 0x20000, 0x800000, 0x2000000
FLAG_PROJINHERIT, FLAG_CASEFOLD = 0x20000000, 0x40000000
PORTABLE_FLAGS = (
    FLAG_COMPR
    | FLAG_SYNC
    | FLAG_IMMUTABLE
    | FLAG_APPEND
    | FLAG_NODUMP
    | FLAG_NOATIME
    | FLAG_NOCOMP
    | FLAG_JOURNAL
    | FLAG_DIRSYNC
    | FLAG_TOPDIR
    | FLAG_NOCOW
    | FLAG_DAX
    | FLAG_PROJINHERIT
    | FLAG_CASEFOLD
)

# ------------------------------------------------------------------------------------------------------------- data

#: A DATA payload: the extents (`FrameHeader.records` of them), then the bytes of those of kind EXTENT_DATA in order.
#: object number, offset, length, kind, flags
EXTENT = struct.Struct(">QQQBB")
EXTENT_SIZE = 26
assert EXTENT.size == EXTENT_SIZE
EXTENT_DATA = 0
EXTENT_HOLE = 1
#: The first extent of a whole version of the object: what the base has of it is void.
EXTENT_FRESH = 0x01


class Extent(NamedTuple):
    """``length`` bytes of object ``number`` at ``offset``: data, or a hole."""

    number: int
    offset: int
    length: int
    kind: int
    flags: int


def encode_data(extents: Sequence[Extent], parts: Iterable[bytes]) -> bytes:
    """The raw payload of a DATA frame; ``parts`` are the bytes of its data extents, in their order."""
    pack = EXTENT.pack
    return b"".join([pack(*extent) for extent in extents]) + b"".join(parts)


def decode_extents(payload: bytes, count: int, where: str = "") -> List[Extent]:
    """The extents of a DATA payload; their bytes follow from ``count * EXTENT_SIZE``. Checks that lengths add up."""
    table = count * EXTENT_SIZE
    if table > len(payload):
        raise damaged("an extent table is cut off", where)
    extents = [Extent(*fields) for fields in EXTENT.iter_unpack(payload[:table])]
    total = 0
    for extent in extents:
        if extent.kind == EXTENT_DATA:
            total += extent.length
        elif extent.kind != EXTENT_HOLE:
            raise damaged("an extent of unknown kind", where)
        if extent.offset + extent.length > 1 << 63:
            raise damaged("an extent lies beyond what a file can hold", where)
    if total != len(payload) - table:
        raise damaged("a data frame's extents do not add up to its bytes", where)
    return extents


# ------------------------------------------------------------------------------------------------------ content hash

#: A file up to CHUNK_SIZE is hashed in one piece. Above, it is a sequence of chunks, a chunk a sequence of blocks:
#: block hash = SHA-256(block), chunk hash = SHA-256(block hashes), content hash = SHA-256(ROOT_PREFIX, size, runs).
#: A chunk of zeros only, hole or not, has the chunk hash 0. The last block and chunk may be short. The layout of holes
#: is thus no part of the hash: it is the same wherever the same file stands.
BLOCK_SIZE = 4096
CHUNK_SIZE = 1 << 20
ROOT_PREFIX = b"voltool content\0"
ZERO_CHUNK = NO_HASH
_ZERO_CHUNK_BYTES = bytes(CHUNK_SIZE)
_ZERO_BLOCK_HASH = hashlib.sha256(bytes(BLOCK_SIZE)).digest()
_RUN = struct.Struct(">Q")

#: object number, index of the first chunk; then 32 bytes a chunk
CHUNK_RUN = struct.Struct(">QQ")


def hash_small(data: bytes) -> bytes:
    """The content hash of a file of at most CHUNK_SIZE bytes; of an empty one NO_HASH."""
    return hashlib.sha256(data).digest() if data else NO_HASH


def block_hashes(chunk: memoryview) -> List[bytes]:
    """The block hashes of one chunk's logical bytes (holes as zeros)."""
    sha256 = hashlib.sha256
    return [sha256(chunk[at : at + BLOCK_SIZE]).digest() for at in range(0, len(chunk), BLOCK_SIZE)]


def is_zero(chunk: memoryview) -> bool:
    """Whether all bytes (at most CHUNK_SIZE) are zero."""
    return chunk == memoryview(_ZERO_CHUNK_BYTES)[: len(chunk)]


def chunk_hash(blocks: Sequence[bytes]) -> bytes:
    """The chunk hash from the chunk's block hashes; the caller answers ZERO_CHUNK for a chunk of zeros."""
    return hashlib.sha256(b"".join(blocks)).digest()


def content_hash(size: int, chunks: Iterable[Tuple[bytes, int]]) -> bytes:
    """The content hash of a file above CHUNK_SIZE from runs of (chunk hash, how many in a row), in order.

    Neighbouring runs of the same hash may be given split: only runs of ZERO_CHUNK are counted together.
    """
    hasher = hashlib.sha256(ROOT_PREFIX + _RUN.pack(size))
    zeros = 0
    for value, count in chunks:
        if value == ZERO_CHUNK:
            zeros += count
            continue
        if zeros:
            hasher.update(ZERO_CHUNK + _RUN.pack(zeros))
            zeros = 0
        hasher.update(value * count)
    if zeros:
        hasher.update(ZERO_CHUNK + _RUN.pack(zeros))
    return hasher.digest()


def encode_chunk_run(number: int, first: int, hashes: Sequence[bytes]) -> bytes:
    """A CHUNKS record: the chunk hashes ``first, first + 1, ...`` of object ``number``. Chunks of no record are zero
    in a fresh version and the base's otherwise."""
    return CHUNK_RUN.pack(number, first) + b"".join(hashes)


def decode_chunk_run(data: bytes, where: str = "") -> Tuple[int, int, List[bytes]]:
    """Number, index of the first chunk, chunk hashes."""
    if len(data) < CHUNK_RUN.size or (len(data) - CHUNK_RUN.size) % 32:
        raise damaged("a chunk record is malformed", where)
    number, first = CHUNK_RUN.unpack_from(data)
    return number, first, [data[at : at + 32] for at in range(CHUNK_RUN.size, len(data), 32)]


# --------------------------------------------------------------------------------------------------------- state id


def state_id(objects: Iterable[bytes], entries: Iterable[bytes]) -> str:
    """The state id of a complete manifest: SHA-256 over its sorted, final records, each with its length before it."""
    hasher = StateHasher()
    for record in objects:
        hasher.add_object(record)
    for record in entries:
        hasher.add_entry(record)
    return hasher.state_id()


class StateHasher:
    """The state id, computed as records pass by: all objects in order and all entries in order, in any interleaving."""

    def __init__(self) -> None:
        self._objects = hashlib.sha256(b"voltool objects\0")
        self._entries = hashlib.sha256(b"voltool entries\0")
        self._pending_objects: List[bytes] = []
        self._pending_entries: List[bytes] = []
        self.objects = 0
        self.entries = 0

    def add_object(self, record: bytes) -> None:
        """The next object record (final, no tombstone)."""
        self._pending_objects.append(record)
        self.objects += 1
        if len(self._pending_objects) >= 1024:
            self._flush()

    def add_entry(self, record: bytes) -> None:
        """The next entry record (no tombstone)."""
        self._pending_entries.append(record)
        self.entries += 1
        if len(self._pending_entries) >= 1024:
            self._flush()

    def add_objects(self, packed: bytes, count: int) -> None:
        """The next ``count`` object records, packed (`pack_records`)."""
        self._flush()
        self._objects.update(packed)
        self.objects += count

    def add_entries(self, packed: bytes, count: int) -> None:
        """The next ``count`` entry records, packed."""
        self._flush()
        self._entries.update(packed)
        self.entries += count

    def _flush(self) -> None:
        self._objects.update(pack_records(self._pending_objects))
        self._entries.update(pack_records(self._pending_entries))
        self._pending_objects = []
        self._pending_entries = []

    def state_id(self) -> str:
        """64 hex digits."""
        self._flush()
        return hashlib.sha256(self._objects.digest() + self._entries.digest()).hexdigest()


# ------------------------------------------------------------------------------------------------- index and trailer

#: frame type, reserved, offset of the frame in the dump, its stored length, records, key, key2
INDEX_ENTRY = struct.Struct(">B7xQIIQQ")
INDEX_ENTRY_SIZE = 40
assert INDEX_ENTRY.size == INDEX_ENTRY_SIZE


class IndexEntry(NamedTuple):
    """Where a frame is. ``key`` is the first object number (of ENTRIES: the first directory) in it, ``key2`` the first
    offset of a DATA frame's first extent."""

    type: int
    offset: int
    stored: int
    records: int
    key: int
    key2: int


TRAILER_MAGIC = b"voltoolEND\0\0"
#: magic, state id, objects, entries, data bytes, frames (before the index), offset of the first INDEX frame, number of
#: INDEX frames, seconds spent (reserved 0), digest over all frame headers before the trailer, reserved, crc32
TRAILER = struct.Struct(">12s32sQQQIQIQ32s60xI")
TRAILER_SIZE = 188
assert TRAILER.size == TRAILER_SIZE


class Trailer(NamedTuple):
    """The last 188 bytes. ``state_id`` is 32 bytes; ``digest`` covers every frame header, which cover the payloads."""

    state_id: bytes
    objects: int
    entries: int
    data_bytes: int
    frames: int
    index_offset: int
    index_frames: int
    reserved: int
    digest: bytes


def encode_trailer(trailer: Trailer) -> bytes:
    """The bytes of the trailer."""
    body = TRAILER.pack(TRAILER_MAGIC, *trailer, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "big")


def decode_trailer(data: bytes, where: str = "") -> Trailer:
    """Decode and check a trailer; raises IntegrityError: without one the dump does not exist."""
    if len(data) != TRAILER_SIZE or data[:12] != TRAILER_MAGIC:
        raise damaged("it has no trailer: it is cut off or was never finished", where)
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise damaged("the trailer's checksum does not match", where)
    return Trailer(*TRAILER.unpack(data)[1:-1])


def iter_extents_with_data(payload: bytes, extents: Sequence[Extent]) -> Iterator[Tuple[Extent, memoryview]]:
    """Each extent with its bytes (empty for a hole)."""
    view = memoryview(payload)
    position = len(extents) * EXTENT_SIZE
    for extent in extents:
        if extent.kind == EXTENT_DATA:
            yield extent, view[position : position + extent.length]
            position += extent.length
        else:
            yield extent, view[:0]
