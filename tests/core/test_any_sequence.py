"""The core property: whatever happens to a tree, and whenever it is dumped at whatever level, every point can be restored.

The judge (rsync, and a comparer of its own) and the copies it compares with use no code of voltool. How many sequences
are tried on each file system is said by VOLTOOL_EXAMPLES; the default suits a CI of two cores.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.core import copying
from tests.core.harness import Rig
from tests.core.operations import Operation, apply, operations
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from voltool.model import StoredDump
from voltool.tree import opening, recordfile, stamps
from voltool.tree.walk import TICK_NS
from voltool.volumes.removal import remove_tree

EXAMPLES = int(os.environ.get("VOLTOOL_EXAMPLES", "8"))
PLACES = [
    ("ext4", "directory"),
    ("xfs", "directory"),
    ("btrfs", "directory"),
    ("btrfs", "btrfs"),
    ("xfs", "reflink"),
    ("btrfs", "reflink"),
]


@dataclass(frozen=True)
class DumpNow:
    """Dump at ``level``. ``rest``: the tree has been at rest for longer than a tick. ``forget``: the host has lost its
    home stamps. ``hasty``: in a snapshot, what is older than a tick counts as settled (nobody here writes for minutes).
    ``small``: records and stamps lie in blocks of a few, so that some can be passed on as they are."""

    level: int
    rest: bool = True
    forget: bool = False
    hasty: bool = True
    small: bool = True


STEPS = st.lists(
    st.one_of(
        st.lists(operations(), min_size=1, max_size=12),
        st.builds(
            DumpNow,
            st.integers(0, 4),
            st.booleans(),
            st.integers(0, 7).map(lambda n: n == 7),
            st.booleans(),
            st.booleans(),
        ),
    ),
    min_size=2,
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
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(steps=STEPS)
def test_every_point_of_any_history_is_restored(
    place: tuple[Path, str], steps: list[list[Operation] | DumpNow]
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
        points: list[StoredDump] = []
        for step in [*steps, DumpNow(1)]:
            if isinstance(step, DumpNow):
                points.append(_dump(rig, step))
                copying.copy_tree(os.fsencode(volume), b"%s/copies/%d" % (os.fsencode(ground), len(points) - 1))
            else:
                for operation in step:
                    apply(os.fsencode(volume), operation)
        assert not [notice for notice in rig.reporter.notices() if "full dump" not in notice and "stamps" not in notice]
        for number, point in enumerate(points):
            target = ground / f"restored-{number}"
            assert rig.restore(point, target) == ()
            assert compare(ground / "copies" / str(number), target) == [], f"point {number}, level {point.header.level}"


def _dump(rig: Rig, step: DumpNow) -> StoredDump:
    if step.forget:
        rig.forget_states()
    if step.rest:
        time.sleep(1.5 * TICK_NS / 1e9)

    def set_up() -> None:
        if step.hasty:
            opening.FRESH_NS = TICK_NS
        if step.small:
            recordfile._BLOCK = 300
            stamps._AT_A_TIME = 2

    dump = rig.dump(step.level, inject=set_up)
    assert dump.problems == ()
    return dump


def _clear(ground: Path, driver: str) -> None:
    if not ground.exists():
        return
    if driver == "btrfs":
        for path in [*ground.glob("v/.voltool/*/clones/*"), ground / "v" / "vol"]:
            if path.is_dir():
                subprocess.run(["btrfs", "-q", "subvolume", "delete", str(path)], check=True)
    remove_tree(os.fsencode(ground))
