"""A lazy replica with a real mount: what a reader sees while it fills, when it is full, and when somebody fails meanwhile."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import judge, torture
from tests.browse.mounting import needs_fuse
from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.lazy.rig import lazy_replica

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
    root.mkdir()
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
            assert judge.compare(volume, replica.point, ignore=["holes", "project", "flags:Fmx"]) == []
            replica.clear_fault("slow")
            assert replica.await_end() == 0
            assert not replica.is_mounted()
            assert judge.compare(volume, replica.point, ignore=["holes"]) == []
            torture.unseal(replica.point)
    finally:
        torture.unseal(volume)
