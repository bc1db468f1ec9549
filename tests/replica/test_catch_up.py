"""Replicas on real file systems: filled, brought up to date, swapped under their readers, read-only, repaired."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.harness import ForkHosts, Rig
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.replica.rig import Replica, is_writable
from voltool.agent import dump
from voltool.errors import BusyError, NotFoundError, RefusedError
from voltool.model import SERVING
from voltool.replica.sessions import ReplicaSession
from voltool.wire import messages

PLACES = [("ext4", "directory"), ("xfs", "reflink"), ("btrfs", "btrfs")]
_numbers = itertools.count()


@pytest.fixture(scope="module", params=PLACES, ids=["-".join(place) for place in PLACES])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Path, str]]:
    kind, driver = request.param
    with LoopFilesystem(kind, 1 << 30) as filesystem:
        yield filesystem.path, driver


@pytest.fixture
def make(place: tuple[Path, str]) -> Iterator[Callable[[], Replica]]:
    """A function that makes a replica of one volume."""
    filesystem, driver = place
    ground = filesystem / f"ground-{next(_numbers)}"
    volume = ground / "v" / "vol"
    volume.parent.mkdir(parents=True)
    if driver == "btrfs":
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
    else:
        volume.mkdir()
    made: list[Replica] = []
    with Rig(ground / "rig", volume, driver) as rig:

        def one() -> Replica:
            number = len(made) + 1
            (ground / f"r{number}").mkdir()
            made.append(Replica(rig, ground / f"r{number}" / "rep", f"{number:032x}"))
            return made[-1]

        yield one
        for replica in made:
            replica.free()


def populate(volume: Path) -> None:
    for number in range(5):
        (volume / f"d{number}" / "sub").mkdir(parents=True)
        for each in range(6):
            (volume / f"d{number}" / "sub" / f"f{each}").write_bytes(os.urandom(3000 + each))
    (volume / "large").write_bytes(os.urandom(3 << 20))
    os.link(volume / "d0" / "sub" / "f0", volume / "second name")
    os.symlink("d0/sub/f1", volume / "link")
    os.setxattr(volume / "d1", "user.colour", b"blue")
    os.mkfifo(volume / "fifo")


def change(volume: Path) -> None:
    (volume / "d0" / "sub" / "f1").write_bytes(b"changed")
    with open(volume / "large", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"in the middle")
    os.rename(volume / "d2", volume / "d0" / "moved")
    (volume / "d3" / "sub" / "f3").unlink(missing_ok=True)
    os.chmod(volume / "d4" / "sub" / "f4", 0o640)
    os.link(volume / "d4" / "sub" / "f5", volume / "third name")
    os.setxattr(volume / "d1", "user.colour", b"green")
    (volume / "new").mkdir()
    (volume / "new" / "file").write_bytes(b"new")


def test_a_replica_is_filled_and_brought_up_to_date_under_its_readers(make: Callable[[], Replica]) -> None:
    replica = make()
    volume = replica.rig.path
    populate(volume)
    assert replica.sync().first
    assert compare(volume, replica.path) == []
    assert not is_writable(replica.path)
    held = os.open(replica.path / "d2", os.O_RDONLY)
    with open(replica.path / "d0" / "sub" / "f1", "rb") as reader:
        before = reader.read(100)
        change(volume)
        second = replica.sync()
        assert not second.first
        assert second.bytes < 200_000
        reader.seek(0)
        assert reader.read(100) == before
        assert sorted(os.listdir(held)) == ["sub"]
        assert (replica.path / "d0" / "sub" / "f1").read_bytes() == b"changed"
        with pytest.raises(OSError, match="Read-only file system"):
            os.open("written", os.O_CREAT | os.O_WRONLY, dir_fd=held)
    os.close(held)
    assert compare(volume, replica.path) == []
    assert not is_writable(replica.path)
    (status,) = replica.listed()
    assert (status.replica.phase, status.running, status.faults) == (SERVING, True, ())
    assert second.brought is not None
    assert status.replica.sequence == second.brought.sequence


def test_what_somebody_changed_in_it_is_found_and_comes_anew(make: Callable[[], Replica]) -> None:
    replica = make()
    volume = replica.rig.path
    populate(volume)
    replica.sync()
    replica.sync()  # brings nothing, and makes no new tree
    assert not (replica.place / "previous").exists()
    replica.free()
    subprocess.run(["btrfs", "property", "set", str(replica.path), "ro", "false"], check=False, capture_output=True)
    (finding,) = replica.findings()
    assert (finding.kind, finding.fixable) == ("replica", True)
    stamp = os.stat(replica.path / "large").st_mtime_ns
    with open(replica.path / "large", "r+b") as file:
        file.write(b"mine")
    os.utime(replica.path / "large", ns=(stamp, stamp))
    (replica.path / "mine").write_text("mine")
    (volume / "new").write_text("new")
    again = replica.sync()
    assert [notice for notice in replica.reporter.notices() if "was changed on its host" in notice]
    assert again.bytes < 3 << 20
    assert compare(volume, replica.path) == []
    assert not is_writable(replica.path)
    assert replica.findings() == ()


def test_a_clone_that_was_given_up_costs_a_comparison_and_not_a_copy(make: Callable[[], Replica]) -> None:
    replica = make()
    rig, volume = replica.rig, replica.rig.path
    populate(volume)
    replica.settings = dataclasses.replace(replica.settings, base_age=1)
    replica.sync()
    for lost in ("its clone, by age", "its clone, by room", "and its states"):
        (volume / "small").write_text(lost)
        replica.settings = dataclasses.replace(
            replica.settings, base_age=0 if "age" in lost else 1
        )  # from the next sync on
        if lost == "its clone, by room":
            rig.dump(inject=_short_of_room)
        else:
            time.sleep(1.1)
            rig.dump()  # tidies up, so the clone goes that is too old
        assert not list((rig.area / "clones").glob("replica-*"))
        if lost == "and its states":
            shutil.rmtree(rig.area / "replicas")
        synced = replica.sync()
        assert synced.bytes < 1000
        assert compare(volume, replica.path) == []
    with replica.source() as source:
        assert source.base == replica.listed()[0].replica.state_id
    with replica.agent() as agent:
        agent.send(messages.CleanHost(dry_run=False))
        with pytest.raises(RefusedError, match="a replica is on this host"):
            agent.receive()
    replica.remove(purge=False)
    assert compare(volume, replica.path) == []
    assert is_writable(replica.path)
    assert not replica.place.exists()
    assert not (rig.area / "replicas").exists()
    assert replica.listed() == []


def _short_of_room() -> None:
    vars(dump)["space_is_short"] = lambda _area: True


def test_a_slow_replica_keeps_nobody_waiting(make: Callable[[], Replica]) -> None:
    slow, other = make(), make()
    volume = slow.rig.path
    populate(volume)
    with slow.source() as source, slow.session() as session:
        sink = Held(session)
        with pytest.raises(Held.StandsStillError):
            source.dump(session.held, session.manifest, sink)
        assert sink.fed
        assert other.sync().first  # in the midst of the slow one's stream
        slow.rig.dump()
        assert compare(volume, other.path) == []
        with pytest.raises(BusyError):
            slow.sync()
    slow.sync()
    assert compare(volume, slow.path) == []


class Held:
    """A sink that takes one piece, and then nothing for ever."""

    class StandsStillError(Exception):
        """It stands still."""

    direct = False

    def __init__(self, sink: ReplicaSession) -> None:
        self._sink = sink
        self.fed = False

    def attend(self, timeout: float) -> bool:
        return bool(self._sink.attend(timeout))

    def open(self) -> None:
        self._sink.open()

    def feed(self, data: bytes) -> None:
        self._sink.feed(data)
        self.fed = True
        raise Held.StandsStillError

    def close(self) -> str:
        raise AssertionError("it never comes so far")


def test_a_path_where_nothing_can_be_exchanged_is_refused(make: Callable[[], Replica]) -> None:
    replica = make()
    for path, why in (
        (replica.rig.path / "in it", "volume"),
        (replica.rig.path.parent.parent, "contain"),
        (replica.rig.directory / "host" / "x", "contain|no directory"),
        (Path("/proc"), "mount point"),
    ):
        wrong = dataclasses.replace(replica, path=path)
        with pytest.raises((RefusedError, NotFoundError), match=why), _host_of(replica, wrong):
            raise AssertionError("it was begun")
    replica.path.mkdir()
    (replica.path / "somebody's").touch()
    with pytest.raises(RefusedError, match="not empty"), replica.session():
        raise AssertionError("it was begun")
    (replica.path / "somebody's").unlink()
    replica.sync()
    assert compare(replica.rig.path, replica.path) == []


@contextlib.contextmanager
def _host_of(replica: Replica, wrong: Replica) -> Iterator[ReplicaSession]:
    """The host is the volume's own; the replica is of another one."""
    wish = dataclasses.replace(wrong.wish(), uuid="f" * 32)
    with ForkHosts(replica.rig.directory / "host", replica.reporter, None).connect("source") as agent:
        yield ReplicaSession(agent, wish, replica.settings, begin=True)
