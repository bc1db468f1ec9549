"""The directory store where it hurts: kill -9, full disks, races, foreign files."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.stores.conformance import DATA, get, put
from voltool import durable
from voltool.errors import NotFoundError, RefusedError, SpaceError, UsageError, VoltoolError
from voltool.stores.contract import StoreWriter
from voltool.stores.local import LocalStore
from voltool.stores.opening import StoreOpener, normalize_url

WRITER = """
import sys
from voltool.stores.local import LocalStore
store = LocalStore(sys.argv[1])
writer = store.create("vol/a.voltool")
writer.write(b"x" * 100000)
if sys.argv[2] == "pin":
    held = store.pin("vol/there.voltool", "test")
    held.__enter__()
if sys.argv[2] == "publish":
    import os, signal
    os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    writer.publish()
print("ready", flush=True)
sys.stdin.read()
"""


def start_writer(root: Path, mode: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(root), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def write_64_mib(writer: StoreWriter) -> None:
    for _ in range(64):
        writer.write(os.urandom(1 << 20))


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_killed_writer_leaves_nothing_under_the_name_and_is_swept(tmp_path: Path) -> None:
    kill(start_writer(tmp_path, "write"))
    store = LocalStore(str(tmp_path))
    assert list(store.list()) == []
    (left,) = names(tmp_path)
    assert store.sweep() == (left,)
    assert names(tmp_path) == []


def test_a_writer_killed_in_publish_has_published_nothing(tmp_path: Path) -> None:
    process = start_writer(tmp_path, "publish")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    store = LocalStore(str(tmp_path))
    assert list(store.list()) == []
    assert len(store.sweep()) == 1


def test_the_pins_of_the_dead_do_not_hold(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    put(store, "vol/there.voltool")
    process = start_writer(tmp_path, "pin")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert store.is_pinned("vol/there.voltool")
    assert store.sweep() == ()
    assert store.is_pinned("vol/there.voltool")
    process.kill()
    process.communicate()
    assert not store.is_pinned("vol/there.voltool")
    store.sweep()
    assert names(tmp_path) == ["vol/there.voltool"]


def test_sweeping_while_others_begin_and_publish(tmp_path: Path) -> None:
    """A sweep that meets a file between its creation and its lock must cost nobody a dump."""
    store = LocalStore(str(tmp_path))
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            store.sweep()

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for number in range(150):
            put(store, f"vol/{number}.voltool", b"x")
    finally:
        stop.set()
        for sweeper in sweepers:
            sweeper.join()
    assert len(list(store.list())) == 150


def test_dumps_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "store"))
    put(store, "vol/a.voltool")
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store/vol/a.voltool").stat().st_mode & 0o777 == 0o600


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    put(store, "vol/a.voltool")
    (tmp_path / "vol/link").symlink_to("a.voltool")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/b.voltool").write_bytes(b"")
    os.mkfifo(tmp_path / "vol/fifo")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"")
    (tmp_path / ".hidden/link").symlink_to("b.voltool")
    assert [os.fsencode(file.name) for file in store.list()] == [b"vol/a.voltool", b"\xff"]
    assert list(store.oddities()) == ["vol/fifo", "vol/link"]


def test_without_renameat2_publishing_still_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EINVAL, "no such flag")

    monkeypatch.setattr(durable, "rename_with_flags", refuse)
    store = LocalStore(str(tmp_path))
    first, second = store.create("vol/a.voltool"), store.create("vol/a.voltool")
    first.write(DATA)
    first.publish()
    with pytest.raises(RefusedError):
        second.publish()
    second.abandon()
    assert get(store, "vol/a.voltool") == DATA
    assert names(tmp_path) == ["vol/a.voltool"]


def test_a_full_disk_ends_cleanly(make_filesystem: Callable[..., LoopFilesystem]) -> None:
    filesystem = make_filesystem("ext4", 24 << 20)
    store = LocalStore(str(filesystem.path / "store"))
    writer = store.create("vol/a.voltool")
    with pytest.raises(SpaceError) as caught:
        write_64_mib(writer)
    assert "full" in caught.value.what or "room" in caught.value.what
    writer.abandon()
    assert list(store.list()) == []
    assert names(filesystem.path / "store") == []
    put(store, "vol/small.voltool")


def test_min_free_stops_a_dump_before_the_disk_is_full(make_filesystem: Callable[..., LoopFilesystem]) -> None:
    filesystem = make_filesystem("ext4", 64 << 20)
    store = StoreOpener(50.0).open(str(filesystem.path / "store"))
    writer = store.create("vol/a.voltool")
    with pytest.raises(SpaceError, match=r"room"):
        write_64_mib(writer)
    space = store.space()
    assert space is not None
    assert space.free > space.total * 0.3
    writer.abandon()


def test_a_read_only_store_says_so(make_filesystem: Callable[..., LoopFilesystem]) -> None:
    filesystem = make_filesystem("ext4", 24 << 20)
    store = LocalStore(str(filesystem.path))
    put(store, "vol/a.voltool")
    filesystem.remount("ro")
    with pytest.raises(VoltoolError) as caught:
        store.create("vol/b.voltool")
    assert "Read-only" in caught.value.why
    assert caught.value.remedy
    assert get(store, "vol/a.voltool") == DATA


def test_a_store_that_is_not_there_yet_knows_its_space(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "not/yet"))
    assert store.space() is not None
    assert list(store.list()) == []
    with pytest.raises(NotFoundError):
        store.open("vol/a.voltool")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("url", ["ftp://host/x", "http://x", "file://host/x", ""])
def test_kinds_of_stores_that_there_are_not(url: str) -> None:
    with pytest.raises(UsageError, match="not a store"):
        StoreOpener(5.0).open(url)


def test_one_spelling_for_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("a b", "./a b/", f"{tmp_path}/a b", f"file://{tmp_path}/a%20b"):
        assert normalize_url(url) == f"file://{tmp_path}/a%20b"
        store = StoreOpener(5.0).open(url)
        assert (store.url, store.path_on_this_host()) == (normalize_url(url), os.fsencode(tmp_path / "a b"))
