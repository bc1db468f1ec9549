"""A lazy replica with a real mount: what a reader sees while it fills, when it is full, and when somebody fails meanwhile."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import judge, torture
from tests.browse.mounting import needs_fuse
from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.lazy.rig import LazyRig, lazy_replica
from tests.writer import wait_until

pytestmark = needs_fuse
MIB = 1 << 20


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def ground(request: pytest.FixtureRequest) -> Iterator[Path]:
    with LoopFilesystem(request.param, 1 << 30) as filesystem:
        yield filesystem.path


@pytest.fixture(scope="module")
def plain() -> Iterator[Path]:
    """Where the kind of file system does not matter."""
    with LoopFilesystem("ext4", 512 << 20) as filesystem:
        yield filesystem.path


def build_simple(root: Path, *, files: int = 300, seed: int = 1) -> None:
    """Small files in directories, two larger ones, one of them with two names and a hole."""
    source = random.Random(seed)
    root.mkdir(exist_ok=True)
    for number in range(files):
        directory = root / f"d{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(source.randbytes(source.randrange(6000)))
    (root / "large").write_bytes(source.randbytes(5 * MIB + 12345))
    with open(root / "sparse", "wb") as file:
        file.write(source.randbytes(MIB + 5))
        file.seek(7 * MIB)
        file.write(source.randbytes(2 * MIB))
    os.link(root / "sparse", root / "d1" / "another name")


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


#: A reader in a process of its own: walks in an order of its own, and says what every file's bytes hash to.
_READER = """
import hashlib, os, random, sys
root, seed = sys.argv[1], int(sys.argv[2])
paths = [os.path.join(at, name) for at, _below, names in os.walk(root) for name in names]
random.Random(seed).shuffle(paths)
for path in paths:
    with open(path, "rb") as file:
        print(hashlib.sha256(file.read()).hexdigest(), os.path.relpath(path, root))
"""


def start_reader(root: Path, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _READER, str(root), str(seed)], stdout=subprocess.PIPE, text=True)


def what_it_read(reader: subprocess.Popen[str]) -> dict[str, str]:
    output, _errors = reader.communicate(timeout=120)
    assert reader.returncode == 0
    return {name: digest for digest, name in (line.split(" ", 1) for line in output.splitlines())}


def test_every_attribute_is_right_at_once_and_when_it_is_full(ground: Path) -> None:
    """Of everything a file system can hold; judged by rsync and a comparer of its own, through the mount and afterwards."""
    where = ground / "attributes"
    where.mkdir()
    volume = where / "volume"
    volume.mkdir()
    torture.build(volume)
    try:
        with Rig(where / "rig", volume) as rig, lazy_replica(rig, where / "lazy") as replica:
            replica.set_fault("slow", 0.05)
            replica.start()
            assert replica.is_mounted()
            # Holes are known to the chunk before all is here; project ids and some flags only the file system's own tools see.
            assert judge.compare(volume, replica.point, ignore=["holes", "project", "flags:Fmx", "rsync"]) == []
            replica.clear_fault("slow")
            assert replica.await_end() == 0
            assert not replica.is_mounted()
            assert judge.compare(volume, replica.point, ignore=["holes"]) == []
            torture.unseal(replica.point)
    finally:
        torture.unseal(volume)


@pytest.fixture
def rig(plain: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    where = plain / f"{abs(hash(request.node.name)):x}"
    where.mkdir()
    build_simple(where / "volume")
    with Rig(where / "rig", where / "volume") as made:
        yield made


@pytest.fixture
def replica(rig: Rig) -> Iterator[LazyRig]:
    with lazy_replica(rig, rig.directory.parent / "lazy") as made:
        yield made


@pytest.mark.parametrize("seed", range(2))
def test_readers_see_the_right_bytes_while_it_fills_and_everybody_is_killed(replica: LazyRig, seed: int) -> None:
    """The service is killed and started again, fillers and the process of the mount alone, the source is cut off and comes back;
    then three processes walk and read while it fills. In the end everything is there."""
    source = random.Random(seed)
    expected = digests(replica.source)
    replica.start(bandwidth=1_000_000)
    for _round in range(4):
        time.sleep(source.uniform(0.05, 0.3))
        victim = source.choice(["service", "child", "source"])
        if victim == "service":
            replica.kill()
            with pytest.raises(OSError, match="onnect"):  # never an empty directory in its place
                os.listdir(replica.point)
            replica.start(bandwidth=1_000_000)
        elif victim == "child":
            children = Path(f"/proc/{replica.pid}/task/{replica.pid}/children").read_text().split()
            _kill_and_wait(int(source.choice(children)))
        else:
            replica.set_fault("gone", 0.05)
            time.sleep(0.2)
            replica.clear_fault("gone")
        name = source.choice(sorted(expected))
        wait_until(lambda: _lists(replica.point))
        assert hashlib.sha256((replica.point / name).read_bytes()).hexdigest() == expected[name]
    replica.stop()
    replica.start(bandwidth=20_000_000)
    readers = [start_reader(replica.point, number) for number in range(3)]
    for reader in readers:
        assert what_it_read(reader) == expected
    assert replica.await_end() == 0
    assert judge.compare(replica.source, replica.point, ignore=["holes"]) == []
    assert digests(replica.point) == expected


def _kill_and_wait(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([descriptor], [], [], 30)[0]
    os.close(descriptor)


def _lists(path: Path) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False


def test_what_several_want_at_once_is_fetched_once(replica: LazyRig) -> None:
    replica.start()
    readers = [start_reader(replica.point, number) for number in range(3)]
    for reader in readers:
        what_it_read(reader)
    assert replica.await_end() == 0
    fetched = replica.fetched()
    assert len(fetched) == len(set(fetched))
    assert len(fetched) == len([size for size in _sizes(replica.source) if size and size <= MIB]) + 6 + 4


def _sizes(root: Path) -> list[int]:
    return [path.stat().st_size for path in root.rglob("*") if path.is_file()]


def test_a_read_comes_before_the_fill_and_what_was_read_is_kept(replica: LazyRig) -> None:
    replica.start(bandwidth=20_000)
    data = (replica.point / "large").read_bytes()
    assert data == (replica.source / "large").read_bytes()
    replica.stop()
    replica.set_fault("gone", 0)
    replica.start()
    assert (replica.point / "large").read_bytes() == data
    wait_until(lambda: replica.status().missing_files > 0)


def test_wrong_bytes_are_an_error_that_is_named_and_never_shown(replica: LazyRig) -> None:
    replica.set_fault("wrong")
    replica.start(fillers=1)
    wait_until(lambda: "no host has the right bytes" in replica.told())
    for name in ("d3/f3", "large"):
        with pytest.raises(OSError, match="Input/output error"):
            (replica.point / name).read_bytes()
    assert "large cannot be read: no host has the right bytes" in replica.told()
    with open(replica.point / "sparse", "rb") as file:
        file.seek(3 * MIB)
        assert file.read(MIB) == bytes(MIB)  # of what is zero nothing has to be fetched
    replica.clear_fault("wrong")
    assert (replica.point / "large").read_bytes() == (replica.source / "large").read_bytes()
    assert replica.await_end() == 0
    assert digests(replica.point) == digests(replica.source)


def test_nobody_there_is_an_error_after_a_while_and_what_is_here_goes_on(replica: LazyRig) -> None:
    replica.set_fault("slow", 0.05)
    replica.start(bandwidth=100_000)
    here = (replica.point / "d1" / "f1").read_bytes()
    replica.set_fault("gone", 0.3)
    began = time.monotonic()
    with pytest.raises(OSError, match="Input/output error"):
        (replica.point / "large").read_bytes()
    assert time.monotonic() - began >= 0.3
    assert (replica.point / "d1" / "f1").read_bytes() == here
    assert "large cannot be read: nobody is there" in replica.told()
    assert len(os.listdir(replica.point / "d1")) == 31
    replica.set_fault("hang", 60)
    replica.clear_fault("gone")
    with start_reader(replica.point, 1) as reader:
        time.sleep(0.3)
        reader.kill()
        reader.wait(10)  # who waits can be killed


def test_open_files_and_working_directories_go_on_when_it_is_full(replica: LazyRig) -> None:
    expected = (replica.source / "d7" / "f7").read_bytes()
    replica.set_fault("slow", 0.2)
    replica.start()
    inside = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.readline(); print(open('f17', 'rb').read().hex())"],
        cwd=replica.point / "d7", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with open(replica.point / "d7" / "f7", "rb") as small, open(replica.point / "large", "rb") as large:
        replica.clear_fault("slow")
        wait_until(lambda: not replica.is_mounted())
        assert small.read() == expected
        assert large.read() == (replica.source / "large").read_bytes()
        assert (replica.point / "d7" / "f7").stat().st_dev == replica.place.stat().st_dev
    output, _errors = inside.communicate("go\n")
    assert output.strip() == (replica.source / "d7" / "f17").read_bytes().hex()
    assert replica.await_end() == 0  # when nobody uses the mount any more


@pytest.mark.parametrize("seed", range(2))
def test_any_reads_give_the_bytes_of_the_source(replica: LazyRig, seed: int) -> None:
    """In the manner of fsx: reads, mapped reads, seeks for data and holes, readahead, anywhere, of files that come meanwhile."""
    source = random.Random(seed)
    replica.set_fault("slow", 0.005)
    replica.start(bandwidth=3_000_000)
    for _number in range(60):
        name = source.choice(["large", "sparse", "d1/another name", "d3/f13"])
        original = os.open(replica.source / name, os.O_RDONLY)
        shown = os.open(replica.point / name, os.O_RDONLY)
        try:
            _look_alike(source, original, shown)
        finally:
            os.close(original)
            os.close(shown)


def _look_alike(source: random.Random, original: int, shown: int) -> None:
    size = os.fstat(original).st_size
    assert os.fstat(shown).st_size == size
    at = source.randrange(size)
    length = source.choice([1, 4096, 70_000, 3 * MIB])
    way = source.choice(["read", "map", "seek", "ahead"])
    if way == "seek":
        data = os.lseek(shown, at, os.SEEK_HOLE)
        assert os.pread(shown, data - at, at) == os.pread(original, data - at, at)
        return
    if way == "ahead":
        os.posix_fadvise(shown, at, length, os.POSIX_FADV_WILLNEED)
    if way == "map":
        with mmap.mmap(shown, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[at : at + length] == os.pread(original, length, at)
        return
    assert os.pread(shown, length, at) == os.pread(original, length, at)


def test_a_full_disk_stops_the_fill_and_not_the_readers(rig: Rig) -> None:
    """What does not fit is fetched each time; when there is room it is filled."""
    with LoopFilesystem("ext4", 24 << 20) as small, lazy_replica(rig, small.path / "lazy") as replica:
        ballast = small.path / "ballast"
        room = os.statvfs(small.path)
        ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 3 * MIB)))
        replica.start()
        wait_until(lambda: replica.status().full)
        assert digests(replica.point) == digests(replica.source)
        ballast.unlink()
        assert replica.await_end() == 0
        assert digests(replica.point) == digests(replica.source)
