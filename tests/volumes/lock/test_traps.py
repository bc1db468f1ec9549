"""Each way in which a process writes on below a read-only mount: the lock must see it, name it, and undo itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.lock.places import Place, end, step
from voltool.errors import BusyError
from voltool.volumes.lock.hold import is_in_force, lock_tree

SHORT = 0.3


def refused(place: Place, *named: str) -> None:
    """The lock is refused, with these words in the reason, and nothing of it is left."""
    with pytest.raises(BusyError) as caught:
        place.lock(SHORT)
    for words in named:
        assert words in caught.value.why
    assert place.book.read() is None
    (place.volume / "writable-again").touch()


def locks(place: Place) -> None:
    record = place.lock()
    assert is_in_force(record)
    with pytest.raises(OSError, match="Read-only"):
        (place.volume / "late").touch()
    place.unlock()
    (place.volume / "late").touch()


def test_a_file_open_for_writing(place: Place) -> None:
    child = place.holder("file = open(volume + '/file', 'ab', buffering=0)")
    refused(place, f"pid {child.pid}", f"{place.volume}/file", "descriptor 3")
    end(child)
    locks(place)


def test_a_file_open_for_reading_does_not_matter(place: Place) -> None:
    place.holder("file = open(volume + '/file', 'rb')")
    locks(place)


def test_a_directory_descriptor_from_before_the_bind(place: Place) -> None:
    child = place.holder("directory = os.open(volume + '/sub', os.O_RDONLY)")
    refused(place, f"pid {child.pid}", f"{place.volume}/sub", "descriptor 3")
    end(child)
    locks(place)


def test_a_working_directory(place: Place) -> None:
    child = place.holder("", cwd=place.volume / "sub")
    refused(place, f"pid {child.pid}", "working directory")
    end(child)
    locks(place)


def test_a_root_directory(place: Place) -> None:
    child = place.holder("os.chroot(volume)")
    refused(place, f"pid {child.pid}", "root directory")
    end(child)
    locks(place)


def test_a_thread_with_a_descriptor_table_of_its_own(place: Place) -> None:
    code = (
        "import threading, ctypes\n"
        "opened = threading.Event()\n"
        "def work():\n"
        "    ctypes.CDLL(None).unshare(0x400)\n"  # CLONE_FILES
        "    directory = os.open(volume + '/sub', os.O_RDONLY)\n"
        "    opened.set()\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "opened.wait()"
    )
    child = place.holder(code)
    assert not any(os.path.realpath(link) == f"{place.volume}/sub" for link in Path(f"/proc/{child.pid}/fd").iterdir())
    refused(place, f"pid {child.pid}", f"{place.volume}/sub")
    end(child)
    locks(place)


def test_a_working_directory_on_a_mount_that_no_namespace_has_any_more(place: Place) -> None:
    other = place.filesystem.path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(place.volume), str(other)], check=True)
    child = place.holder("", cwd=other / "sub")
    subprocess.run(["umount", "-l", str(other)], check=True)
    refused(place, f"pid {child.pid}", "working directory")
    end(child)
    locks(place)


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_a_mapping_made_writable_by_mprotect(
    kind: str, make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path
) -> None:
    code = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "file = os.open(volume + '/file', os.O_RDWR)\n"
        "address = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, file, ctypes.c_long(0))\n"  # PROT_READ, MAP_SHARED
        "os.close(file)"
    )
    with Place(make_filesystem(kind), tmp_path / "host") as place:
        child = place.holder(code)
        refused(place, f"pid {child.pid}", f"{place.volume}/file", "shared map")
        write = "assert libc.mprotect(ctypes.c_void_p(address), 4096, 3) == 0; ctypes.memset(address, 65, 8)"
        assert step(child, write) == "done"
        assert (place.volume / "file").read_bytes()[:8] == b"A" * 8
        end(child)
        locks(place)


def test_a_loop_device_on_a_file_of_the_volume(place: Place) -> None:
    image = place.volume / "image"
    image.write_bytes(bytes(1 << 20))
    done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True)
    device = done.stdout.strip()
    try:
        refused(place, Path(device).name, str(image), "loop device")
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    locks(place)


def test_the_upper_directory_of_an_overlay(place: Place) -> None:
    base = place.filesystem.path
    for name in ("lower", "merged", "vol/upper, odd", "vol/work"):
        (base / name).mkdir()
    options = f"lowerdir={base}/lower,upperdir={base}/vol/upper\\, odd,workdir={base}/vol/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(base / "merged")], check=True)
    try:
        refused(place, f"{base}/vol/upper, odd", "overlay mounted at", str(base / "merged"))
    finally:
        subprocess.run(["umount", str(base / "merged")], check=True)
    locks(place)


def overlay(base: Path, where: Path, merged: Path) -> None:
    """An overlay whose upper and work directory are named relative to ``where``."""
    for path in (base / "lower", where / "upper", where / "work", merged):
        path.mkdir(parents=True)
    options = f"lowerdir={base}/lower,upperdir=upper,workdir=work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(merged)], check=True, cwd=where)


@pytest.mark.parametrize(
    ("where", "merged", "words"),
    [
        ("vol/layers", "vol/layers/merged", "vol/layers/upper, overlay mounted at"),  # beside it, as runtimes have it
        ("vol/layers", "other/merged", "upper, overlay mounted at"),  # found nowhere
        ("other/layers", "other/layers/merged", ""),  # outside of the volume
    ],
)
def test_an_overlay_whose_directories_are_named_relatively(
    place: Place, tmp_path: Path, where: str, merged: str, words: str
) -> None:
    base = place.filesystem.path
    overlay(base, base / where, base / merged)
    try:
        if words:
            refused(place, words, str(base / merged))
        else:
            locks(place)
    finally:
        subprocess.run(["umount", str(base / merged)], check=True)
    place.lock()


def made_namespace(path: Path, cpu: int) -> bool:
    """Keep a new mount namespace at ``path``. Only a younger one may be kept in ours, and Linux 6.18 counts per CPU."""
    command = ["taskset", "-c", str(cpu), "unshare", f"--mount={path}", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kept_by", ["descriptor", "mount"])
def test_a_mount_namespace_without_a_process(place: Place, kept_by: str, tmp_path: Path) -> None:
    keeper = tmp_path / "kept"
    keeper.mkdir()
    subprocess.run(["mount", "--bind", str(keeper), str(keeper)], check=True)
    subprocess.run(["mount", "--make-private", str(keeper)], check=True)
    (keeper / "namespace").touch()
    try:
        assert any(made_namespace(keeper / "namespace", cpu) for cpu in os.sched_getaffinity(0))
        if kept_by == "mount":
            refused(place, f"in the mount namespace that is kept at {keeper}/namespace", "another mount of the tree")
        else:
            child = place.holder(f"kept = open({str(keeper / 'namespace')!r})")
            subprocess.run(["umount", "-l", str(keeper / "namespace")], check=True)
            refused(place, f"pid {child.pid}", "in a mount namespace that it keeps open", "another mount of the tree")
            end(child)
    finally:
        subprocess.run(["umount", str(keeper / "namespace")], capture_output=True, check=False)
        subprocess.run(["umount", str(keeper)], check=True)
    locks(place)


def test_a_mount_of_the_tree_in_another_namespace(place: Place) -> None:
    child = place.holder("", "unshare", "--mount", "--propagation", "private")
    refused(place, f"pid {child.pid}", "another mount of the tree")
    with pytest.raises(BusyError):
        place.lock(SHORT)
    end(child)
    locks(place)


def test_a_mount_of_a_part_of_the_tree_elsewhere(place: Place) -> None:
    other = place.filesystem.path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(place.volume / "sub"), str(other)], check=True)
    place.lock()
    with pytest.raises(OSError, match="Read-only"):
        (other / "late").touch()
    place.unlock()
    (other / "late").touch()
    with open(other / "file", "w"):
        refused(place, f"{place.volume}/sub/file", "open for writing")


def test_a_descriptor_in_flight_over_a_socket(place: Place) -> None:
    code = (
        "pair = socket.socketpair()\n"
        "file = os.open(volume + '/file', os.O_WRONLY)\n"
        "socket.send_fds(pair[0], [b'x'], [file])\n"
        "os.close(file)"
    )
    child = place.holder(code)
    refused(place, f"{place.volume}/file", "open for writing by someone who cannot be seen")
    received = "fd = socket.recv_fds(pair[1], 1, 1)[1][0]; os.write(fd, b'late'); os.close(fd)"
    assert step(child, received) == "done"
    locks(place)


def test_a_directory_in_flight_over_a_socket(place: Place) -> None:
    code = (
        "pair = socket.socketpair()\n"
        "directory = os.open(volume + '/sub', os.O_RDONLY)\n"
        "socket.send_fds(pair[0], [b'x'], [directory])\n"
        "os.close(directory)"
    )
    child = place.holder(code)
    refused(place, f"pid {child.pid}", "socket:[", "descriptors in flight that cannot be looked into")
    assert step(child, "fd = socket.recv_fds(pair[1], 1, 1)[1][0]") == "done"
    refused(place, f"pid {child.pid}", f"{place.volume}/sub")
    assert step(child, "os.close(fd)") == "done"
    locks(place)


def test_sockets_that_have_descriptors_for_moments_keep_nobody_waiting(place: Place) -> None:
    code = (
        "import threading\npair = socket.socketpair()\n"
        "def pass_on():\n"
        "    while True:\n"
        "        socket.send_fds(pair[0], [b'x'], [0])\n"
        "        os.close(socket.recv_fds(pair[1], 1, 1)[1][0])\n"
        "threading.Thread(target=pass_on, daemon=True).start()"
    )
    place.holder(code)
    locks(place)


@pytest.mark.may_skip("io_uring is switched off here")
def test_what_is_registered_with_io_uring(place: Place) -> None:
    """Registered files have no number: a ring is all that a table shows."""
    if Path("/proc/sys/kernel/io_uring_disabled").exists() and int(
        Path("/proc/sys/kernel/io_uring_disabled").read_text()
    ):
        pytest.skip("io_uring is switched off here")
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "ring = libc.syscall(425, 4, ctypes.byref((ctypes.c_char * 120)()))\n"
        "held = [os.open(volume + '/file', os.O_WRONLY), os.open(volume + '/sub', os.O_RDONLY)]\n"
        "assert libc.syscall(427, ring, 2, ctypes.byref((ctypes.c_int * 2)(*held)), 2) == 0\n"
        "os.close(held[0]); os.close(held[1])"
    )
    child = place.holder(code)
    refused(place, f"pid {child.pid}", f"{place.volume}/file", f"{place.volume}/sub", "registered with io_uring")
    end(child)
    locks(place)


@pytest.mark.may_skip("the kernel has no NFS server; the parser is tested against recorded files")
def test_an_nfs_export_of_the_volume(place: Place) -> None:
    if not os.path.exists("/proc/fs/nfsd/exports") or shutil.which("exportfs") is None:
        pytest.skip("needs the kernel's NFS server and exportfs")
    subprocess.run(["exportfs", "-o", "rw,no_root_squash", f"127.0.0.1:{place.volume}"], check=True)
    try:
        refused(place, "nfsd", str(place.volume))
    finally:
        subprocess.run(["exportfs", "-u", f"127.0.0.1:{place.volume}"], check=True)


def test_the_lock_waits_until_the_writer_is_done(place: Place) -> None:
    child = place.holder("file = open(volume + '/file', 'ab', buffering=0)")
    asked = 0

    def files() -> list[bytes]:
        """Asked for when the read-only mount stands: then, and once more, the writer has the file open."""
        nonlocal asked
        asked += 1
        return [b"file", b"sub/inner"]

    def go_on() -> None:
        assert step(child, "open(volume + '/late', 'w')") == "Read-only file system"
        assert step(child, "file.write(b'last words'); file.close()") == "done"

    record, _result = lock_tree(place.book, place.wish(files=files), alive=go_on_once(go_on))
    assert is_in_force(record)
    assert asked >= 2  # the last search looks at every file again
    assert (place.volume / "file").read_bytes().endswith(b"last words")


def go_on_once(act: Callable[[], None]) -> Callable[[], None]:
    left = [act]
    return lambda: left.pop()() if left else None
