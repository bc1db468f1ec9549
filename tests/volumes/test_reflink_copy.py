"""One object of a reflink clone, on real XFS and btrfs; and the index that says what it was."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.volume import _read
from voltool.spool import SortedSpool
from voltool.volumes import reflink_copy as copy
from voltool.volumes import reflink_index as index

Make = Callable[..., LoopFilesystem]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_clone_of_a_file_is_all_of_it(make_filesystem: Make, kind: str) -> None:
    root = make_filesystem(kind).path
    assert copy.reflinks_work(bytes(root), bytes(root))
    (root / "live").mkdir()
    (root / "new").mkdir()
    file = root / "live/file"
    file.write_bytes(os.urandom(100_000))
    os.chown(file, 1234, 4321)
    os.setxattr(file, "user.key", b"value")
    os.setxattr(file, "trusted.key", b"value")
    subprocess.run(["setfacl", "-d", "-m", "u:77:rwx", root / "new"], check=True)
    file.chmod(0o6751)
    os.utime(file, ns=(1, 12345))
    subprocess.run(["chattr", "+i", file], check=True)
    time.sleep(0.05)
    live, new = (os.open(root / name, os.O_RDONLY) for name in ("live", "new"))
    made = copy.make_file(live, new, "file")
    status = file.lstat()
    clone = root / "new/file"
    assert _read(bytes(clone), clone.lstat(), []) == _read(bytes(file), status, [])
    assert made == (clone.stat().st_ino, index.pack_source(status), True)
    copy.link(new, "file", new, "again")
    assert clone.stat().st_nlink == 2
    with file.open("rb"):
        subprocess.run(["chattr", "-i", file], check=True)
    time.sleep(0.05)
    with file.open("r+b"):
        os.mkdir("inner", dir_fd=new)
        inner = os.open("inner", os.O_RDONLY, dir_fd=new)
        assert not copy.make_file(live, inner, "file").settled, "somebody could write to it"
        os.close(inner)
    subprocess.run(["chattr", "-i", clone], check=True)
    os.close(live)
    os.close(new)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_is_preallocated_is_a_hole_in_the_clone_too(make_filesystem: Make, kind: str) -> None:
    root = make_filesystem(kind).path
    (root / "new").mkdir()
    with (root / "file").open("wb") as file:
        file.write(os.urandom(500_000))
        file.flush()
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    live, new = (os.open(path, os.O_RDONLY) for path in (root, root / "new"))
    copy.make_file(live, new, "file")
    for directory in (live, new):
        descriptor = os.open("file", os.O_RDONLY, dir_fd=directory)
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == 503_808
        assert os.fstat(descriptor).st_size == 1 << 20
        os.close(descriptor)
        os.close(directory)


def test_reflinks_do_not_work_everywhere(make_filesystem: Make) -> None:
    for filesystem in (make_filesystem("ext4"), make_filesystem("xfs", mkfs_options=["-m", "reflink=0"])):
        assert not copy.reflinks_work(bytes(filesystem.path), bytes(filesystem.path))


def test_the_index_knows_what_an_inode_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "other").write_bytes(b"y")
    was, status = (tmp_path / "file").stat(), (tmp_path / "other").stat()
    spool = SortedSpool(bytes(tmp_path))
    index.add_record(spool, status.st_ino, index.pack_source(was), index.SETTLED)
    index.add_record(spool, 5, index.pack_source(was), index.SETTLED)
    index.add_record(spool, 5, index.pack_source(status), index.SETTLED)
    index.write_index(bytes(tmp_path / "index"), spool, {6}, {"skipped": ["mnt"]})
    found = index.CloneIndex(bytes(tmp_path / "index"))
    seen = found.status(status)
    assert stat.S_ISREG(seen.st_mode)
    assert index.pack_source(seen) == index.pack_source(was)
    assert found.is_kept(status.st_ino, index.pack_source(was))
    assert not found.is_kept(status.st_ino, index.pack_source(status))
    assert not found.is_kept(5, index.pack_source(was)), "two sources cannot both be right"
    assert not found.settled(was.st_ino), "one of its clones was not at rest"
    assert found.settled(12345)
    assert found.skipped == (b"mnt",)
    with pytest.raises(OSError, match="not in the clone"):
        found.status(tmp_path.stat())
