"""Inode flags, project ids, leases and openat2 against real file systems."""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from voltool import beneath, inodes
from voltool.beneath import open_beneath
from voltool.dumpfile import format as fmt
from voltool.inodes import FlagReader, get_flags, set_flags, set_project
from voltool.leases import lease_test, nobody_writes

Make = Callable[..., LoopFilesystem]


def test_portable_flags_are_those_of_the_dump_format() -> None:
    assert inodes.PORTABLE_FLAGS == fmt.PORTABLE_FLAGS


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_flags_are_what_chattr_set(make_filesystem: Make, kind: str) -> None:
    path = make_filesystem(kind).path / "file"
    path.write_bytes(b"x")
    subprocess.run(["chattr", "+dA", path], check=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flags, project = get_flags(descriptor)
        assert flags == fmt.FLAG_NODUMP | fmt.FLAG_NOATIME
        assert project == 0
        set_flags(descriptor, fmt.FLAG_IMMUTABLE, fmt.FLAG_IMMUTABLE | fmt.FLAG_NODUMP)
        assert get_flags(descriptor)[0] == fmt.FLAG_IMMUTABLE | fmt.FLAG_NOATIME
        with pytest.raises(PermissionError):
            path.write_bytes(b"y")
        set_flags(descriptor, 0, fmt.FLAG_IMMUTABLE)
        path.write_bytes(b"y")
    finally:
        os.close(descriptor)


def test_project_ids(make_filesystem: Make) -> None:
    path = make_filesystem("xfs").path / "file"
    path.write_bytes(b"x")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        set_project(descriptor, 4242)
        assert get_flags(descriptor) == (0, 4242)
        assert FlagReader().read(descriptor, os.fstat(descriptor).st_dev) == (0, 4242)
    finally:
        os.close(descriptor)


def test_a_file_system_without_flags_reads_as_none_and_is_remembered() -> None:
    descriptor = os.open("/proc/self/status", os.O_RDONLY)
    try:
        device = os.fstat(descriptor).st_dev
        reader = FlagReader()
        assert reader.read(descriptor, device) == (0, 0)
        assert device in reader._without_flags
        assert get_flags(descriptor) == (0, 0)
        set_flags(descriptor, 0, fmt.PORTABLE_FLAGS)  # nothing is wanted, so nothing is missing
        with pytest.raises(OSError, match="ioctl"):
            set_flags(descriptor, fmt.FLAG_APPEND, fmt.FLAG_APPEND)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_the_lease_test_finds_descriptors_in_flight(make_filesystem: Make, kind: str) -> None:
    path = make_filesystem(kind).path / "file"
    path.write_bytes(b"x")
    reader = os.open(path, os.O_RDONLY)
    try:
        assert lease_test(reader) is True
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            writer = os.open(path, os.O_WRONLY)
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer]))])
            os.close(writer)
            # no process has it open any more; it is in the socket's queue alone
            assert lease_test(reader) is False
            assert not nobody_writes(reader)
        deadline = time.monotonic() + 10
        while not nobody_writes(reader):  # the kernel collects the queue in its own time
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.close(reader)


def test_an_open_for_writing_during_the_test_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    hammer = "import os,sys\nwhile True: os.close(os.open(sys.argv[1], os.O_WRONLY))"
    test = (
        "import os,sys,time\nfrom voltool.leases import ignore_lease_breaks, lease_test\n"
        "ignore_lease_breaks()\nfd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "end = time.monotonic() + 1.5\nseen = set()\n"
        "while time.monotonic() < end: seen.add(lease_test(fd))\nprint(sorted(map(str, seen)))"
    )
    with subprocess.Popen([sys.executable, "-c", hammer, path]) as writer:
        try:
            done = subprocess.run(
                [sys.executable, "-c", test, path], capture_output=True, text=True, check=False, cwd=Path.cwd()
            )
        finally:
            writer.kill()
    assert done.returncode != -signal.SIGIO
    assert done.stdout.strip() == "['False', 'True']", done.stderr


@pytest.fixture(params=["openat2", "steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "steps":
        monkeypatch.setattr(beneath, "has_openat2", lambda: False)
    elif not beneath.has_openat2():
        pytest.skip("this kernel has no openat2")


@pytest.fixture
def directory(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.mark.usefixtures("way")
def test_links_are_not_followed_anywhere(tmp_path: Path, directory: int) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "real/below/file").write_bytes(b"inside")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/last").symlink_to("below/file")
    descriptor = open_beneath(directory, b"real/below/file", os.O_RDONLY)
    assert os.read(descriptor, 100) == b"inside"
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    for path in (b"link/below/file", b"real/last", b"link"):
        with pytest.raises(OSError, match=r".") as caught:
            open_beneath(directory, path, os.O_RDONLY)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    os.close(open_beneath(directory, b"real/last", os.O_PATH))
    os.close(directory)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("path", [b"", b"/etc", b"..", b".", b"a/../b", b"a//b", b"a/", b"./a"])
def test_paths_that_are_not_plain_are_refused(directory: int, path: bytes) -> None:
    with pytest.raises(OSError, match="plain") as caught:
        open_beneath(directory, path, os.O_RDONLY)
    assert caught.value.errno == errno.EINVAL
    os.close(directory)


@pytest.mark.usefixtures("way")
def test_paths_beyond_path_max(tmp_path: Path, directory: int) -> None:
    current = os.dup(directory)
    name = b"n" * 200
    for _level in range(60):
        os.mkdir(name, dir_fd=current)
        below = os.open(name, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(os.open(b"file", os.O_CREAT, dir_fd=current))
    before = len(os.listdir("/proc/self/fd"))
    path = b"/".join([name] * 60 + [b"file"])
    assert len(path) > 12000
    opened = open_beneath(directory, path, os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert os.fstat(opened).st_ino == os.stat(b"file", dir_fd=current).st_ino
    os.close(opened)
    with pytest.raises(FileNotFoundError):
        open_beneath(directory, path + b"x", os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(current)
    os.close(directory)
