"""Apply makes what the stream says, on real file systems; the judge does not know our code."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import judge, torture
from tests.filesystems import LoopFilesystem
from tests.tree.apply_run import Recorder, apply
from tests.tree.apply_streams import Stream, record, stream_of
from voltool.dumpfile import format as fmt
from voltool.errors import BusyError, IntegrityError, NotFoundError, RefusedError
from voltool.model import Problem
from voltool.tree.apply.staging import StagingKey, open_staging

KINDS = ("ext4", "xfs", "btrfs")


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    torture.build(tmp_path / "torture")
    yield tmp_path / "torture"
    torture.destroy(tmp_path / "torture")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_torture_tree_comes_back_on_its_own_file_system(kind: str, workers: int) -> None:
    with LoopFilesystem(kind) as filesystem:
        source, target = filesystem.path / "source", filesystem.path / "target"
        torture.build(source)
        recorder = Recorder()
        try:
            applied = apply(stream_of(source), target, workers=workers, reporter=recorder)
            assert judge.compare(source, target) == []
            assert applied.problems == ()
            assert recorder.notices == []
            assert not (filesystem.path / ".voltool").exists()
        finally:
            torture.destroy(source)
            torture.destroy(target)


#: What the other file system does not know, for the judge; each of them must have been told to the user.
FOREIGN = {
    "xfs": (["flags:DTcP", "xattrs:btrfs."], {b"types/large-numbers", b"types/longest"}),
    "btrfs": (["flags:DTxPc", "xattrs:btrfs.", "project"], set()),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_file_system_gets_what_it_can_hold_and_the_rest_is_told(tree: Path, kind: str) -> None:
    ignore, missing = FOREIGN[kind]
    with LoopFilesystem(kind) as filesystem:
        target = filesystem.path / "target"
        recorder = Recorder()
        applied = apply(stream_of(tree), target, reporter=recorder)
        try:
            found = judge.compare(tree, target, ignore=[*ignore, "rsync"])
            assert {line for line in found if not line.startswith("only in the first")} == set()
            assert {problem.path for problem in applied.problems} == missing
            assert all("chattr" in notice or "btrfs" in notice for notice in recorder.notices)
            assert recorder.notices
        finally:
            torture.destroy(target)


def small_stream() -> Stream:
    stream = Stream()
    stream.directory(1)
    stream.file(2, 1, b"file", b"content")
    stream.directory(3, 1, b"directory")
    stream.file(4, 3, b"inside", b"more")
    return stream


def test_it_does_not_depend_on_the_umask_or_on_what_the_place_hands_down(tmp_path: Path) -> None:
    """A setgid parent with a default ACL and inode flags that its children inherit."""
    parent = tmp_path / "parent"
    parent.mkdir()
    os.chown(parent, -1, 4242)
    parent.chmod(0o2777)
    default = torture.acl((1, 7, 0), (2, 7, 1001), (4, 7, 0), (16, 7, 0), (32, 7, 0))
    os.setxattr(parent, b"system.posix_acl_default", default)
    descriptor = os.open(parent, os.O_RDONLY)
    torture.set_flags(descriptor, torture.get_flags(descriptor) | torture.FILE_FLAGS["d"])
    os.close(descriptor)
    old = os.umask(0o077)
    try:
        apply(small_stream(), parent / "target")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
    for name, mode in ((".", 0o755), ("file", 0o644), ("directory", 0o755), ("directory/inside", 0o644)):
        path = parent / "target" / name
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, 0), name
        assert os.listxattr(path) == []
        descriptor = os.open(path, os.O_RDONLY)
        assert not torture.get_flags(descriptor) & torture.FILE_FLAGS["d"]
        os.close(descriptor)


def test_a_large_file_is_streamed_and_checked(tmp_path: Path) -> None:
    """Larger than one batch; what OBJECTS said of its size was wrong, and the middle is a hole."""
    data = os.urandom(23 * fmt.CHUNK_SIZE + 77)
    stream = Stream()
    stream.directory(1)
    stream.file(2, 1, b"before", b"small")
    stream.file(3, 1, b"large", data)
    stream.file(4, 1, b"after", b"small too")
    stream.objects[2] = stream.objects[2]._replace(size=5 * fmt.CHUNK_SIZE)
    applied = apply(stream, tmp_path / "target")
    assert (tmp_path / "target/large").read_bytes() == data
    assert applied.bytes == len(data) + len(b"smallsmall too")


def test_a_large_file_with_one_wrong_byte_is_refused(tmp_path: Path) -> None:
    for size in (2, 20):  # in one batch, and streamed
        stream = small_stream()
        data = bytearray(os.urandom(size * fmt.CHUNK_SIZE))
        stream.file(9, 1, b"large", bytes(data))
        content = stream.files[-1].final.content
        data[fmt.CHUNK_SIZE + 5] ^= 1
        stream.files[-1].parts = [(0, bytes(data))]
        assert stream.files[-1].final.content == content
        with pytest.raises(IntegrityError):
            apply(stream, tmp_path / f"target{size}")
        assert not (tmp_path / f"target{size}").exists()


def test_owners_go_by_name_where_it_is_known_here(tmp_path: Path) -> None:
    stream = small_stream()
    stream.owners = [fmt.encode_owner(b"u", 7777, b"daemon"), fmt.encode_owner(b"g", 8888, b"nobody-knows-this-one")]
    access = torture.acl((1, 6, 0), (2, 6, 7777), (4, 4, 0), (16, 6, 0), (32, 4, 0))
    xattrs = fmt.encode_xattrs([(b"system.posix_acl_access", access)])
    stream.files[0].final = stream.files[0].final._replace(uid=7777, gid=8888, xattrs=xattrs, mode=stat.S_IFREG | 0o664)
    apply(stream, tmp_path / "names")
    apply(stream, tmp_path / "numbers", numeric_owner=True)
    named, numbered = tmp_path / "names/file", tmp_path / "numbers/file"
    assert (named.stat().st_uid, named.stat().st_gid) == (1, 8888)
    assert (numbered.stat().st_uid, numbered.stat().st_gid) == (7777, 8888)
    assert os.getxattr(numbered, b"system.posix_acl_access") == access
    assert os.getxattr(named, b"system.posix_acl_access") == access.replace((7777).to_bytes(4, "little"), b"\1\0\0\0")


def test_what_could_not_be_read_is_omitted_or_old_and_named(tmp_path: Path) -> None:
    stream = small_stream()
    for number, state, data in (
        (10, fmt.STATE_UNKNOWN, b""),
        (11, fmt.STATE_UNKNOWN, b"last good"),
        (12, fmt.STATE_UNSETTLED, b"half"),
    ):
        stream.file(number, 1, b"%d" % number, data, state=state)
    applied = apply(stream, tmp_path / "target")
    assert not (tmp_path / "target/10").exists()
    assert (tmp_path / "target/11").read_bytes() == b"last good"
    assert [(problem.problem, problem.path) for problem in applied.problems] == [
        (Problem.UNREADABLE, b"10"),
        (Problem.UNREADABLE, b"11"),
        (Problem.UNSTABLE, b"12"),
    ]


# ----------------------------------------------------------------------------------------------------- where it goes


def test_a_target_with_content_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/precious").write_bytes(b"data")
    with pytest.raises(RefusedError, match="precious"):
        apply(small_stream(), tmp_path / "target")
    (tmp_path / "file").write_bytes(b"data")
    os.symlink("target", tmp_path / "link")
    for name in ("file", "link"):
        with pytest.raises(RefusedError, match="not a directory"):
            apply(small_stream(), tmp_path / name)
    with pytest.raises(NotFoundError):
        apply(small_stream(), tmp_path / "missing/target")
    assert sorted(os.listdir(tmp_path)) == ["file", "home", "link", "target"]


def test_an_empty_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    apply(small_stream(), tmp_path / "target")
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o755
    assert sorted(os.listdir(tmp_path / "target")) == ["directory", "file"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mount_point_is_filled_from_inside(tree: Path, kind: str) -> None:
    """With its lost+found, a sealed file at the top, and the root's own attributes."""
    (tree / "lost+found").mkdir(exist_ok=True)
    (tree / "top-sealed").write_bytes(b"sealed")
    os.utime(tree, ns=(5, 5))
    descriptor = os.open(tree / "top-sealed", os.O_RDONLY)
    torture.set_flags(descriptor, torture.get_flags(descriptor) | torture.IMMUTABLE)
    os.close(descriptor)
    with LoopFilesystem(kind) as filesystem:
        os.setxattr(filesystem.path, b"user.before", b"x")
        apply(stream_of(tree), filesystem.path)
        try:
            ignore = ["rsync", "xattrs:btrfs.", "flags:DTcPx", "project"]
            found = judge.compare(tree, filesystem.path, ignore=ignore, skip=())
            assert [line for line in found if "types/l" not in line] == []
        finally:
            torture.unseal(filesystem.path)


def test_into_an_existing_directory_where_nothing_collides(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "directory").mkdir(parents=True)
    (target / "directory/mine").write_bytes(b"mine")
    (target / "other").write_bytes(b"other")
    mode = target.stat().st_mode
    stream = small_stream()
    apply(stream, target, selection="digest", into_existing=True)
    assert sorted(os.listdir(target)) == ["directory", "file", "other"]
    assert sorted(os.listdir(target / "directory")) == ["inside", "mine"]
    assert target.stat().st_mode == mode
    with pytest.raises(RefusedError, match="already") as refused:
        apply(stream, target, selection="digest", into_existing=True)
    assert "file" in refused.value.where or "inside" in refused.value.where
    assert (target / "directory/mine").read_bytes() == b"mine"


def test_a_collision_deep_down_moves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "directory").mkdir(parents=True)
    os.symlink("/etc", target / "directory/inside")
    with pytest.raises(RefusedError, match="already"):
        apply(small_stream(), target, selection="digest", into_existing=True)
    assert os.listdir(target) == ["directory"]


def test_an_area_that_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(outside, tmp_path / ".voltool")
    with pytest.raises(RefusedError, match="not ours"):
        apply(small_stream(), tmp_path / "target")
    (tmp_path / ".voltool").unlink()
    (tmp_path / ".voltool").mkdir()
    os.chown(tmp_path / ".voltool", 1000, 1000)
    with pytest.raises(RefusedError, match="not ours"):
        apply(small_stream(), tmp_path / "target")
    assert os.listdir(outside) == []


def test_the_same_restore_twice_at_once_is_busy(tmp_path: Path) -> None:
    key = StagingKey(os.fsencode(tmp_path / "target"), "volume", "state", "")
    first = open_staging(key, into_existing=False)
    try:
        with pytest.raises(BusyError):
            open_staging(key, into_existing=False)
    finally:
        first.remove()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can get to."""
    path = Path(tempfile.mkdtemp(prefix="voltool-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_without_root_what_is_not_allowed_is_told(open_directory: Path) -> None:
    """Owners and devices are lost and named; everything else is there."""
    home = open_directory / "unprivileged"
    home.mkdir()
    os.chown(home, 1234, 1234)
    stream = small_stream()
    stream.objects.append(record(20, stat.S_IFCHR | 0o600, size=os.makedev(1, 3)))
    stream.entries.append(fmt.encode_entry(1, b"null", 20))
    stream.files[0].final = stream.files[0].final._replace(mode=stat.S_IFREG | 0o444)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            recorder = Recorder()
            applied = apply(stream, home / "target", reporter=recorder)
            os.write(write_end, repr(([problem.path for problem in applied.problems], recorder.notices)).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.waitpid(pid, 0)
    with open(read_end, "rb") as pipe:
        problems, notices = ast.literal_eval(pipe.read().decode())
    assert problems == [b"null"]
    assert notices == ["not restored: owner of file and 3 more"]
    assert (home / "target/file").read_bytes() == b"content"
    assert (home / "target/file").stat().st_uid == 1234


def test_a_time_that_the_file_system_cannot_hold_is_told(tmp_path: Path) -> None:
    with LoopFilesystem("ext4", mkfs_options=["-I", "128"]) as filesystem:
        stream = small_stream()
        stream.files[0].final = stream.files[0].final._replace(mtime_s=2**33)
        recorder = Recorder()
        apply(stream, filesystem.path / "target", reporter=recorder)
        assert any("time" in notice and "file" in notice for notice in recorder.notices)
