"""A place to lock, on ext4."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.lock.places import Place
from voltool.volumes.lock.hold import in_container


@pytest.fixture
def place(make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path) -> Iterator[Place]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with Place(make_filesystem("ext4"), tmp_path / "host") as made:
        yield made
