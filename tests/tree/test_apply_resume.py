"""An interrupted restore goes on, a full disk keeps what has arrived, and nothing half-made is ever published."""

from __future__ import annotations

import os
import random
import signal
import stat
import time
from pathlib import Path

import pytest

from tests import judge, torture
from tests.filesystems import MIB, LoopFilesystem
from tests.tree.apply_run import Recorder, apply
from tests.tree.apply_streams import Stream, record, stream_of
from voltool.dumpfile import format as fmt
from voltool.errors import SpaceError
from voltool.events import PhaseStarted
from voltool.tree.apply import applier
from voltool.tree.apply.assemble import Assembler
from voltool.tree.apply.finish import Finisher
from voltool.tree.apply.staging import load_progress

KINDS = ("ext4", "xfs", "btrfs")


def _start(stream: Stream, target: Path, pause: float, workers: int) -> int:
    """A restore in a process of its own that makes its progress durable all the time."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            applier.SYNC_SECONDS = 0.0
            apply(stream, target, workers=workers, pause=pause)
        finally:
            os._exit(0)
    return pid


def _resume_point(stream: Stream, target: Path) -> int:
    """Where a new restore would begin, asked without doing anything."""
    seen: list[int] = []

    def stop(resume_after: int) -> bytes:
        seen.append(resume_after)
        return b""

    with pytest.raises(Exception, match="damaged"):
        apply(stream, target, encode=stop)
    return seen[0]


def _wait_for_progress(place: Path, last: int) -> int:
    """Until staging's record says more than ``last``: the point where a new run would go on."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for staging in place.glob(".voltool/staging-*"):
            progress = load_progress(os.fsencode(staging))
            if progress is not None and progress.resume_after > last:
                return progress.resume_after
        time.sleep(0.005)
    raise AssertionError("the restore makes no progress")


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_at_many_points_then_it_goes_on(kind: str) -> None:
    """Killed five times; each time nothing is at the target, and the last run does not need all data again."""
    chance = random.Random(7)
    with LoopFilesystem(kind) as filesystem:
        source, target = filesystem.path / "source", filesystem.path / "target"
        torture.build(source)
        stream = stream_of(source)
        stream.batch = 64 << 10
        try:
            point = 0
            for _attempt in range(5):
                pid = _start(stream, target, pause=0.03, workers=2)
                point = _wait_for_progress(filesystem.path, point)
                time.sleep(chance.random() * 0.1)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                assert not target.exists()
            assert _resume_point(stream, target) >= point
            applied = apply(stream, target, workers=2)
            assert applied.problems == ()
            assert judge.compare(source, target) == []
            assert not (filesystem.path / ".voltool").exists()
        finally:
            torture.destroy(source)
            torture.destroy(target)


class Crash(BaseException):
    """As if the process had died here."""


@pytest.mark.parametrize("where", ["assemble", "attributes", "publish"])
@pytest.mark.parametrize("mount_point", [False, True])
def test_a_crash_near_the_end_is_repeated(where: str, mount_point: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of assembling directories, between a rename and its attributes, and after publishing."""
    with LoopFilesystem("ext4") as filesystem, LoopFilesystem("ext4") as other:
        source = filesystem.path / "source"
        target = other.path if mount_point else other.path / "target"
        torture.build(source)
        stream = stream_of(source)
        try:
            with monkeypatch.context() as patch:
                _crash_at(patch, where)
                with pytest.raises(Crash):
                    apply(stream, target)
            assert apply(stream, target).problems == ()
            assert judge.compare(source, target, skip=(b".voltool", b"lost+found")) == []
            assert not (other.path / ".voltool").exists()
        finally:
            torture.destroy(source)
            torture.unseal(other.path)


def _crash_at(patch: pytest.MonkeyPatch, where: str) -> None:
    count = 0
    if where == "publish":
        real_publish = Finisher._publish

        def publish(self: Finisher, root: object, progress: object) -> None:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr("voltool.tree.apply.staging.Staging.remove", _crash)
                real_publish(self, root, progress)  # type: ignore[arg-type]

        patch.setattr(Finisher, "_publish", publish)
        return
    name = "_place" if where == "assemble" else "_finish"
    real = getattr(Assembler, name)

    def step(self: Assembler, *arguments: object) -> None:
        nonlocal count
        count += 1
        if count == 25:
            raise Crash
        real(self, *arguments)

    patch.setattr(Assembler, name, step)


def _crash(*_arguments: object) -> None:
    raise Crash


def _files(count: int, size: int) -> Stream:
    stream = Stream()
    stream.directory(1)
    chance = random.Random(5)
    for number in range(2, count + 2):
        stream.file(number, 1, b"file-%d" % number, chance.randbytes(size))
    return stream


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_says_so_and_the_restore_goes_on_with_more_room(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "SYNC_SECONDS", 0.0)
    size = {"ext4": 64, "xfs": 320, "btrfs": 160}[kind] * MIB
    with LoopFilesystem(kind, size=size) as filesystem:
        ballast = filesystem.path / "ballast"
        room = os.statvfs(filesystem.path).f_bavail * os.statvfs(filesystem.path).f_frsize
        with open(ballast, "wb") as file:
            file.write(os.urandom(max(0, room - 24 * MIB)))
            os.fsync(file.fileno())
        stream = _files(80, 500_000)
        stream.file(200, 1, b"large", os.urandom(3 * fmt.CHUNK_SIZE))
        target = filesystem.path / "target"
        with pytest.raises(SpaceError) as full:
            apply(stream, target, workers=2)
        assert "goes on" in full.value.remedy
        assert not target.exists()
        ballast.unlink()
        os.sync()
        if kind != "btrfs" or _has_room(filesystem.path, 50 * MIB):
            apply(stream, target, workers=2)
            assert len(os.listdir(target)) == 81
            assert (target / "file-81").read_bytes() == dict(stream.files[79].parts)[0]


def _has_room(path: Path, need: int) -> bool:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize > need


def test_what_is_here_already_may_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that leaves nothing out: what is safe is passed over, the rest is made; state and counts are right."""
    monkeypatch.setattr(applier, "SYNC_SECONDS", 0.0)
    stream = _files(40, 30_000)
    stream.file(100, 1, b"large", os.urandom(12 * fmt.CHUNK_SIZE))
    stream.batch = 200_000
    whole = stream.encode()

    def cut(_resume_after: int) -> bytes:
        return whole[:900_000]

    with pytest.raises(Exception, match="damaged"):
        apply(stream, tmp_path / "target", encode=cut)
    seen: list[int] = []

    def again(resume_after: int) -> bytes:
        seen.append(resume_after)
        stream.batch = 333_333  # batches that lie across the point where it goes on
        return stream.encode()

    recorder = Recorder()
    applied = apply(stream, tmp_path / "target", encode=again, reporter=recorder)
    assert seen[0] > 10
    assert applied.bytes == 40 * 30_000 + 12 * fmt.CHUNK_SIZE
    assert any(isinstance(event, PhaseStarted) for event in recorder.events)
    for file in stream.files:
        name = b"large" if file.final.number == 100 else b"file-%d" % file.final.number
        assert (tmp_path / "target" / os.fsdecode(name)).read_bytes() == dict(file.parts)[0]


def test_other_restores_staging_is_left_alone(tmp_path: Path) -> None:
    stream = _files(3, 100)
    with pytest.raises(Exception, match="damaged"):
        apply(stream, tmp_path / "one", encode=lambda _after: stream.encode()[:-10])
    left = os.listdir(tmp_path / ".voltool")
    apply(stream, tmp_path / "two")
    assert os.listdir(tmp_path / ".voltool") == left
    assert len(left) == 1


def test_a_sealed_file_of_an_interrupted_run_is_replaced(tmp_path: Path) -> None:
    stream = _files(3, 100)
    stream.directory(50, 1, b"directory")
    stream.file(51, 50, b"sealed", b"data", flags=fmt.FLAG_IMMUTABLE)
    stream.objects.append(record(52, stat.S_IFSOCK | 0o600))
    stream.entries.append(fmt.encode_entry(50, b"socket", 52))
    try:
        with pytest.raises(Exception, match="damaged"):
            apply(stream, tmp_path / "target", encode=lambda _after: stream.encode()[:-10])
        apply(stream, tmp_path / "target")
        descriptor = os.open(tmp_path / "target/directory/sealed", os.O_RDONLY)
        assert torture.get_flags(descriptor) & torture.IMMUTABLE
        os.close(descriptor)
    finally:
        torture.destroy(tmp_path / "target")
