"""The parser of send streams: any split of the bytes, and everything that is not certain."""

from __future__ import annotations

import struct

import pytest

from voltool.volumes.contract import ByteRange
from voltool.volumes.delta import Delta, Node, ranges_of
from voltool.volumes.send_stream import Attribute, Command, Kind, SendStreamParser, UnexpectedStream

HEADER = b"btrfs-stream\0" + struct.pack("<I", 1)


def command(kind: int, **attributes: bytes | int) -> bytes:
    body = b""
    for name, value in attributes.items():
        data = struct.pack("<Q", value) if isinstance(value, int) else value
        body += struct.pack("<HH", Attribute[name], len(data)) + data
    return struct.pack("<IHI", len(body), kind, 0) + body


STREAM = (
    HEADER
    + command(Kind.SNAPSHOT, PATH=b"clone")
    + command(Kind.MKFILE, PATH=b"o300-9-0", INO=300)
    + command(Kind.RENAME, PATH=b"o300-9-0", PATH_TO=b"dir/new")
    + command(Kind.UPDATE_EXTENT, PATH=b"dir/old", FILE_OFFSET=4096, SIZE=8192)
    + command(Kind.END)
)


class Base:
    def __init__(self, inodes: dict[bytes, int]) -> None:
        self._inodes = inodes

    def inode(self, path: bytes) -> int | None:
        return self._inodes.get(path)


def play(stream: bytes, **inodes: int) -> Delta:
    delta = Delta(Base({name.replace("__", "/").encode(): inode for name, inode in inodes.items()}), 256)
    parser = SendStreamParser()
    for item in parser.feed(stream):
        delta.play(item)
    parser.finish()
    return delta


@pytest.mark.parametrize("step", [1, 2, 7, 13, 1000])
def test_any_split_gives_the_same_commands(step: int) -> None:
    parser = SendStreamParser()
    commands: list[Command] = []
    for at in range(0, len(STREAM), step):
        commands += parser.feed(STREAM[at : at + step])
    parser.finish()
    kinds = [Kind.SNAPSHOT, Kind.MKFILE, Kind.RENAME, Kind.UPDATE_EXTENT, Kind.END]
    assert [item.kind for item in commands] == kinds
    assert commands[1].number(Attribute.INO) == 300
    assert commands[2].path(Attribute.PATH_TO) == b"dir/new"


def test_cut_off_anywhere_is_not_an_answer() -> None:
    for length in range(len(STREAM)):
        parser = SendStreamParser()
        list(parser.feed(STREAM[:length]))
        with pytest.raises(UnexpectedStream):
            parser.finish()


@pytest.mark.parametrize(
    "stream",
    [
        b"not a stream at all, this" + bytes(20),
        b"btrfs-stream\0" + struct.pack("<I", 2) + command(Kind.END),
        HEADER + command(23, PATH=b"x"),
        HEADER + command(Kind.END) + command(Kind.END),
        HEADER + struct.pack("<IHI", 1 << 30, Kind.END, 0),
        HEADER + struct.pack("<IHI", 6, Kind.CHMOD, 0) + struct.pack("<HH", Attribute.PATH, 9) + b"ab",
    ],
)
def test_what_is_not_understood_is_refused(stream: bytes) -> None:
    with pytest.raises(UnexpectedStream):
        list(SendStreamParser().feed(stream))


def test_the_picture_follows_temporary_names() -> None:
    delta = play(STREAM, dir=257, dir__old=258)
    said = {node.inode: delta.path(node) for node in delta.changed()}
    assert said == {256: b"", 257: b"dir", 258: b"dir/old", 300: b"dir/new"}


@pytest.mark.parametrize(
    "commands",
    [
        command(Kind.CHMOD, PATH=b"missing"),
        command(Kind.RENAME, PATH=b"dir/old", PATH_TO=b"dir"),
        command(Kind.UNLINK, PATH=b""),
        command(Kind.MKFILE, PATH=b"new"),
        command(Kind.UPDATE_EXTENT, PATH=b"dir/old", FILE_OFFSET=b"short", SIZE=1),
        command(Kind.SNAPSHOT, PATH=b"again"),
    ],
)
def test_a_stream_that_contradicts_the_base_is_refused(commands: bytes) -> None:
    with pytest.raises(UnexpectedStream):
        play(HEADER + command(Kind.SNAPSHOT, PATH=b"c") + commands + command(Kind.END), dir=257, dir__old=258)


def test_a_full_stream_is_refused() -> None:
    with pytest.raises(UnexpectedStream, match="parent"):
        play(HEADER + command(Kind.SUBVOL, PATH=b"c") + command(Kind.END))


def test_ranges_are_merged_and_cut() -> None:
    node = Node(300, b"file")
    for offset, length in ((8192, 4096), (0, 10), (12288, 4096), (5, 10), (100_000, 5)):
        node.add_range(offset, length)
    assert ranges_of(node, 90_000, 90_000) == [ByteRange(0, 15), ByteRange(8192, 8192)]
    assert ranges_of(node, 80_000, 90_000)[-1:] == [ByteRange(80_000, 10_000)]  # type: ignore[index]
    node.truncated = 50_000
    assert ranges_of(node, 90_000, 90_000)[-1:] == [ByteRange(50_000, 40_000)]  # type: ignore[index]
    node.ranges = None
    assert ranges_of(node, 1, 1) is None
