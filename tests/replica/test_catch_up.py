"""Replicas on real file systems: filled, brought up to date, swapped under their readers, read-only, repaired."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.replica.rig import Replica, is_writable

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


def test_a_replica_is_filled_and_brought_up_to_date(make: Callable[[], Replica]) -> None:
    replica = make()
    volume = replica.rig.path
    populate(volume)
    first = replica.sync()
    assert first.first
    assert compare(volume, replica.path) == []
    assert not is_writable(replica.path)
    for _round in range(2):
        change(volume)
        second = replica.sync()
        assert not second.first
        assert compare(volume, replica.path) == []
        assert second.bytes < 200_000
        assert not is_writable(replica.path)
        for name in ("d0/moved", "new", "third name"):
            subprocess.run(["rm", "-rf", str(volume / name)], check=True)
        (volume / "d2").mkdir()
    replica.sync()
    assert compare(volume, replica.path) == []
