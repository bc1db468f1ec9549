"""Promises in bytes: how large an incremental dump is, and how much memory a dump takes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from voltool.tree import opening
from voltool.tree.walk import TICK_NS

MIB = 1 << 20
DRIVERS = ["directory", "btrfs"]


def hasty() -> None:
    """Nobody writes here for minutes at a time: in a snapshot, too, what is older than a tick is settled."""
    opening.FRESH_NS = TICK_NS


@pytest.mark.parametrize("driver", DRIVERS)
def test_ten_changed_files_of_100_000(
    btrfs: Path, make_rig: Callable[..., Rig], driver: str, record_property: Callable[[str, object], None]
) -> None:
    rig = make_rig(btrfs, driver)
    data = random.Random(1).randbytes(4000)
    for directory in range(500):
        where = os.path.join(rig.path, f"directory-{directory}")
        os.mkdir(where)
        for number in range(200):
            with open(os.path.join(where, f"file-{number}"), "wb", buffering=0) as file:
                file.write(data[: 1 + (directory * 7 + number) % 200])
    time.sleep(0.1)
    rig.dump(0, inject=hasty)
    for number in range(10):
        (rig.path / f"directory-{number * 50}" / f"file-{number}").write_bytes(os.urandom(4000))
    dump = rig.dump(1, inject=hasty)
    record_property("stored_bytes", dump.totals.stored_bytes)
    assert dump.totals.data_bytes == 40_000
    assert rig.stored_bytes(dump) == dump.totals.stored_bytes
    assert dump.totals.stored_bytes < 40_000 + 65_536
    assert dump.totals.entries == 100_500


@pytest.mark.parametrize("driver", DRIVERS)
def test_16_mib_of_random_blocks_in_1_gib(
    make_filesystem: Callable[..., LoopFilesystem], make_rig: Callable[..., Rig], driver: str
) -> None:
    rig = make_rig(make_filesystem("btrfs", 4 << 30, mount_options=["compress=lzo"]).path, driver)
    image = rig.path / "image"
    with image.open("wb") as file:
        for number in range(1 << 18):
            file.write(b"block %08x " % number * 256)
    time.sleep(0.1)
    rig.dump(0, inject=hasty)
    chosen = random.Random(2).sample(range(262_144), 4096)
    with image.open("r+b") as file:
        for block in chosen:
            file.seek(block * 4096)
            file.write(os.urandom(4096))
    dump = rig.dump(1, inject=hasty)
    assert 16 * MIB <= dump.totals.data_bytes <= 17 * MIB
    assert rig.stored_bytes(dump) <= 20 * MIB
    rig.restore(dump, rig.directory.parent / "restored")
    assert compare(rig.path, rig.directory.parent / "restored", ignore={"rsync"}) == []


@pytest.mark.parametrize("level", [0, 1])
def test_memory_does_not_grow_with_a_directory(ext4: Path, make_rig: Callable[..., Rig], level: int) -> None:
    """250,000 names in one directory against 100,000: what fills until it spills is full by then."""
    peaks = []
    for count in (100_000, 250_000):
        rig = make_rig(ext4)
        for number in range(count):
            os.symlink("x", rig.path / f"a name of forty characters or so {number:08d}")
        if level:
            rig.dump(0)
            os.symlink("x", rig.path / "one more")
        rig.hosts.peak = 0
        rig.dump(level)
        peaks.append(rig.hosts.peak)
    assert peaks[1] - peaks[0] < 48 * MIB, [peak // MIB for peak in peaks]
