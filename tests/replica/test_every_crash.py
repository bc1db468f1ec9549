"""Every crash of a replica's host: killed before an operation of a first copy, a sync with its swap, a removal; then gone on.

What is promised, and looked at after each: what is served is the old state or the new one, whole; the next sync comes to its
end from there, and what is served cannot be written to. VOLTOOL_CRASH_STEP says at which of the operations (some ninety in a
sync): 1 is at each, for which there is no time in each run of the CI.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.replica.crashing import Puppet, Recorded, record, run, tree_of, wipe
from tests.replica.rig import Replica, is_writable

STEP = int(os.environ.get("VOLTOOL_CRASH_STEP", "9"))


def _first(volume: Path) -> None:
    (volume / "a" / "deep").mkdir(parents=True)
    (volume / "a" / "deep" / "file").write_bytes(b"one")
    (volume / "same").write_bytes(b"same")
    os.link(volume / "same", volume / "a" / "same too")
    os.symlink("same", volume / "link")


def _second(volume: Path) -> None:
    os.rename(volume / "a" / "deep", volume / "moved")
    (volume / "moved" / "file").write_bytes(b"two")
    os.chmod(volume / "same", 0o600)
    (volume / "link").unlink()
    (volume / "new").mkdir()


def _third(volume: Path) -> None:
    (volume / "moved" / "file").write_bytes(b"three")
    (volume / "new").rmdir()
    os.rename(volume / "same", volume / "other name")


@pytest.fixture(scope="module", params=["tmpfs", "btrfs"])
def ground(request: pytest.FixtureRequest) -> Iterator[tuple[Replica, Recorded]]:
    """A replica that does not exist yet, and what is to come into it."""
    with LoopFilesystem(request.param) as filesystem:
        volume = filesystem.path / "v" / "vol"
        for made in (volume.parent, filesystem.path / "r"):
            made.mkdir(parents=True)
        if request.param == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
        else:
            volume.mkdir()
        with Rig(filesystem.path / "rig", volume, "btrfs" if request.param == "btrfs" else "directory") as rig:
            replica = Replica(rig, filesystem.path / "r" / "rep", f"{1:032x}")
            yield replica, record(replica, [_first, _second, _third])
            wipe(replica)


@pytest.mark.parametrize("start", [-1, 1])
def test_a_killed_sync_serves_a_whole_state_and_is_gone_on_from(ground: tuple[Replica, Recorded], start: int) -> None:
    replica, recorded = ground
    for point in itertools.count(STEP - 1, STEP):
        wipe(replica)
        if start >= 0:
            run(replica, Puppet(recorded, start))
        ended = run(replica, Puppet(recorded, start + 1), kill_at=point)
        served = recorded.of(tree_of(replica.path)) if replica.path.exists() else None
        allowed = {start + 1} if ended else {start, start + 1} if start >= 0 else {None, 0}
        assert served in allowed, f"killed at point {point}"
        run(replica, Puppet(recorded, 2))
        assert recorded.of(tree_of(replica.path)) == 2, f"killed at point {point}"
        assert not is_writable(replica.path), f"killed at point {point}"
        if ended:
            break


def test_a_killed_removal_is_gone_on_from(ground: tuple[Replica, Recorded]) -> None:
    replica, recorded = ground
    for point in itertools.count(STEP - 1, STEP):
        wipe(replica)
        run(replica, Puppet(recorded, 1))
        ended = run(replica, Puppet(recorded, 1, remove=True), kill_at=point, begin=False)
        run(replica, Puppet(recorded, 1, remove=True), begin=False)
        assert [path for path in (replica.path, replica.place) if path.exists()] == [], f"killed at point {point}"
        if ended:
            break
