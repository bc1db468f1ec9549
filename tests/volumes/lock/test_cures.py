"""Traps that are traps: with the one cure switched off the lock is granted, and the writer's write lands under it.

That the lock sees them with the cure is in test_traps.py; here is why each part of the search is there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.lock.places import Place, step
from tests.volumes.lock.test_hold import writable
from tests.volumes.lock.test_traps import SHORT, refused
from voltool.volumes.lock import hold, kernel, mounting, processes, search, tables
from voltool.volumes.lock.closing import Closer
from voltool.volumes.lock.hold import exchange_under_lock, is_in_force

Off = tuple[object, str, object]
NO_LEASES: Off = (search, "find_busy", lambda _root, files: ([], len(list(files)) * 0))
NO_TABLES: Off = (processes.ProcessFinder, "_held", lambda _self, _pid: ())
NO_MAPS: Off = (processes.ProcessFinder, "_mapped", lambda _self, _pid: ())
NO_FLIGHT: Off = (search, "find_in_flight", lambda *_words: [])
NO_MOUNTS: Off = (search, "writable_mounts", lambda *_words: [])
NO_THREADS: Off = (tables, "_share", lambda *_words: True)
NO_LOOPS: Off = (kernel, "_loops", lambda _tree: [])
NO_OVERLAYS: Off = (kernel, "find_overlays", lambda *_words: [])
NO_EXPORTS: Off = (kernel, "_exports", lambda _tree: [])

DIRECTORY = "directory = os.open(volume + '/sub', os.O_RDONLY)\n"
WRITE_THERE = "os.close(os.open('late', os.O_CREAT | os.O_WRONLY, dir_fd=directory))"
THREAD = (
    "import threading, ctypes\nopened, go, done = threading.Event(), threading.Event(), threading.Event()\n"
    "def work():\n    ctypes.CDLL(None).unshare(0x400)\n    global directory\n"
    "    directory = os.open(volume + '/sub', os.O_RDONLY)\n    opened.set(); go.wait()\n"
    "    os.close(os.open('late', os.O_CREAT | os.O_WRONLY, dir_fd=directory)); done.set()\n"
    "threading.Thread(target=work, daemon=True).start()\nopened.wait()"
)
MAP = (
    "import ctypes\nlibc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
    "file = os.open(volume + '/file', os.O_RDWR)\n"
    "address = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, file, ctypes.c_long(0))\nos.close(file)"
)
WRITE_MAP = "assert libc.mprotect(ctypes.c_void_p(address), 4096, 3) == 0; ctypes.memset(address, 65, 8)"
SEND = "pair = socket.socketpair()\nsocket.send_fds(pair[0], [b'x'], [held])\nos.close(held)"
RECEIVE = "held = socket.recv_fds(pair[1], 1, 1)[1][0]; "


@dataclass(frozen=True)
class Trap:
    """What the writer does before the lock, how it writes under it, and which cures must be off for that."""

    before: str
    write: str
    off: tuple[Off, ...]
    inside: bool = False
    prefix: tuple[str, ...] = ()


TRAPS = {
    "a directory's descriptor": Trap(DIRECTORY, WRITE_THERE, (NO_TABLES,)),
    "a working directory": Trap("", "open('late', 'w')", (NO_TABLES,), inside=True),
    "a thread's own descriptors": Trap(THREAD, "go.set(); assert done.wait(5)", (NO_THREADS,)),
    "a map made writable": Trap(MAP, WRITE_MAP, (NO_MAPS, NO_LEASES)),
    "a file in flight": Trap(
        "held = os.open(volume + '/file', os.O_WRONLY)\n" + SEND,
        RECEIVE + "os.write(held, b'A' * 8)",
        (NO_FLIGHT, NO_LEASES),
    ),
    "a directory in flight": Trap(
        DIRECTORY + "held = directory\n" + SEND, RECEIVE + "directory = held; " + WRITE_THERE, (NO_FLIGHT,)
    ),
    "another namespace": Trap("", "open(volume + '/sub/late', 'w')", (NO_MOUNTS,), prefix=("unshare", "-m")),
}


@contextlib.contextmanager
def without(*cures: Off) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for target, name, nothing in cures:
            patch.setattr(target, name, nothing)
        yield


def changed(place: Place) -> bool:
    return (place.volume / "sub/late").exists() or (place.volume / "file").read_bytes().startswith(b"A" * 8)


@pytest.mark.parametrize("name", TRAPS)
def test_a_write_lands_under_the_lock_without_the_cure(place: Place, name: str) -> None:
    trap = TRAPS[name]
    child = place.holder(trap.before, *trap.prefix, cwd=place.volume / "sub" if trap.inside else None)
    for kept in trap.off:  # each of them alone sees it
        others = [cure for cure in trap.off if cure is not kept]
        with without(*others):
            refused(place)
    (place.volume / "writable-again").unlink()
    with without(*trap.off):
        record = place.lock(SHORT)
    assert is_in_force(record)
    assert not writable(place.volume)
    assert step(child, trap.write) == "done"
    assert changed(place)


def test_a_loop_device_without_the_cure(place: Place) -> None:
    image = place.volume / "file"
    os.truncate(image, 1 << 20)
    found = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True)
    device = found.stdout.strip()
    try:
        with without(NO_LOOPS, NO_LEASES):
            place.lock(SHORT)
        with open(device, "r+b", buffering=0) as block:
            block.write(b"A" * 512)
            os.fsync(block.fileno())
        assert changed(place)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_an_overlay_without_the_cure(place: Place) -> None:
    base = place.filesystem.path
    for name in ("lower", "merged", "vol/work"):
        (base / name).mkdir()
    options = f"lowerdir={base}/lower,upperdir={base}/vol/sub,workdir={base}/vol/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(base / "merged")], check=True)
    try:
        with without(NO_OVERLAYS):
            place.lock(SHORT)
        (base / "merged/late").touch()
        assert changed(place)
    finally:
        subprocess.run(["umount", str(base / "merged")], check=True)


def test_an_nfs_export_is_seen_in_the_kernels_table(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded: not every kernel has an NFS server. It opens files for moments only, which no other part of the search sees."""
    table = b"# Version 1.1\n# Path Client(Flags) # IPs\n%s\t*(rw,root_squash,sync,wdelay)\n" % os.fsencode(
        place.volume
    )
    real = kernel._read
    monkeypatch.setattr(kernel, "_read", lambda path: table if path == "/proc/fs/nfsd/exports" else real(path))
    refused(place, "nfsd", str(place.volume), "NFS export to '*'")
    with without(NO_EXPORTS):
        place.lock(SHORT)


def test_without_closing_who_stands_in_a_mounted_volume_keeps_it_waiting(place: Place) -> None:
    place.volume = place.filesystem.path
    place.holder("", cwd=place.volume / "vol")
    with without((Closer, "look", lambda _self: ([], []))):
        refused(place, "working directory")
    place.lock()


def test_a_rename_in_our_own_namespace_opens_the_tree(place: Place) -> None:
    spare = place.spare()
    record = place.lock()

    def here(act: Callable[[], None]) -> str:
        act()
        return ""

    with without((hold, "in_private_namespace", here)):
        moved = exchange_under_lock(place.book, record.token, os.fsencode(spare))
    assert not is_in_force(moved)
    assert writable(spare)


def test_detaching_alone_leaves_who_stands_in_the_tree_read_only(place: Place) -> None:
    place.lock()
    child = place.holder("", cwd=place.volume / "sub")
    with without((mounting, "remount", lambda _path, **_named: None)):
        place.unlock()
    assert writable(place.volume)
    assert step(child, "open('late', 'w')") == "Read-only file system"


def test_a_btrfs_property_is_no_lock(make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path) -> None:
    with Place(make_filesystem("btrfs"), tmp_path / "host") as place:
        child = place.holder("file = open(volume + '/file', 'r+b', buffering=0)")
        subprocess.run(["btrfs", "property", "set", str(place.volume), "ro", "true"], check=True)
        assert not writable(place.volume)
        assert step(child, "file.write(b'A' * 8)") == "done"
        assert changed(place)
        subprocess.run(["btrfs", "property", "set", str(place.volume), "ro", "false"], check=True)
        refused(place, f"pid {child.pid}")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_file_system_is_not_frozen(
    kind: str, make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path
) -> None:
    """Whoever writes beside the volume goes on: on a frozen file system he would hang, and voltool's own records with him."""
    with Place(make_filesystem(kind), tmp_path / "host") as place:
        place.lock()
        subprocess.run(["touch", str(place.filesystem.path / "beside")], check=True, timeout=20)
