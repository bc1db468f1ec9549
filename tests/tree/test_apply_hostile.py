"""A damaged or hostile stream: refused with code 5, nothing published, nothing written outside staging."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tree.apply_run import apply
from tests.tree.apply_streams import File, Stream, record
from voltool.dumpfile import codec as codecs
from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import DumpWriter, pack_frame
from voltool.errors import EXIT_INTEGRITY, VoltoolError


def good() -> Stream:
    stream = Stream()
    stream.directory(1)
    stream.file(2, 1, b"file", b"content")
    stream.directory(3, 1, b"directory")
    stream.file(4, 3, b"inside", b"more")
    stream.directory(5, 3, b"deeper")
    return stream


def _entry(stream: Stream, directory: int, name: bytes, child: int) -> None:
    stream.entries.append(fmt.encode_entry(directory, name, child))


def _symlink_then_child(stream: Stream) -> None:
    stream.objects.append(record(9, stat.S_IFLNK | 0o777, target=b"/tmp"))
    _entry(stream, 1, b"link", 9)
    _entry(stream, 9, b"child", 2)


def _circle(stream: Stream) -> None:
    stream.directory(8, 9, b"a")
    stream.directory(9, 8, b"b")


def _final(**values: object) -> Callable[[Stream], None]:
    def change(stream: Stream) -> None:
        stream.files[0].final = stream.files[0].final._replace(**values)  # type: ignore[arg-type]

    return change


def _wrong_bytes(stream: Stream) -> None:
    stream.files[0].parts = [(0, b"CONTENT")]


def _beyond_its_size(stream: Stream) -> None:
    stream.files[0].parts = [(1 << 40, b"content")]


def _no_directory(stream: Stream) -> None:
    stream.objects = [one for one in stream.objects if one.number != 3]


HOSTILE: dict[str, Callable[[Stream], None]] = {
    "the name ..": lambda stream: _entry(stream, 1, b"..", 2),
    "the name .": lambda stream: _entry(stream, 1, b".", 2),
    "an empty name": lambda stream: _entry(stream, 1, b"", 2),
    "an absolute name": lambda stream: _entry(stream, 1, b"/etc/cron.d/x", 2),
    "a name with a slash": lambda stream: _entry(stream, 1, b"../../x", 2),
    "a name of 256 bytes": lambda stream: _entry(stream, 1, b"n" * 256, 2),
    "a child of a symlink": _symlink_then_child,
    "a child of a file": lambda stream: _entry(stream, 2, b"child", 4),
    "a child of nothing": lambda stream: _entry(stream, 77, b"child", 4),
    "a name of nothing": lambda stream: _entry(stream, 1, b"ghost", 77),
    "a name twice": lambda stream: _entry(stream, 1, b"file", 4),
    "directories in a circle": _circle,
    "a directory in itself": lambda stream: stream.directory(9, 9, b"self"),
    "a directory with two names": lambda stream: _entry(stream, 1, b"again", 5),
    "a name for the root": lambda stream: _entry(stream, 3, b"root", 1),
    "an object without a name": lambda stream: stream.objects.append(record(9, stat.S_IFIFO | 0o600)),
    "a missing directory": _no_directory,
    "a tombstone": lambda stream: stream.objects.append(record(9, 0)),
    "a type that does not exist": lambda stream: stream.objects.append(record(9, 0o030644)),
    "content with another hash": _wrong_bytes,
    "data beyond the size": _beyond_its_size,
    "a size beyond any file": _final(size=1 << 63),
    "a small file that claims to be large": _final(size=1 << 36),
    "content of a directory": _final(mode=stat.S_IFDIR | 0o755),
    "content that is pending": _final(state=fmt.STATE_PENDING),
    "another volume": lambda stream: setattr(stream, "volume", "other"),
    "an incremental dump": lambda stream: setattr(stream, "level", 1),
    "no root": lambda stream: setattr(stream, "objects", stream.objects[1:]),
}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Path]:
    """Three levels down, so that a step or two up would be seen."""
    base = tmp_path / "one/two/three"
    base.mkdir(parents=True)
    before = _listing(tmp_path)
    yield base
    assert {path for path in _listing(tmp_path) if ".voltool" not in path} == before


def _listing(root: Path) -> set[str]:
    return {os.path.join(path, name) for path, names, files in os.walk(root) for name in [*names, *files]}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_and_nothing_is_written_outside(sandbox: Path, name: str) -> None:
    stream = good()
    HOSTILE[name](stream)
    with pytest.raises(VoltoolError) as refused:
        apply(stream, sandbox / "target")
    assert refused.value.exit_code == EXIT_INTEGRITY
    assert not os.path.lexists("/etc/cron.d/x")


def test_another_state_than_the_one_asked_for_is_refused(sandbox: Path) -> None:
    stream = good()
    other = good()
    other.file(9, 1, b"more", b"x")
    with pytest.raises(VoltoolError) as refused:
        apply(stream, sandbox / "target", encode=other.encode)
    assert refused.value.exit_code == EXIT_INTEGRITY


def test_a_wrong_state_id_in_the_trailer_is_refused(sandbox: Path) -> None:
    stream = good()
    with pytest.raises(VoltoolError, match="state id"):
        apply(stream, sandbox / "target", encode=lambda _after: stream.encode(state_id="ab" * 32))


def test_a_decompression_bomb_is_refused(sandbox: Path) -> None:
    """A frame that claims little and unpacks to much, and one that claims more than any frame may."""
    stream = good()
    packed = codecs.compress(bytes(6 << 20), codecs.default_codec())

    class Bomb(Stream):
        def _content(self, writer: DumpWriter, files: list[File]) -> None:
            frame = pack_frame(fmt.DATA, b"x" * 100, 1, fmt.CODEC_NONE, 2)
            writer.frame(frame._replace(codec=packed[0], payload=packed[1], raw=100))
            writer.content([fmt.encode_object(file.final) for file in files])

    bomb = Bomb(stream.objects, stream.entries, stream.files)
    with pytest.raises(VoltoolError) as refused:
        apply(bomb, sandbox / "target")
    assert refused.value.exit_code == EXIT_INTEGRITY


def test_a_hard_link_cannot_leave_the_tree(sandbox: Path) -> None:
    """Links go by object number, so there is no path to point elsewhere; a symlink of that name is not followed."""
    secret = sandbox.parent / "secret"
    secret.write_bytes(b"secret")
    stream = good()
    stream.objects.append(record(9, stat.S_IFLNK | 0o777, target=os.fsencode(secret)))
    _entry(stream, 1, b"a", 9)
    _entry(stream, 3, b"b", 9)
    apply(stream, sandbox / "target")
    assert (sandbox / "target/a").is_symlink()
    assert (sandbox / "target/directory/b").lstat().st_nlink == 2
    assert secret.stat().st_nlink == 1
    secret.unlink()
    for path in sorted((sandbox / "target").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (sandbox / "target").rmdir()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_byte_or_any_cut_is_refused(place: Path, data: st.DataObject) -> None:
    stream = good()
    whole = stream.encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        spoilt = whole[:at]
    else:
        spoilt = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(VoltoolError) as refused:
        apply(stream, place / "target", encode=lambda _after: spoilt, workers=0)
    assert refused.value.exit_code == EXIT_INTEGRITY
    assert not (place / "target").exists()
