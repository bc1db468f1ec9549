"""File systems that all tests of a module share, and a rig on a fresh volume for each test."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem

_numbers = itertools.count()


@pytest.fixture(scope="module")
def ext4() -> Iterator[Path]:
    with LoopFilesystem("ext4", 3 << 30, mkfs_options=["-i", "4096"]) as filesystem:
        yield filesystem.path


@pytest.fixture(scope="module")
def btrfs() -> Iterator[Path]:
    with LoopFilesystem("btrfs", 4 << 30) as filesystem:
        yield filesystem.path


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """A function that makes a rig on a fresh volume of a file system (``Rig``'s arguments after the path)."""
    with contextlib.ExitStack() as stack:

        def make(filesystem: Path, driver: str = "directory", excludes: tuple[bytes, ...] = ()) -> Rig:
            ground = filesystem / f"ground-{next(_numbers)}"
            (ground / "v").mkdir(parents=True)
            volume = ground / "v" / "vol"
            if driver == "btrfs":
                subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
            else:
                volume.mkdir()
            return stack.enter_context(Rig(ground / "rig", volume, driver, excludes))

        yield make


@pytest.fixture
def rig(ext4: Path, make_rig: Callable[..., Rig]) -> Rig:
    """A rig on a fresh directory on ext4."""
    return make_rig(ext4)
