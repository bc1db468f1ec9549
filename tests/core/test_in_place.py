"""The core property of a restore in place: from any state, to any point there is, and what the dump does not have stays."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.core import copying
from tests.core.harness import Rig
from tests.core.operations import Operation, apply, operations
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from voltool.backup.inplace import InPlaceOutcome, InPlaceWish, restore_in_place
from voltool.errors import RefusedError
from voltool.model import StoredDump
from voltool.tree.walk import TICK_NS
from voltool.volumes.removal import remove_tree

EXAMPLES = int(os.environ.get("VOLTOOL_EXAMPLES", "3"))
PLACES = [("ext4", "directory"), ("xfs", "directory"), ("btrfs", "btrfs")]


@dataclass(frozen=True)
class DumpNow:
    level: int


@dataclass(frozen=True)
class BringBack:
    """To the point ``which``; with ``delete`` exactly to it."""

    which: int
    delete: bool


STEPS = st.lists(
    st.one_of(
        st.lists(operations(), min_size=1, max_size=12),
        st.builds(DumpNow, st.integers(0, 4)),
        st.builds(BringBack, st.integers(0, 7), st.booleans()),
    ),
    min_size=3,
    max_size=14,
)


@pytest.fixture(scope="module", params=PLACES, ids=["-".join(place) for place in PLACES])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Path, str]]:
    kind, driver = request.param
    with LoopFilesystem(kind, 2 << 30) as filesystem:
        yield filesystem.path, driver


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(steps=STEPS)
def test_any_state_becomes_any_point(
    place: tuple[Path, str], steps: list[list[Operation] | DumpNow | BringBack]
) -> None:
    filesystem, driver = place
    ground = filesystem / "ground"
    _clear(ground, driver)
    volume = ground / "v" / "vol"
    volume.parent.mkdir(parents=True)
    (ground / "copies").mkdir()
    if driver == "btrfs":
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
    else:
        volume.mkdir()
    with Rig(ground / "rig", volume, driver) as rig:
        points = [_dump(rig, ground, 0, 0)]
        for step in [*steps, BringBack(0, delete=True), DumpNow(1)]:
            if isinstance(step, DumpNow):
                points.append(_dump(rig, ground, step.level, len(points)))
            elif isinstance(step, BringBack):
                which = step.which % len(points)
                _bring_back(rig, points[which], ground / "copies" / str(which), delete=step.delete)
            else:
                for operation in step:
                    apply(os.fsencode(volume), operation)
        # The home stamps have not been made to lie: what the last level has is what stands.
        assert rig.restore(points[-1], ground / "restored") == ()
        assert compare(volume, ground / "restored") == []


def bring_back(rig: Rig, point: StoredDump, **wish: Any) -> InPlaceOutcome:
    path = os.fsencode(rig.path)
    return restore_in_place(rig.world, point, "local", path, InPlaceWish(**wish), lambda _plan: True)


def _bring_back(rig: Rig, point: StoredDump, copy: Path, *, delete: bool) -> None:
    others = {
        path: os.lstat(path) for path in _paths(rig.path) if not os.path.lexists(copy / path.relative_to(rig.path))
    }
    blocked = [path for path in _paths(rig.path) if _blocks(path, copy / path.relative_to(rig.path))]
    try:
        outcome = bring_back(rig, point, delete=delete)
    except RefusedError:
        assert blocked
        assert not delete
        return
    assert outcome.problems == ()
    left = [] if delete else [path for path in others if os.path.lexists(path)]
    if delete:
        assert compare(copy, rig.path, ignore={"holes"}) == []
        return
    gone = [path for path in others if path not in left]
    assert not gone, "without --delete something has gone"
    for path, before in others.items():
        after = os.lstat(path)
        assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    found = compare(copy, rig.path, ignore={"holes", "rsync", "links"})
    assert [line for line in found if not line.startswith("only in the second")] == []


def _blocks(path: Path, wanted: Path) -> bool:
    """Whether a directory with content stands where something else is to be."""
    return (
        stat.S_ISDIR(os.lstat(path).st_mode)
        and bool(os.listdir(path))
        and os.path.lexists(wanted)
        and not stat.S_ISDIR(os.lstat(wanted).st_mode)
    )


def _paths(root: Path) -> list[Path]:
    found = []
    for directory, directories, files in os.walk(root):
        if Path(directory) == root and ".voltool" in directories:
            directories.remove(".voltool")
        found += [Path(directory) / name for name in directories + files]
    return found


def _dump(rig: Rig, ground: Path, level: int, number: int) -> StoredDump:
    time.sleep(1.5 * TICK_NS / 1e9)
    dump = rig.dump(level)
    copying.copy_tree(os.fsencode(rig.path), b"%s/copies/%d" % (os.fsencode(ground), number))
    return dump


def _clear(ground: Path, driver: str) -> None:
    if not ground.exists():
        return
    if driver == "btrfs":
        for path in [*ground.glob("v/.voltool/*/clones/*"), ground / "v" / "vol"]:
            if path.is_dir():
                subprocess.run(["btrfs", "-q", "subvolume", "delete", str(path)], check=True)
    remove_tree(os.fsencode(ground))
