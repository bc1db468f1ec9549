"""Dumps of a volume whose clones are trees of reflinked files: what the next dump costs, and that the driver can be changed."""

from __future__ import annotations

import dataclasses
import inspect
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from voltool.model import Consistency, Hooks
from voltool.tree.pieces import PieceReader
from voltool.tree.stamps import SETTLED, STAMP_SIZE
from voltool.tree.state import StateKeeper
from voltool.volumes import records
from voltool.volumes.reflink_index import CloneIndex
from voltool.volumes.reflink_passes import Pass, PassMaker

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
            start = inspect.signature(read).bind(self, *task).arguments["start"]
            assert start in (0, 8 * MIB), "what lies where it lay is not read, but for the first piece"
            return read(self, *task)  # type: ignore[arg-type]

        PieceReader.read = only_what_changed  # type: ignore[assignment,method-assign]

    dump = rig.dump(2, inject=refuse_the_rest)
    assert dump.totals.data_bytes == 4096
    assert rig.stored_bytes(dump) < 8000
    assert rig.restore(dump, tmp_path / "restored") == ()
    assert compare(rig.path, tmp_path / "restored", ignore=["holes"]) == []


def test_what_moves_ahead_of_every_pass_is_not_lost(rig: Rig, tmp_path: Path) -> None:
    """In each pass a directory moves from where the pass will come to where it has been."""
    for name in ("a", "b"):
        (rig.path / name).mkdir()
    (rig.path / "a/traveller").mkdir()
    (rig.path / "a/traveller/file").write_bytes(b"never lost")
    time.sleep(0.05)
    rig.dump(0)

    def keep_travelling() -> None:
        run, visit = PassMaker.run, PassMaker._directory
        order: list[bytes] = []

        def run_from_ahead(maker: PassMaker, known: CloneIndex | None) -> Pass:
            if len(order) > 1:
                _travel(rig.path, order[1])
            del order[:]
            return run(maker, known)

        def visit_and_move(maker: PassMaker, step: Any) -> None:
            visit(maker, step)
            if step.path in (b"a", b"b"):
                order.append(step.path)
                if len(order) == 1:
                    _travel(rig.path, step.path)

        PassMaker.run = run_from_ahead  # type: ignore[assignment,method-assign]
        PassMaker._directory = visit_and_move  # type: ignore[assignment,method-assign]

    dump = rig.dump(1, inject=keep_travelling)
    assert dump.header.consistency is Consistency.LIVE
    rig.restore(dump, tmp_path / "restored")
    assert [path.read_bytes() for path in (tmp_path / "restored").glob("?/traveller/file")] == [b"never lost"]
    rig.restore(rig.dump(2), tmp_path / "at rest")
    assert compare(rig.path, tmp_path / "at rest", ignore=["holes"]) == []


def _travel(volume: Path, to: bytes) -> None:
    for place in volume.glob("?/traveller"):
        place.rename(volume / os.fsdecode(to) / "traveller")


def test_what_was_not_at_rest_is_read_again(rig: Rig) -> None:
    with (rig.path / "many/7").open("r+b") as file:
        file.write(b"begun")
        file.flush()
        dump = rig.dump(0)
        (kept,) = (rig.area / "clones").glob("*.index")
        assert not CloneIndex(bytes(kept)).settled((rig.path / "many/7").stat().st_ino)
    state = StateKeeper(bytes(rig.area / "states")).open(dump.totals.state_id)
    assert state is not None
    assert state.stamps is not None
    settled = {
        name: state.stamps.find((rig.path / name).stat().st_ino) for name in ("many/7", "many/8", "large", "many")
    }
    state.close()
    assert {name: home is not None and home[16 + STAMP_SIZE] for name, home in settled.items()} == {
        "many/7": 0,
        "many/8": SETTLED,
        "large": SETTLED,
        "many": SETTLED,
    }


def test_most_of_a_clone_is_made_before_the_hook_that_stops_the_users(rig: Rig) -> None:
    seen = rig.directory / "seen"
    hooks = Hooks(
        before_clone=("sh", "-c", f"ls -A '{rig.area}/clones' > '{seen}'; echo stopped > '{rig.path}/many/7'")
    )
    dump = rig.dump(0, hooks=hooks)
    assert seen.read_text().split() == [".prepared", ".prepared.index"]
    assert dump.header.consistency is Consistency.SNAPSHOT
    (clone,) = (path for path in (rig.area / "clones").iterdir() if path.is_dir())
    assert (clone / "many/7").read_text() == "stopped\n"


def test_the_driver_can_be_changed_without_reading_everything_again(rig: Rig) -> None:
    rig.dump(0)
    for driver in ("directory", "reflink"):
        home = records.open_home(os.fsencode(rig.directory / "host"), rig.volume.uuid, rig.volume.path)
        home.save(dataclasses.replace(home.record, driver=driver))
        dump = rig.dump(1)
        assert dump.header.driver == driver
        assert rig.stored_bytes(dump) < 2000
