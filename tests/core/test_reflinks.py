"""Dumps of a volume whose clones are trees of reflinked files: what the next dump costs, and that the driver can be changed."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from voltool.model import Consistency
from voltool.tree.pieces import PieceReader
from voltool.volumes import records

MIB = 1 << 20


@pytest.fixture(params=["xfs", "btrfs"])
def rig(
    request: pytest.FixtureRequest, make_filesystem: Callable[..., LoopFilesystem], make_rig: Callable[..., Rig]
) -> Rig:
    rig = make_rig(make_filesystem(request.param).path, "reflink")
    generator = random.Random(3)
    (rig.path / "many").mkdir()
    for number in range(200):
        (rig.path / "many" / str(number)).write_bytes(generator.randbytes(5000))
    (rig.path / "large").write_bytes(generator.randbytes(24 * MIB))
    time.sleep(0.05)
    return rig


def test_an_incremental_has_what_changed_and_no_more(rig: Rig, tmp_path: Path) -> None:
    assert rig.dump(0).header.consistency is Consistency.SNAPSHOT
    assert rig.stored_bytes(rig.dump(1)) < 2000
    (rig.path / "many").rename(rig.path / "moved")
    with (rig.path / "large").open("r+b") as file:
        file.seek(9 * MIB)
        file.write(os.urandom(4096))
    time.sleep(0.05)

    def refuse_the_rest() -> None:
        read = PieceReader.read

        def only_what_changed(self: PieceReader, *task: object) -> object:
            assert task[4] in (0, 8 * MIB), "what lies where it lay is not read, but for the first piece"
            return read(self, *task)  # type: ignore[arg-type]

        PieceReader.read = only_what_changed  # type: ignore[assignment,method-assign]

    dump = rig.dump(2, inject=refuse_the_rest)
    assert dump.totals.data_bytes == 4096
    assert rig.stored_bytes(dump) < 8000
    assert rig.restore(dump, tmp_path / "restored") == ()
    assert compare(rig.path, tmp_path / "restored", ignore=["holes"]) == []


def test_the_driver_can_be_changed_without_reading_everything_again(rig: Rig) -> None:
    rig.dump(0)
    for driver in ("directory", "reflink"):
        home = records.open_home(os.fsencode(rig.directory / "host"), rig.volume.uuid, rig.volume.path)
        home.save(dataclasses.replace(home.record, driver=driver))
        dump = rig.dump(1)
        assert dump.header.driver == driver
        assert rig.stored_bytes(dump) < 2000
