"""A volume that is mounted at its path: who came by that mount before the lock writes no more, and is let on afterwards."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.lock.places import Place, end, step
from tests.volumes.lock.test_guardian import agent, guardian_of, wait_until
from tests.volumes.lock.test_hold import writable
from voltool.errors import BusyError
from voltool.volumes.lock import hold, mounting, waiting
from voltool.volumes.lock.closing import Closer
from voltool.volumes.lock.hold import is_in_force, leave_read_only

READ_ONLY = "Read-only file system"
WRITE = "os.close(os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=directory))"
WRITE_CWD = "open('new', 'w')"
WRITE_RECEIVED = (
    "fd = socket.recv_fds(pair[1], 1, 1)[1][0]; socket.send_fds(pair[0], [b'x'], [fd]); "
    "os.close(os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=fd))"
)
IN_FLIGHT = (
    "pair = socket.socketpair()\ndirectory = os.open(volume + '/sub', os.O_RDONLY)\n"
    "socket.send_fds(pair[0], [b'x'], [directory])\nos.close(directory)"
)


def at_mount_point(place: Place, options: str = "") -> Place:
    """The volume is all of its file system, mounted at its path."""
    mount = str(place.filesystem.path)
    place.volume = place.filesystem.path
    if place.filesystem.kind == "btrfs":  # a subvolume, over all the others
        found = subprocess.run(["findmnt", "-nvo", "SOURCE", mount], capture_output=True, text=True, check=True)
        other = place.filesystem.path.parent / "other"
        other.mkdir()
        subprocess.run(["mount", "-o", "subvol=vol", found.stdout.strip(), str(other)], check=True)
        subprocess.run(["mount", "--move", str(other), mount], check=True)
        other.rmdir()
        if options:
            subprocess.run(["mount", "-o", f"remount,bind,{options}", mount], check=True)
    else:
        (place.volume / "sub").mkdir()
        if options:
            place.filesystem.remount(options)
    (place.volume / ".voltool").mkdir(mode=0o700)
    return place


def mountinfo(pid: int) -> list[str]:
    return sorted(line for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines() if "voltool-test-fs" in line)


@pytest.fixture
def own(place: Place) -> Place:
    return at_mount_point(place)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("ext4", "nosuid,nodev,strictatime"), ("xfs", "noatime,noexec"), ("btrfs", "nodiratime,nosuid")],
)
def test_whoever_came_before_writes_no_more_until_the_unlock(
    kind: str, options: str, make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path
) -> None:
    with Place(make_filesystem(kind), tmp_path / "host") as bare:
        beside = os.open(bare.filesystem.path, os.O_RDONLY)  # of the whole file system, where it has subvolumes
        place = at_mount_point(bare, options)
        holders = [
            (place.holder("directory = os.open(volume + '/sub', os.O_RDONLY)"), WRITE),
            (place.holder("", cwd=place.volume / "sub"), WRITE_CWD),
            (place.holder("", "unshare", "-m", cwd=place.volume / "sub"), WRITE_CWD),
        ]
        if kind != "btrfs":  # there the covered mount of all subvolumes could be the one that it came by
            holders.append((place.holder(IN_FLIGHT), WRITE_RECEIVED))
        pids = [os.getpid(), *(child.pid for child, _code in holders)]
        before = [mountinfo(pid) for pid in pids]
        record = place.lock()
        assert is_in_force(record)
        for child, code in holders:
            assert step(child, code) == READ_ONLY
        assert not writable(place.volume)
        assert writable(place.volume / ".voltool")
        if kind == "btrfs":
            os.mkdir("beside", dir_fd=beside)
        os.close(beside)
        place.unlock()
        for child, code in holders:
            assert step(child, code) == "done"
        assert writable(place.volume)
        assert [mountinfo(pid) for pid in pids] == before


def test_an_older_kernel_closes_them_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.12 there is no mount_setattr, and before 6.5 nothing can be mounted beneath a mount."""
    own = at_mount_point(place, "nosuid,nodev,strictatime")
    monkeypatch.setattr(mounting, "_set_read_only", lambda _root, **_named: errno.ENOSYS)
    child = own.holder("", cwd=own.volume / "sub")
    before = mountinfo(os.getpid())
    own.lock()
    assert step(child, WRITE_CWD) == READ_ONLY
    own.unlock()
    assert step(child, WRITE_CWD) == "done"
    assert mountinfo(os.getpid()) == before
    own.lock()
    with own.book.step("the test"):
        leave_read_only(own.book)
    assert step(child, WRITE_CWD) == READ_ONLY
    assert writable(own.volume)


def test_a_container_that_has_a_part_of_the_volume_is_stopped_too(place: Place) -> None:
    """The volume is a directory of a larger file system; the container sees a part of it, and nothing else of that."""
    inside = place.filesystem.path / "inside"
    inside.mkdir()
    enter = f'mount --bind {place.volume}/sub {inside} && umount -l {place.filesystem.path} && exec "$@"'
    # what is mounted at `inside` is reached by the working directory alone once the rest is gone
    enter = enter.replace("&& umount", f"&& cd {inside} && mount --move . /mnt && cd / && umount")
    child = place.holder("", "unshare", "-m", "sh", "-c", enter, "sh", cwd=Path("/"))
    write = "open('/mnt/new', 'w')"
    assert step(child, write) == "done"
    record = place.lock()
    assert step(child, write) == READ_ONLY
    assert [mount.root for mount in record.closed] == [b"/vol/sub"]
    place.unlock()
    assert step(child, write) == "done"


def test_what_was_read_only_before_stays_so(own: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", str(own.volume), str(other)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(other)], check=True)
        record = own.lock()
        assert len(record.closed) == 1
        assert len(record.kept) == 1
        own.unlock()
        assert not writable(other)
        assert writable(own.volume)
    finally:
        subprocess.run(["umount", str(other)], check=True)


def test_a_file_that_is_open_for_writing_is_waited_for_and_nothing_stays_closed(own: Place) -> None:
    child = own.holder("file = open(volume + '/sub/file', 'ab', buffering=0)")
    with pytest.raises(BusyError) as caught:
        own.lock(0.3)
    assert f"pid {child.pid}" in caught.value.why
    assert writable(own.volume / "sub")
    end(child)
    own.lock()


def test_a_deleted_file_keeps_nobody_from_locking(own: Place) -> None:
    child = own.holder("file = open(volume + '/gone', 'wb', buffering=0); os.unlink(volume + '/gone')")
    own.lock()
    assert step(child, "file.write(b'x')") == "done"
    own.unlock()


@pytest.mark.parametrize("propagation", ["slave", "private"])
def test_a_namespace_that_is_younger_than_the_lock_is_let_on_too(own: Place, propagation: str) -> None:
    subprocess.run(["mount", "--make-shared", str(own.volume)], check=True)
    own.lock()
    child = own.holder("", "unshare", "-m", "--propagation", propagation)
    write = "open(volume + '/sub/new', 'w')"
    assert step(child, write) == READ_ONLY
    own.unlock()
    assert step(child, write) == "done"
    assert [line.split()[4] for line in mountinfo(child.pid)].count(str(own.volume)) == 1


def test_a_directory_volumes_lock_is_taken_from_younger_namespaces(place: Place) -> None:
    place.lock()
    child = place.holder("", "unshare", "-m", cwd=place.volume / "sub")
    assert step(child, WRITE_CWD) == READ_ONLY
    place.unlock()
    assert step(child, WRITE_CWD) == "done"
    assert step(child, "open(volume + '/sub/new', 'w')") == "done"


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_what_a_crash_left_closed_is_opened_by_the_next(
    own: Place, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies after it wrote down what it will close; after the lock's mounts; after closing; in the middle of undoing."""
    before = mountinfo(os.getpid())

    def dying(real: Callable[..., object], when: int) -> Callable[..., object]:
        def act(*words: object) -> object:
            found = real(*words)
            if steps == when:
                raise KeyboardInterrupt
            return found

        return act

    with monkeypatch.context() as patch:
        patch.setattr(hold, "write_closing", dying(waiting.write_closing, 1))
        patch.setattr(hold, "_mount", dying(hold._mount, 2))
        patch.setattr(Closer, "attempt", dying(Closer.attempt, 3))
        patch.setattr(hold, "unlock_tree", lambda _book, _token: None)
        if steps < 4:
            with pytest.raises(KeyboardInterrupt):
                own.lock()
    if steps == 4:
        own.lock()
        with monkeypatch.context() as patch:
            patch.setattr(hold, "_take_off", dying(hold._take_off, 4))
            with pytest.raises(KeyboardInterrupt):
                own.unlock()
        assert not writable(own.volume)  # the mount itself is still closed
    assert own.book.read() is not None
    own.unlock()
    assert writable(own.volume)
    assert mountinfo(os.getpid()) == before


@pytest.mark.parametrize("both", [False, True])
def test_killed_agents_and_guardians_leave_nothing_closed(own: Place, tmp_path: Path, both: bool) -> None:
    stands = own.holder("", "unshare", "-m", cwd=own.volume / "sub")
    pids = (os.getpid(), stands.pid)
    before = [mountinfo(pid) for pid in pids]
    child = agent(own, tmp_path / "mark")
    guardian = guardian_of(child.pid)
    assert step(stands, WRITE_CWD) == READ_ONLY
    if both:
        os.kill(guardian, signal.SIGKILL)
    os.kill(child.pid, signal.SIGKILL)
    if both:
        assert step(stands, WRITE_CWD) == READ_ONLY
        own.unlock()
    else:
        wait_until(lambda: own.book.read() is None)
    assert step(stands, WRITE_CWD) == "done"
    assert [mountinfo(pid) for pid in pids] == before


def test_a_volume_that_was_given_up_stays_closed_to_who_came_before(own: Place) -> None:
    child = own.holder("", cwd=own.volume / "sub")
    own.lock()
    with own.book.step("the test"):
        leave_read_only(own.book)
    assert step(child, WRITE_CWD) == READ_ONLY
    assert writable(own.volume)  # voltool has the old copy to purge there, and the next user comes by it
    assert own.book.read() is None
    assert is_in_force(own.lock())
    own.unlock()
    assert writable(own.volume)
    assert step(child, WRITE_CWD) == READ_ONLY
