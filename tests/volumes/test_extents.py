"""What two reflinked files differ in, told by the file system, against what they really differ in."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Callable

import pytest

from tests.filesystems import LoopFilesystem
from voltool.volumes.extents import MappedExtent, differing, mapped_extents
from voltool.volumes.reflink_copy import FICLONE

BLOCK = 4096


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_every_difference_is_told_and_little_else(make_filesystem: Callable[..., LoopFilesystem], kind: str) -> None:
    root = make_filesystem(kind).path
    chance = random.Random(7)
    (root / "old").write_bytes(os.urandom(1024 * BLOCK))
    with (root / "old").open("rb") as old, (root / "new").open("w+b", buffering=0) as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        assert differing(mapped_extents(old.fileno()), mapped_extents(new.fileno())) == []
        touched = set(chance.sample(range(1024), 40))
        for block in touched:
            os.pwrite(new.fileno(), os.urandom(BLOCK), block * BLOCK)
        ranges = differing(mapped_extents(old.fileno()), mapped_extents(new.fileno()))
    told = {block for offset, length in ranges for block in range(offset // BLOCK, -(-(offset + length) // BLOCK))}
    assert touched <= told
    assert len(told) < 200


def test_holes_and_uncertain_extents() -> None:
    old = [MappedExtent(0, 10, 5), MappedExtent(20, 10, None)]
    new = [MappedExtent(0, 4, 5), MappedExtent(4, 8, 9), MappedExtent(20, 10, None)]
    assert differing(old, new) == [(4, 8), (20, 10)]
    assert differing(old[:1], old[:1]) == []
