"""Large files whose chunks are checked as they are written, or read back where no frame has all of one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tree.apply_run import apply
from tests.tree.apply_streams import File, Stream, _run, _touched, large_hash
from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import Extent
from voltool.dumpfile.writer import DumpWriter, pack_frame
from voltool.errors import EXIT_INTEGRITY, HostError, VoltoolError

Parts = list[tuple[int, bytes]]
MIB = 1 << 20


class Cut(Stream):
    """A stream whose one large file comes in the frames that ``frames`` says: the parts of each."""

    frames: list[Parts]

    def _large(self, writer: DumpWriter, file: File) -> None:
        number, flags = file.final.number, fmt.EXTENT_FRESH
        for parts in self.frames:
            extents = []
            for at, data in parts:
                extents.append(Extent(number, at, len(data), fmt.EXTENT_DATA, flags))
                flags = 0
            raw = fmt.encode_data(extents, [data for _at, data in parts])
            writer.frame(pack_frame(fmt.DATA, raw, len(extents), codecs.default_codec(), number, parts[0][0]))
        writer.chunks([_run(file, number, index, file.final.size) for index in _touched(file.parts)])
        writer.content([fmt.encode_object(file.final)])


def cut(whole: Parts, size: int, frames: list[Parts]) -> Cut:
    """A file of ``size`` bytes that is ``whole``, and how it comes."""
    stream = Cut()
    stream.directory(1)
    stream.file(2, 1, b"large", b"x", size=size, content=large_hash(whole, size))
    stream.files[0].parts = whole
    stream.frames = frames
    return stream


def _in_chunks(data: bytes) -> list[Parts]:
    return [[(at, data[at : at + MIB])] for at in range(0, len(data), MIB)]


def _in_halves(data: bytes) -> list[Parts]:
    return [[(at, data[at : at + MIB // 2])] for at in range(0, len(data), MIB // 2)]


def _across_chunks(data: bytes) -> list[Parts]:
    step = MIB + 4096
    return [[(at, data[at : at + step])] for at in range(0, len(data), step)]


def _in_many_extents(data: bytes) -> list[Parts]:
    return [
        [(at, data[at : at + MIB // 4]) for at in range(start, min(start + MIB, len(data)), MIB // 4)]
        for start in range(0, len(data), MIB)
    ]


@pytest.mark.parametrize("size", [3 * MIB + 5000, 12 * MIB + 1])  # in one batch; streamed
@pytest.mark.parametrize("cutting", [_in_chunks, _in_halves, _across_chunks, _in_many_extents])
def test_it_comes_back_however_it_was_cut(tmp_path: Path, size: int, cutting: Callable[[bytes], list[Parts]]) -> None:
    data = os.urandom(size - 2 * MIB) + bytes(MIB) + os.urandom(MIB)  # a chunk of zeros, and one of zeros in part
    apply(cut([(0, data)], size, cutting(data)), tmp_path / "target")
    assert (tmp_path / "target/large").read_bytes() == data


@pytest.mark.parametrize("size", [4 * MIB, 16 * MIB])
def test_a_chunk_with_holes_around_its_data_is_checked_with_them(tmp_path: Path, size: int) -> None:
    parts = [(at, os.urandom(900_000)) for at in range(0, size - 2 * MIB, MIB)]
    apply(cut(parts, size, [[part] for part in parts]), tmp_path / "target")
    expected = bytearray(size)
    for at, data in parts:
        expected[at : at + len(data)] = data
    assert (tmp_path / "target/large").read_bytes() == expected
    parts[1] = (parts[1][0], parts[1][1][:-1] + bytes([parts[1][1][-1] ^ 1]))
    stream = cut(parts, size, [[part] for part in parts])
    stream.frames[1] = [(parts[1][0] + 4096, parts[1][1])]  # the right bytes at the wrong place
    with pytest.raises(VoltoolError) as refused:
        apply(stream, tmp_path / "other")
    assert refused.value.exit_code == EXIT_INTEGRITY


@pytest.mark.parametrize("size", [3 * MIB, 12 * MIB])
@pytest.mark.parametrize("order", [1, -1])
def test_a_frame_that_spoils_what_another_brought_is_noticed(tmp_path: Path, size: int, order: int) -> None:
    """Each chunk comes once as its hash says; and one byte of one of them comes again, before or after it."""
    data = os.urandom(size)
    spoilt = [[(MIB + 77, bytes([data[MIB + 77] ^ 1]))], [(MIB, data[MIB : 2 * MIB])]]
    frames = _in_chunks(data)
    frames[1:2] = spoilt[::-order]
    stream = cut([(0, data)], size, frames)
    if order < 0:  # what comes last is right
        apply(stream, tmp_path / "target", workers=0)
        assert (tmp_path / "target/large").read_bytes() == data
        return
    with pytest.raises(VoltoolError) as refused:
        apply(stream, tmp_path / "target", workers=0)
    assert refused.value.exit_code == EXIT_INTEGRITY


def test_a_disk_that_fails_while_the_file_arrives_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    data = os.urandom(12 * MIB)
    stream = cut([(0, data)], len(data), _in_chunks(data))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        with pytest.raises(HostError) as refused:
            apply(stream, tmp_path / "target")
        assert refused.value.why == os.strerror(errno.EIO)
        assert not (tmp_path / "target").exists()
    apply(stream, tmp_path / "target")
    assert (tmp_path / "target/large").read_bytes() == data
