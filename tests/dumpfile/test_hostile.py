"""Dumps that were made to do harm, with right checksums: refused by the checks that apply, merge and verify share."""

from __future__ import annotations

import random
import resource
import stat
import zlib

import pytest

from tests.dumpfile import model
from tests.dumpfile.model import State, Thing
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.frames import Frame, FrameDecoder, decode_payload
from voltool.dumpfile.structure import StructureCheck
from voltool.dumpfile.verify import verify_chain
from voltool.dumpfile.writer import DumpWriter, PackedFrame
from voltool.errors import IntegrityError

DIRECTORY = Thing(stat.S_IFDIR | 0o755)
FILE = Thing(stat.S_IFREG | 0o644, b"x")


def refused(state: State, why: str) -> None:
    data, _totals = model.write_dump(state, None, model.header_of("h", 0, None), random.Random(0))
    with pytest.raises(IntegrityError, match=why):
        verify_chain(Chain([model.open_dump(data)]))


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc/passwd", b"n" * 256])
def test_names_that_escape(name: bytes) -> None:
    refused(State({1: DIRECTORY, 2: FILE}, {(1, name): 2}), "no directory can hold")


def test_an_empty_name() -> None:
    refused(State({1: DIRECTORY, 2: FILE}, {(1, b""): 2}), "malformed")


@pytest.mark.parametrize(
    ("objects", "entries", "why"),
    [
        ({1: DIRECTORY, 2: DIRECTORY, 3: DIRECTORY}, {(2, b"a"): 3, (3, b"b"): 2}, "circle"),
        ({1: DIRECTORY, 2: DIRECTORY}, {(2, b"a"): 2}, "circle"),
        ({1: DIRECTORY, 2: DIRECTORY}, {(1, b"a"): 2, (1, b"b"): 2}, "two names"),
        ({1: DIRECTORY, 2: DIRECTORY}, {(1, b"a"): 2, (2, b"root"): 1}, "two names, or the root"),
        ({1: DIRECTORY}, {(1, b"a"): 7}, "not there"),
        ({1: DIRECTORY, 2: FILE}, {(1, b"a"): 2, (7, b"b"): 2}, "no directory"),
        ({1: DIRECTORY, 2: FILE}, {(1, b"a"): 2, (2, b"b"): 2}, "no directory"),
        ({1: DIRECTORY, 2: FILE, 3: Thing(stat.S_IFLNK, target=b"/etc")}, {(1, b"s"): 3, (3, b"b"): 2}, "no directory"),
        ({1: DIRECTORY, 2: FILE}, {}, "no name"),
        ({1: FILE}, {}, "no root"),
        ({2: DIRECTORY}, {(2, b"a"): 2}, "no root"),
        ({1: DIRECTORY, 2: Thing(0o170000)}, {(1, b"a"): 2}, "unknown type"),
    ],
)
def test_what_is_no_tree(objects: dict[int, Thing], entries: dict[tuple[int, bytes], int], why: str) -> None:
    refused(State(objects, entries), why)


def test_a_tree_is_accepted() -> None:
    check = StructureCheck("dump")
    for number in range(1, 1001):
        check.object(number, stat.S_IFDIR)
    check.object(1 << 60, stat.S_IFREG)
    for number in range(1000, 1, -1):
        check.entry(number, number - 1 if number - 1 > 1 else 1 << 60)
    check.entry(1, 1000)
    check.entry(1, 1 << 60)
    check.finish()


def test_a_deep_circle_is_found() -> None:
    check = StructureCheck("dump")
    for number in range(1, 5001):
        check.object(number, stat.S_IFDIR)
    check.entry(1, 2)
    for number in range(3, 5001):
        check.entry(number, number + 1 if number < 5000 else 3)
    with pytest.raises(IntegrityError, match="circle"):
        check.finish()


def frame_bytes(kind: int, codec: int, stored: bytes, raw: int, records: int) -> bytes:
    return fmt.encode_preamble() + fmt.encode_frame_header(kind, codec, stored, raw, records, 0) + stored


def test_a_decompression_bomb_costs_no_memory() -> None:
    bomb = zlib.compress(bytes(300 << 20), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claimed in (100, fmt.MAX_RAW):
        header = fmt.decode_frame_header(fmt.encode_frame_header(fmt.DATA, fmt.CODEC_ZLIB, bomb, claimed, 1, 0))
        with pytest.raises(IntegrityError):
            decode_payload(Frame(header, bomb))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 << 10, f"{grown} KiB"
    with pytest.raises(IntegrityError):
        FrameDecoder("dump").feed(frame_bytes(fmt.HEADER, fmt.CODEC_ZLIB, bomb, 100, 0))


@pytest.mark.parametrize(
    ("stored", "raw", "records"), [(fmt.MAX_STORED + 1, 10, 0), (10, fmt.MAX_RAW + 1, 0), (10, 10, 1 << 31)]
)
def test_absurd_counts_are_refused_by_the_header_alone(stored: int, raw: int, records: int) -> None:
    body = fmt.FRAME.pack(fmt.HEADER, 0, 0, stored, raw, records, 0, 0, 0, b"\0" * 16, 0, 0)[:-4]
    data = fmt.encode_preamble() + body + zlib.crc32(body).to_bytes(4, "big")
    with pytest.raises(IntegrityError, match="claims"):
        FrameDecoder("dump").feed(data)


def test_frames_where_they_do_not_belong() -> None:
    for kinds in ((fmt.ENTRIES, fmt.OBJECTS), (fmt.CONTENT, fmt.ENTRIES), (fmt.HEADER,), (fmt.DATA, fmt.OWNERS), (77,)):
        pieces = bytearray()
        writer = DumpWriter(pieces.extend, fmt.CODEC_NONE)
        writer.begin(model.header_of("h", 0, None))
        for kind in kinds:
            writer.frame(PackedFrame(kind, fmt.CODEC_NONE, 0, 0, 0, 0, b""))
        writer.finish("00" * 32, 0, 0)
        with pytest.raises(IntegrityError):
            FrameDecoder("dump").feed(bytes(pieces))


def test_an_unknown_ancillary_frame_is_skipped() -> None:
    pieces: list[bytes] = []
    writer = DumpWriter(lambda data: pieces.append(bytes(data)), fmt.CODEC_NONE)
    writer.begin(model.header_of("h", 0, None))
    writer.frame(PackedFrame(fmt.ANCILLARY_BIT | 5, fmt.CODEC_NONE, 3, 0, 0, 0, b"new"))
    objects, entries = model.records_of(State({1: DIRECTORY}, {}))
    writer.objects(objects)
    writer.finish(fmt.state_id(objects, entries), 1, 0)
    decoder = FrameDecoder("dump")
    kinds = [frame.header.type for frame in decoder.feed(b"".join(pieces))]
    decoder.finish()
    assert kinds == [fmt.HEADER, fmt.OBJECTS, fmt.INDEX]
    verify_chain(Chain([model.open_dump(b"".join(pieces))]))


def test_a_pending_file_without_content_is_damage() -> None:
    pieces: list[bytes] = []
    writer = DumpWriter(lambda data: pieces.append(bytes(data)), fmt.CODEC_NONE)
    writer.begin(model.header_of("h", 0, None))
    state = State({1: DIRECTORY, 2: Thing(FILE.mode, b"", state=fmt.STATE_PENDING)}, {(1, b"a"): 2})
    objects, entries = model.records_of(state)
    writer.objects(objects)
    writer.entries(entries)
    writer.finish(fmt.state_id(objects, entries), 2, 1)
    with pytest.raises(IntegrityError, match="never came"):
        list(Chain([model.open_dump(b"".join(pieces))]).objects())
