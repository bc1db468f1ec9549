"""How tests/dumpfile/golden was made: dumps whose bytes are fixed, each below a text header that says what must come of it.

`golden/1` are dumps of format 1, which is frozen: its files never change, and only new ones come. `golden/0` are dumps from
before the freeze; nothing makes such any more. `python -m tests.dumpfile.make_golden` writes the files of the present format
that are not there yet. test_golden.py reads all files as they are, and holds what this makes against those of the present
format, so that neither reader nor writer drifts unnoticed.
The frames are not compressed, for compressors differ between versions; ``lz4`` and ``zlib`` alone have others and are only read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import stat
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.dumpfile import model
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain, has_content
from voltool.dumpfile.writer import DumpWriter, PackedFrame, pack_frame
from voltool.model import Consistency, DumpHeader, Epoch
from voltool.showing import shown

GOLDEN = Path(__file__).parent / "golden"
DIRECTORY = GOLDEN / str(fmt.FORMAT_VERSION)
SUFFIX = ".golden"

FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777
ACL = bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff")  # u::rwx,g::r-x,o::r-x
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep
LARGE_SIZE = 3 * fmt.CHUNK_SIZE + 5


@dataclasses.dataclass(frozen=True)
class Object:
    """One object and, of a file, what this dump holds of it; ``large`` are the pieces of a file of `LARGE_SIZE` bytes."""

    record: fmt.ObjectRecord
    data: bytes = b""
    large: tuple[tuple[int, bytes], ...] = ()
    fresh: bool = True


Entries = list[tuple[int, bytes, int]]
Extra = Callable[[DumpWriter], None]


def node(number: int, mode: int, **values: object) -> Object:
    record = fmt.ObjectRecord(number, mode, 1000, 100, 0, 1_600_000_000, 123_456_789, 0, 0, 0, fmt.NO_HASH, b"", b"")
    return Object(record._replace(**values))  # type: ignore[arg-type]


def file(number: int, data: bytes, mode: int = FILE, **values: object) -> Object:
    made = node(number, mode, **{"size": len(data), "content": fmt.hash_small(data), **values})
    return dataclasses.replace(made, data=data)


def large_file(
    number: int, whole: Sequence[tuple[int, bytes]], pieces: Sequence[tuple[int, bytes]], *, fresh: bool
) -> Object:
    """``whole`` is what it holds beside holes, ``pieces`` what this dump has of it."""
    content = model.hash_content(_flat(whole))
    made = node(number, FILE, size=LARGE_SIZE, content=content)
    return dataclasses.replace(made, large=tuple(pieces), fresh=fresh)


def _flat(pieces: Sequence[tuple[int, bytes]]) -> bytes:
    data = bytearray(LARGE_SIZE)
    for offset, piece in pieces:
        data[offset : offset + len(piece)] = piece
    return bytes(data)


# ------------------------------------------------------------------------------------------------- the two good dumps

OLD_LARGE = ((4096, b"a block in the first MiB"), (LARGE_SIZE - 5, b"tail!"))
PATCH = ((2 * fmt.CHUNK_SIZE, b"changed in place"),)


def level_0() -> tuple[list[Object], Entries]:
    """Every kind of object, and what Linux keeps of them."""
    acl = fmt.encode_xattrs([(b"system.posix_acl_access", ACL), (b"user.\xffname", b"value\0")])
    capability = fmt.encode_xattrs([(b"security.capability", CAPABILITY)])
    objects = [
        node(1, FOLDER),
        node(2, stat.S_IFDIR | 0o2770, uid=0, gid=0, flags=0x40, project=7, mtime_s=-5, mtime_ns=1),
        file(3, b"hello, world\n", stat.S_IFREG | 0o4755, xattrs=acl),
        file(4, b"", flags=0x10, mtime_s=4_102_444_800),
        large_file(5, OLD_LARGE, OLD_LARGE, fresh=True),
        node(6, LINK, target=b"../\xfe nowhere"),
        node(7, stat.S_IFIFO | 0o600),
        node(8, stat.S_IFSOCK | 0o700),
        node(9, stat.S_IFBLK | 0o660, size=(8 << 8) | 1),
        node(10, stat.S_IFCHR | 0o666, size=(1 << 8) | 3),
        file(11, b"never settled", state=fmt.STATE_UNSETTLED, xattrs=capability),
        node(12, FILE, state=fmt.STATE_UNKNOWN),
        file(13, bytes(100) + b"after zeros"),
    ]
    entries = [
        (1, b"dir", 2), (1, b"new\nline \xff \\", 3), (1, b"empty", 4), (1, b"large", 5), (1, b"link", 6), (1, b"fifo", 7),
        (1, b"socket", 8), (1, b"disk", 9), (1, b"null", 10), (1, b"log", 11), (1, b"unreadable", 12), (2, b"zeros", 13),
        (2, b"hard link", 3), (2, b"n" * 255, 4),
    ]  # fmt: skip
    return objects, entries


def level_1() -> tuple[list[Object], Entries, list[Object], Entries]:
    """What changed, and the whole state after it: a file patched, one new, one gone, a directory renamed, an attribute."""
    old, old_entries = level_0()
    patched = large_file(5, [*OLD_LARGE, *PATCH], PATCH, fresh=False)
    attribute = Object(old[12].record._replace(mode=stat.S_IFREG | 0o600))
    changed = [patched, attribute, file(14, b"a new file")]
    gone = (1, b"fifo", 7)
    new_entries: Entries = [(1, b"renamed", 2), (1, b"new", 14)]
    removed: Entries = [(1, b"dir", 2), gone]
    by_number = {each.record.number: each for each in [*old, *changed]}
    del by_number[7]
    state = [by_number[number] for number in sorted(by_number)]
    entries = [entry for entry in old_entries if entry not in removed] + new_entries
    differences = new_entries + [(directory, name, 0) for directory, name, _child in removed]
    return changed, differences, state, entries


# ---------------------------------------------------------------------------------------------------------- writing


def header(dump_id: str, level: int = 0, base_state_id: str | None = None) -> DumpHeader:
    return DumpHeader(
        dump_id=dump_id * 8,
        volume_uuid="0123456789abcdef" * 2,
        volume_name="golden",
        level=level,
        sequence=level + 1,
        epoch=Epoch(1, "00ff00ff00ff00ff", "hosta"),
        clone_time_ns=1_600_000_001_000_000_000 + level,
        boot_id="00000000-0000-4000-8000-000000000000",
        host="hosta",
        driver="directory",
        consistency=Consistency.LIVE,
        source_path=b"/srv/golden",
        base_state_id=base_state_id,
        base_dump_id=None if base_state_id is None else "0000" * 8,
        excludes=(b"*.tmp",),
        tool_version="0",
        machine_id="f" * 32,
    )


def manifest(objects: Sequence[Object], entries: Entries) -> tuple[list[bytes], list[bytes]]:
    return [fmt.encode_object(each.record) for each in objects], sorted(fmt.encode_entry(*entry) for entry in entries)


def pending(each: Object) -> bytes:
    """The record in OBJECTS: of a regular file its final one comes in CONTENT, after the data."""
    record = each.record
    if stat.S_ISREG(record.mode):
        record = record._replace(state=record.state | fmt.STATE_PENDING, size=0, content=fmt.NO_HASH)
    return fmt.encode_object(record)


def dump(
    head: DumpHeader,
    objects: Sequence[Object],
    entries: Entries,
    *,
    complete: tuple[Sequence[Object], Entries] | None = None,
    gone: Sequence[int] = (),
    codec: int = fmt.CODEC_NONE,
    extra: Extra = lambda _writer: None,
) -> bytes:
    """A dump of ``objects`` and ``entries``, which lead to the state ``complete`` (itself, at level 0)."""
    pieces: list[bytes] = []
    writer = DumpWriter(lambda data: pieces.append(bytes(data)), codec)
    writer.begin(head)
    writer.owners([fmt.encode_owner(b"g", 100, b"users"), fmt.encode_owner(b"u", 1000, b"\xffuser")])
    records = [pending(each) for each in objects] + [fmt.encode_object_tombstone(number) for number in gone]
    writer.objects(sorted(records, key=fmt.object_key))
    writer.entries(sorted(fmt.encode_entry(*entry) for entry in entries))
    extra(writer)
    for each in objects:
        if stat.S_ISREG(each.record.mode):
            _data(writer, each, codec)
            writer.content([fmt.encode_object(each.record)])
    tables = manifest(*(complete or (objects, entries)))
    writer.finish(fmt.state_id(*tables), len(tables[0]), len(tables[1]))
    return b"".join(pieces)


def _data(writer: DumpWriter, each: Object, codec: int) -> None:
    number = each.record.number
    pieces = each.large or (((0, each.data),) if each.data else ())
    extents: list[fmt.Extent] = []
    parts: list[bytes] = []
    for offset, piece in pieces:
        if each.fresh and each.large and not extents and offset:
            extents.append(fmt.Extent(number, 0, offset, fmt.EXTENT_HOLE, fmt.EXTENT_FRESH))
            parts.append(b"")
        fresh = fmt.EXTENT_FRESH if each.fresh and not extents else 0
        extents.append(fmt.Extent(number, offset, len(piece), fmt.EXTENT_DATA, fresh))
        parts.append(piece)
    if extents:
        raw = fmt.encode_data(extents, parts)
        writer.frame(pack_frame(fmt.DATA, raw, len(extents), codec, number, extents[0].offset))
    touched = sorted({offset // fmt.CHUNK_SIZE for offset, _piece in each.large})
    hashes = model.chunk_hashes(_flat(each.large))
    writer.chunks([fmt.encode_chunk_run(number, chunk, [hashes[chunk]]) for chunk in touched])


def good_level_0(codec: int = fmt.CODEC_NONE) -> bytes:
    return dump(header("0000"), *level_0(), codec=codec)


def base_id() -> str:
    return fmt.state_id(*manifest(*level_0()))


def good_level_1(base_state_id: str | None = None, change: bytes = b"") -> bytes:
    """``change`` instead of the beginning of the data that is patched in."""
    changed, differences, state, entries = level_1()
    if change:
        offset, piece = changed[0].large[0]
        changed[0] = dataclasses.replace(changed[0], large=((offset, change + piece[len(change) :]),))
    head = header("1111", 1, base_state_id or base_id())
    return dump(head, changed, differences, complete=(state, entries), gone=[7])


# --------------------------------------------------------------------------------------------- damaged and hostile dumps


def tree(objects: Sequence[Object], entries: Entries, extra: Extra = lambda _writer: None) -> bytes:
    return dump(header("2222"), [node(1, FOLDER), *objects], entries, extra=extra)


def frame(kind: int, payload: bytes, codec: int = fmt.CODEC_NONE, raw: int = -1, records: int = 0) -> Extra:
    length = len(payload) if raw < 0 else raw
    return lambda writer: writer.frame(PackedFrame(kind, codec, length, records, 0, 0, payload))


def forged_trailer(data: bytes, **values: object) -> bytes:
    trailer = fmt.decode_trailer(data[-fmt.TRAILER_SIZE :])
    return data[: -fmt.TRAILER_SIZE] + fmt.encode_trailer(trailer._replace(**values))  # type: ignore[arg-type]


def forged_preamble(version: int, incompatible: int) -> bytes:
    body = fmt.PREAMBLE.pack(fmt.MAGIC, version, 0, 0, 0, incompatible, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "big") + tree([], [])[fmt.PREAMBLE_SIZE :]


def first_frame(**values: int) -> bytes:
    """A dump whose first frame's header claims ``values``, under a right checksum."""
    data = tree([], [])
    start, end = fmt.PREAMBLE_SIZE, fmt.PREAMBLE_SIZE + fmt.FRAME_SIZE
    claimed = fmt.decode_frame_header(data[start:end])._replace(**values)  # type: ignore[arg-type]
    body = fmt.FRAME.pack(*claimed, 0)[:-4]
    return data[:start] + body + zlib.crc32(body).to_bytes(4, "big") + data[end:]


@dataclasses.dataclass(frozen=True)
class Vector:
    """One file. ``why`` is a part of the error's text; empty: the dump is whole, and what it holds is listed."""

    data: bytes
    comment: str
    why: str = ""
    base: str = ""


def vectors() -> dict[str, Vector]:
    """All but ``lz4`` and ``zlib``, by name."""
    good, newer = good_level_0(), good_level_1()
    small = file(2, b"x")
    middle = good.index(b"hello, world")
    lying = dataclasses.replace(file(2, b"right content"), data=b"wrong content")
    bomb = zlib.compress(bytes(4 << 20), 9)
    hang = node(2, LINK, target=b"/etc")
    return {
        "level0": Vector(good, "every kind of object"),
        "level1": Vector(newer, "what changed since level0", base="level0"),
        "ancillary": Vector(tree([], [], frame(fmt.ANCILLARY_BIT | 5, b"of the future")), "an unknown frame that may be skipped"),
        "truncated": Vector(good[: len(good) // 2], "the second half is missing", "is damaged"),
        "flipped": Vector(good[:middle] + b"H" + good[middle + 1 :], "one bit of a file's data", "checksum of frame"),
        "appended": Vector(good + b"\0", "a byte after the end", "is damaged"),
        "magic": Vector(b"PK" + good[2:1000], "another kind of file", "is not a voltool dump"),
        "empty": Vector(b"", "no byte at all", "shorter than its preamble"),
        "version": Vector(forged_preamble(99, 0), "a format of the future", "format 99"),
        "feature": Vector(forged_preamble(1, 1 << 31), "an incompatible feature of the future", "features 0x80000000"),
        "vital": Vector(tree([], [], frame(77, b"?")), "an unknown frame that may not be skipped", "unknown type 77"),
        "sealed": Vector(first_frame(flags=fmt.FLAG_SEALED), "an encrypted frame", "encrypted"),
        "absurd": Vector(first_frame(raw=fmt.MAX_RAW + 1), "a frame of more than the cap", "absurd length"),
        "bomb": Vector(
            tree([], [], frame(fmt.DATA, bomb, fmt.CODEC_ZLIB, 100, 1)), "4 MiB said to be 100 bytes", "the length it claims"
        ),
        "no-base": Vector(newer, "level1 alone", "does not fit"),
        "wrong-base": Vector(good_level_1("ab" * 32), "its base has another state", "does not fit", "level0"),
        "patched-wrong": Vector(good_level_1(change=b"C"), "data of level 1 that is not what it claims", "large", "level0"),
        "content": Vector(tree([lying], [(1, b"f", 2)]), "a file's data under another's hash", "f does not have the content"),
        "state-id": Vector(forged_trailer(good, state_id=b"\1" * 32), "a trailer with another state id", "state"),
        "count": Vector(forged_trailer(good, entries=3), "a trailer that counts other entries", "state"),
        "dot-dot": Vector(tree([small], [(1, b"..", 2)]), "a name that leads out", "no directory can hold"),
        "absolute": Vector(tree([small], [(1, b"/etc/passwd", 2)]), "an absolute name", "no directory can hold"),
        "below-symlink": Vector(tree([hang, file(3, b"x")], [(1, b"s", 2), (2, b"f", 3)]), "a file in a link", "no directory"),
        "circle": Vector(
            tree([node(2, FOLDER), node(3, FOLDER)], [(2, b"a", 3), (3, b"b", 2)]), "directories in each other", "circle"
        ),
        "two-names": Vector(
            tree([node(2, FOLDER)], [(1, b"a", 2), (1, b"b", 2)]), "a directory with two names", "two names"
        ),
        "nameless": Vector(tree([small], []), "an object without a name", "no name"),
        "dangling": Vector(tree([], [(1, b"a", 9)]), "a name without an object", "not there"),
        "type": Vector(tree([node(2, 0o170000)], [(1, b"a", 2)]), "an object of no known type", "unknown type"),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- the files


def listing(chain: Chain) -> list[str]:
    """What a chain restores to, a line a name: the SHA-256 of its bytes is taken here, not by the format."""
    names = [fmt.decode_entry(record) for record in chain.entries()]
    directories: dict[int, bytes] = {1: b""}
    waiting = sorted(names)
    lines = [_line(chain, 1, b".")]
    while waiting:
        directory, name, child = next(entry for entry in waiting if entry[0] in directories)
        waiting.remove((directory, name, child))
        path = b"/".join(filter(None, (directories[directory], name)))
        lines.append(_line(chain, child, path))
        record = chain.object(child)
        if record is not None and stat.S_ISDIR(record.mode):
            directories[child] = path
    return lines


def _line(chain: Chain, number: int, path: bytes) -> str:
    record = chain.object(number)
    assert record is not None
    content = "-"
    if stat.S_ISREG(record.mode) and has_content(record):
        content = hashlib.sha256(b"".join(bytes(piece) for piece in chain.content(record))).hexdigest()
    xattrs = ",".join(f"{shown(name)}={value.hex()}" for name, value in fmt.decode_xattrs(record.xattrs)) or "-"
    return (
        f"{number} {record.mode:o} {record.uid}:{record.gid} {record.size} {record.mtime_s} {record.mtime_ns}"
        f" {record.flags:#x} {record.project} {record.state:#x} {content} {xattrs} {shown(record.target) or '-'} {shown(path)}"
    )


def text_of(vector: Vector, chain: Chain | None) -> str:
    """The header of a golden file."""
    lines = ["voltool golden dump", f"comment: {vector.comment}"]
    if vector.base:
        lines.append(f"base: {vector.base}")
    if chain is None:
        lines += ["expect: integrity", "exit: 5", f"why: {vector.why}"]
    else:
        lines += ["expect: whole", "exit: 0", f"state: {chain.totals.state_id}"]
        lines += [f"entry: {line}" for line in listing(chain)]
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Write the files that are not there yet."""
    DIRECTORY.mkdir(exist_ok=True)
    made = vectors()
    made["lz4"] = Vector(good_level_0(fmt.CODEC_LZ4), "level0 compressed with LZ4: read only, since compressors differ")
    made["zlib"] = Vector(
        good_level_0(fmt.CODEC_ZLIB), "level0 compressed with zlib: read only, since compressors differ"
    )
    for name, vector in made.items():
        if (DIRECTORY / (name + SUFFIX)).exists():
            continue
        bases = [made[vector.base].data] if vector.base else []
        chain = None if vector.why else Chain([model.open_dump(data) for data in [*bases, vector.data]])
        (DIRECTORY / (name + SUFFIX)).write_bytes(text_of(vector, chain).encode() + vector.data)


if __name__ == "__main__":
    main()
