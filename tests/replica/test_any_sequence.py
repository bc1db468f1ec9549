"""The property of a catch-up replica: whatever happens to the volume, whenever it is synced, and wherever that is cut off,
what the replica serves is the volume as it was at the last good sync; never anything in between. So is the volume that it
becomes when it is promoted."""

from __future__ import annotations

import itertools
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
from tests.replica.rig import Replica
from voltool.tree import opening, recordfile, stamps
from voltool.tree.walk import TICK_NS

EXAMPLES = int(os.environ.get("VOLTOOL_EXAMPLES", "2"))
#: Of what was preallocated XFS shows as data what happens to be in memory (lseek(2), SEEK_DATA), which a reflink changes.
CACHED = ("holes",)
_numbers = itertools.count()


@dataclass(frozen=True)
class SyncNow:
    """``cut``: it is cut off before the swap. ``drop``: the home has given up its clone. ``forget``: and its states."""

    cut: bool = False
    drop: bool = False
    forget: bool = False


STEPS = st.lists(
    st.one_of(
        st.lists(operations(), min_size=1, max_size=10),
        st.builds(SyncNow, *[st.integers(0, 4).map(lambda n: n == 4)] * 3),
    ),
    min_size=2,
    max_size=9,
)


@pytest.fixture(scope="module", params=["ext4-directory", "xfs-reflink", "btrfs-btrfs"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Path, str]]:
    kind, _dash, driver = request.param.partition("-")
    with LoopFilesystem(kind, 2 << 30) as filesystem:
        yield filesystem.path, driver


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(steps=STEPS, cut=st.booleans())
def test_a_replica_is_the_volume_at_the_last_good_sync(
    place: tuple[Path, str], steps: list[list[Operation] | SyncNow], *, cut: bool
) -> None:
    filesystem, driver = place
    ground = filesystem / f"ground-{next(_numbers)}"
    volume = ground / "v" / "vol"
    for made in (volume.parent, ground / "r", ground / "copies"):
        made.mkdir(parents=True)
    if driver == "btrfs":
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
    else:
        volume.mkdir()
    with Rig(ground / "rig", volume, driver) as rig:
        replica = Replica(rig, ground / "r" / "rep", f"{1:032x}", inject=_pass_on, inject_home=_set_up)
        good = Path()
        try:
            for number, step in enumerate([SyncNow(), *steps, SyncNow()]):
                if isinstance(step, SyncNow):
                    good = _sync(replica, step, good, ground / "copies" / str(number))
                else:
                    for operation in step:
                        apply(os.fsencode(volume), operation)
                    assert compare(good, replica.path, ignore=CACHED) == []
            _promote(replica, good, cut=cut)
        finally:
            replica.free()


def _sync(replica: Replica, step: SyncNow, good: Path, copy: Path) -> Path:
    """Sync as ``step`` says; the copy that the replica must equal from then on."""
    time.sleep(1.5 * TICK_NS / 1e9)
    place = replica.rig.area / "replicas" / replica.replica_id
    if step.drop:
        for clone in (replica.rig.area / "clones").glob("replica-*"):
            if clone.is_dir():
                subprocess.run(["btrfs", "-q", "subvolume", "delete", str(clone)], check=False, capture_output=True)
    if step.forget and place.exists():
        subprocess.run(["rm", "-rf", str(place / "states"), str(place / "bases.json")], check=True)
    if step.cut:
        replica.receive()
        if good != Path():
            assert compare(good, replica.path, ignore=CACHED) == []
        return good
    copying.copy_tree(os.fsencode(replica.rig.path), os.fsencode(copy))
    assert replica.sync().problems == ()
    assert compare(copy, replica.path) == []
    return copy


def _promote(replica: Replica, good: Path, *, cut: bool) -> None:
    """Whatever has happened to its home since, the replica is the volume as it was at the last good sync; its first dump brings
    nothing."""
    for name in os.listdir(replica.rig.path):
        os.rename(replica.rig.path / name, replica.rig.path / f"{name[:200]} since")
    if cut:
        replica.receive()
    replica.promote()
    assert compare(good, replica.path, ignore=CACHED) == []
    dumped = replica.dump_promoted().result
    assert dumped.totals.data_bytes == 0
    (replica.path / "writable").touch()


def _set_up() -> None:
    opening.FRESH_NS = TICK_NS
    _pass_on()


def _pass_on() -> None:
    """Records and stamps lie in blocks of a few, so that some are passed on as they are."""
    recordfile._BLOCK = 300
    stamps._AT_A_TIME = 2
