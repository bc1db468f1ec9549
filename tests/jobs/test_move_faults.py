"""A move whose agents die at chosen moments: what is promised between the switch and the publishing, and before it.

The agents are forked from the test (`tests.core.harness`), so that one can be killed in the midst of any step of its own; the
file systems, the lock and its guardian are real.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core.harness import ForkHosts, Recorder
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.writer import Writer, wait_until
from voltool.agent import guardian
from voltool.agent.moving.source_ground import HostSource
from voltool.agent.moving.target_ground import HostTarget
from voltool.backup.ports import World
from voltool.backup.volumes import VolumeWish, add_volume
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import RefusedError, VoltoolError
from voltool.events import Reporter
from voltool.model import Hooks, KnownVolume
from voltool.move.driver import MoveOptions
from voltool.move.job import MoveWish, Which, abort_move, move_volume, resume_move, standing
from voltool.move.sessions import SessionSettings
from voltool.remote.session import AgentSession
from voltool.stores.opening import StoreOpener
from voltool.tree.apply import publish
from voltool.volumes.lock.hold import in_container
from voltool.volumes.moving import by_entries, placeholder

SETTINGS = SessionSettings(owner="a test", workers=1)
OPTIONS = MoveOptions(downtime=1000.0)


class TwoHosts:
    """`Hosts`: each name has a state directory of its own; ``inject`` says what is done in a host's agents first."""

    def __init__(self, directory: Path, reporter: Recorder) -> None:
        self.inject: dict[str, Callable[[], object]] = {}
        self._hosts = {name: ForkHosts(directory / f"state-{name}", reporter) for name in ("a", "b")}

    def connect(self, host: str) -> AbstractContextManager[AgentSession]:
        hosts = self._hosts[host]
        hosts.inject = self.inject.get(host)
        return _forgiving(hosts.connect(host))

    def apart(self, reporter: Reporter) -> TwoHosts:
        return self


@contextlib.contextmanager
def _forgiving(connection: AbstractContextManager[AgentSession]) -> Iterator[AgentSession]:
    """An agent that was killed ends with a status that the harness would complain of."""
    session = connection.__enter__()
    try:
        yield session
    finally:
        with contextlib.suppress(AssertionError):
            connection.__exit__(None, None, None)


class Ground:
    """A volume on host a, and room for it on host b."""

    def __init__(self, directory: Path, here: Path, there: Path, *, mounted: bool = False) -> None:
        self.volume, self.target = here if mounted else here / "vol", there / "vol"
        (self.volume / "sub").mkdir(parents=True)
        for number in range(50):
            (self.volume / "sub" / f"f{number}").write_bytes(os.urandom(5000))
        self.here, self.there = here, there
        self.directory = directory
        reporter = Recorder()
        self.hosts = TwoHosts(directory, reporter)
        self.catalog = SqliteCatalog(str(directory / "catalog.sqlite"))
        self.world = World(self.hosts, StoreOpener(0.0), self.catalog, reporter, "a test")
        self.known: KnownVolume = add_volume(
            self.world, VolumeWish("vol", "a", os.fsencode(self.volume), "directory", ())
        ).volume

    def move(self, settings: SessionSettings = SETTINGS) -> None:
        move_volume(self.world, MoveWish("vol", "b", os.fsencode(self.target), settings, OPTIONS))

    def resume(self) -> None:
        resume_move(self.world, Which("vol"), SETTINGS, OPTIONS)

    def what(self) -> str:
        return standing(self.world, Which("vol")).what

    def mounted_at(self, path: Path) -> int:
        """How many mounts lie over each other at, or below, a path."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
        return sum(point == str(path) or point.startswith(f"{path}/") for point in points)

    @property
    def retired(self) -> Path:
        (found,) = (self.here / ".voltool").glob("*/retired-*")
        return found


@pytest.fixture(params=[False, True], ids=["directory", "mount point"])
def ground(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ground]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with LoopFilesystem("ext4") as a, LoopFilesystem("xfs") as b:
        made = Ground(tmp_path, a.path, b.path, mounted=request.param)
        try:
            yield made
        finally:
            made.catalog.close()
            os.system(f"chattr -i {made.volume} 2>/dev/null")  # noqa: S605 - a path of ours


def die(*_arguments: object) -> None:
    """kill -9 of the agent."""
    os.kill(os.getpid(), signal.SIGKILL)


def dying_before(kind: type, method: str) -> Callable[[], None]:
    """For ``inject``: the agent dies instead of doing that."""

    def inject() -> None:
        setattr(kind, method, die)

    return inject


def dying_after(kind: type, method: str) -> Callable[[], None]:
    """For ``inject``: the agent dies when it has done that."""
    real = getattr(kind, method)

    def then_die(self: object, *arguments: object) -> None:
        real(self, *arguments)
        die()

    def inject() -> None:
        setattr(kind, method, then_die)

    return inject


def locked_mounts(ground: Ground) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if f" {ground.here}/" in line or f" {ground.here} " in line]
    return found[1:]  # the first is the file system itself


def differences(ground: Ground) -> list[str]:
    """Between the retired copy and the new home; what a mount point's root was stays with the root."""
    found = compare(ground.retired, ground.target)
    return [line for line in found if "'.'" not in line and " ./" not in line]


def left_at_the_old_path(ground: Ground) -> list[str]:
    return [name for name in os.listdir(ground.volume) if name != ".voltool"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_new_home_dies_when_it_is_to_publish(ground: Ground, moment: str) -> None:
    writer = Writer(ground.volume, ground.directory)
    dying = dying_before if moment == "before" else dying_after
    ground.hosts.inject["b"] = dying(HostTarget, "publish")
    with pytest.raises(VoltoolError) as failed:
        ground.move()
    writer.stop()
    assert "in service nowhere" in failed.value.why
    assert "voltool move --resume vol" in failed.value.remedy
    assert left_at_the_old_path(ground) == []
    assert "in service nowhere" in ground.what()
    with pytest.raises(RefusedError, match="moved already"):
        abort_move(ground.world, Which("vol"))
    del ground.hosts.inject["b"]
    ground.resume()
    assert writer.lost(ground.target) == []
    assert differences(ground) == []
    assert locked_mounts(ground) == []


@pytest.mark.parametrize(
    ("method", "when"),
    [("take_away", "before"), ("take_away", "after"), ("assert_unchanged", "before"), ("assert_unchanged", "after")],
)
def test_the_old_home_dies_during_the_switch(ground: Ground, method: str, when: str) -> None:
    """Not committed: the guardian brings the tree back to its path, writable, and the move can go on."""
    writer = Writer(ground.volume, ground.directory)
    ground.hosts.inject["a"] = (dying_before if when == "before" else dying_after)(HostSource, method)
    with pytest.raises(VoltoolError):
        ground.move()
    writer.stop()

    def is_back() -> bool:
        try:
            (ground.volume / "probe").touch()
        except OSError:
            return False
        return (ground.volume / "sub").is_dir()

    wait_until(is_back)
    assert writer.lost(ground.volume) == []
    wait_until(lambda: locked_mounts(ground) == [])
    del ground.hosts.inject["a"]
    wait_until(lambda: "in service at" in ground.what())  # of a mount point the last entry comes back before the record
    ground.resume()
    assert writer.lost(ground.target) == []
    assert (ground.target / "probe").exists()
    assert locked_mounts(ground) == []


def test_the_old_home_dies_right_after_the_commit(ground: Ground) -> None:
    """Committed: the guardian leaves the tree retired and read-only, and runs no hook."""
    mark = ground.here / "after_unlock ran"
    settings = SessionSettings(owner="a test", workers=1, hooks=Hooks(after_unlock=("touch", str(mark))))
    real = HostSource.save

    def save(self: HostSource, move: object) -> None:
        real(self, move)  # type: ignore[arg-type]
        if getattr(move, "phase", "") == "moved":
            die()

    def inject() -> None:
        HostSource.save = save  # type: ignore[method-assign]

    ground.hosts.inject["a"] = inject
    with pytest.raises(VoltoolError) as failed:
        move_volume(ground.world, MoveWish("vol", "b", os.fsencode(ground.target), settings, OPTIONS))
    assert "in service nowhere" in failed.value.why
    wait_until(lambda: locked_mounts(ground) == [])
    time.sleep(0.5)
    assert left_at_the_old_path(ground) == []
    assert not mark.exists()
    del ground.hosts.inject["a"]
    ground.resume()
    assert (ground.target / "sub" / "f1").exists()
    assert differences(ground) == []


@pytest.mark.parametrize("method", ["get_ready", "make_ready", "apply_waiting"])
def test_the_new_home_dies_under_the_lock(ground: Ground, method: str, tmp_path: Path) -> None:
    """Also when a tree that was ready before the lock is taken apart for what the last increment brings."""
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho changed > {ground.volume}/sub/f7; mkdir -p {ground.volume}/new/below\n")
    hook.chmod(0o755)
    ground.hosts.inject["b"] = dying_after(HostTarget, method)
    with pytest.raises(VoltoolError):
        ground.move(replace(SETTINGS, hooks=Hooks(before_lock=(str(hook),))))
    wait_until(lambda: locked_mounts(ground) == [])
    (ground.volume / "still writable").touch()
    del ground.hosts.inject["b"]
    ground.resume()
    assert (ground.target / "still writable").exists()
    assert differences(ground) == []


def test_somebody_writes_past_the_lock(ground: Ground) -> None:
    """What the search for writers misses, the second scan sees: the switch is undone, and what was written is there."""
    real = HostSource.take_away

    def take_away(self: HostSource, move: object) -> None:
        real(self, move)  # type: ignore[arg-type]
        changed = os.path.join(getattr(move, "retired_path"), b"sub/f2")  # noqa: B009 - an object of the agent's
        os.chmod(changed, 0o750)

    def inject() -> None:
        HostSource.take_away = take_away  # type: ignore[method-assign]

    ground.hosts.inject["a"] = inject
    with pytest.raises(VoltoolError):
        ground.move()
    assert (ground.volume / "sub" / "f1").exists()
    wait_until(lambda: locked_mounts(ground) == [])
    (ground.volume / "writable").touch()


def rename_that_dies(*, with_agent: bool) -> Callable[[], None]:
    """For ``inject``: the child that empties a mount point dies after its first rename, alone or with the agent."""
    real = by_entries._rename

    def rename(old: int, new: int, name: bytes, new_name: bytes) -> None:
        real(old, new, name, new_name)
        if "retired-" not in os.readlink(f"/proc/self/fd/{new}"):
            return  # the guardian, who has our code, brings it back
        if with_agent:
            os.kill(os.getppid(), signal.SIGKILL)
        die()

    def inject() -> None:
        by_entries._rename = rename

    return inject


@pytest.mark.parametrize("ground", [True], ids=["mount point"], indirect=True)
@pytest.mark.parametrize("with_agent", [False, True], ids=["child", "agent"])
def test_the_old_home_dies_while_it_is_emptied(ground: Ground, *, with_agent: bool) -> None:
    """What had left comes back, with the root's own time: by the agent itself, or by the guardian."""
    (ground.volume / "another").mkdir()
    before = ground.volume.stat().st_mtime_ns
    ground.hosts.inject["a"] = rename_that_dies(with_agent=with_agent)
    with pytest.raises(VoltoolError):
        ground.move()
    wait_until(lambda: locked_mounts(ground) == [])
    assert sorted(left_at_the_old_path(ground)) == ["another", "lost+found", "sub"]
    assert ground.volume.stat().st_mtime_ns == before
    del ground.hosts.inject["a"]
    ground.resume()
    assert differences(ground) == []


@pytest.mark.parametrize("ground", [True], ids=["mount point"], indirect=True)
def test_a_power_cut_leaves_a_mount_point_half_emptied(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings it back, and something has started on the old path before the next command: nothing of either is lost."""
    (ground.volume / "another").mkdir()
    dies = rename_that_dies(with_agent=True)

    def inject() -> None:
        dies()
        monkeypatch.setattr(guardian._Guardian, "_end", lambda _self, _why: None)  # in the agent alone: it is a fork

    ground.hosts.inject["a"] = inject
    with pytest.raises(VoltoolError):
        ground.move()
    mounts = locked_mounts(ground)
    assert len(mounts) == 3
    for mount in reversed(mounts):
        subprocess.run(["umount", "-l", mount.split()[4]], check=True)
    # A boot would mount the file system anew: the lock has made this mount of it read-only.
    subprocess.run(["mount", "-o", "remount,bind,rw", str(ground.volume)], check=True)
    (left,) = {"another", "lost+found", "sub"} - set(left_at_the_old_path(ground))
    (ground.volume / left).mkdir()
    (ground.volume / left / "of the application").write_text("it found nothing and began anew")
    del ground.hosts.inject["a"]
    ground.resume()
    found = ground.target / f"{left}.found-at-the-old-path-0" / "of the application"
    assert found.read_text() == "it found nothing and began anew"
    assert len(list((ground.target / "sub").iterdir())) == 50
    assert differences(ground) == []


def test_the_new_home_dies_while_a_mount_point_is_filled(tmp_path: Path) -> None:
    """Nobody can put anything into a tree that is there in part, and the next command goes on."""
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    real = publish._move_one

    def move_one(source: int, destination: int, path: list[bytes], name: bytes) -> None:
        real(source, destination, path, name)
        die()

    def inject() -> None:
        publish._move_one = move_one

    with LoopFilesystem("ext4") as a, LoopFilesystem("xfs") as b:
        ground = Ground(tmp_path, a.path, b.path)
        ground.target = b.path
        try:
            (ground.volume / "another").mkdir()
            ground.hosts.inject["b"] = inject
            with pytest.raises(VoltoolError):
                ground.move()
            with pytest.raises(OSError, match="Read-only"):
                (ground.target / "started too early").mkdir()
            del ground.hosts.inject["b"]
            ground.resume()
            assert differences(ground) == []
            (ground.target / "writable").touch()
            assert ground.mounted_at(ground.there) == 1
        finally:
            ground.catalog.close()
            os.system(f"chattr -i {ground.volume} 2>/dev/null")  # noqa: S605 - a path of ours


@pytest.mark.parametrize("ground", [True], ids=["mount point"], indirect=True)
def test_a_mount_point_is_emptied_without_xattrs_too(ground: Ground) -> None:
    """As on zfs-fuse with Debian's settings: then nothing marks what is left at the old path."""

    def mark(*_arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no xattrs")

    def inject() -> None:
        setattr(placeholder, "mark", mark)  # noqa: B010 - mypy would have it as it is

    ground.hosts.inject["a"] = inject
    ground.move()
    assert left_at_the_old_path(ground) == []
    assert differences(ground) == []
