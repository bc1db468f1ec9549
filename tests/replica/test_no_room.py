"""A replica whose file system has no room for what changed twice: the last good state is served, and nothing is left over."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import MIB, LoopFilesystem
from tests.judge import compare
from tests.replica.rig import Replica
from voltool.errors import SpaceError


def test_without_room_the_last_good_state_is_served(tmp_path: Path) -> None:
    volume = tmp_path / "v" / "vol"
    volume.mkdir(parents=True)
    first, second = os.urandom(24 * MIB), os.urandom(24 * MIB)
    (volume / "large").write_bytes(first)
    with LoopFilesystem("ext4", 56 * MIB) as filesystem, Rig(tmp_path / "rig", volume) as rig:
        replica = Replica(rig, filesystem.path / "rep", f"{1:032x}")
        try:
            replica.sync()
            free = os.statvfs(filesystem.path).f_bavail
            (volume / "large").write_bytes(second)
            with pytest.raises(SpaceError, match="no room for the replica's next state") as failed:
                replica.sync()
            assert failed.value.where.endswith(str(replica.path))
            said = re.search(
                r"up to ([0-9,]+) bytes are needed and ([0-9,]+) were free, so ([0-9,]+) are", failed.value.why
            )
            assert said is not None
            needed, free_then, missing = (int(number.replace(",", "")) for number in said.groups())
            assert (needed, missing) == (2 * len(second), needed - free_then)
            assert "voltool replica sync vol" in failed.value.remedy
            assert (replica.path / "large").read_bytes() == first
            with replica.session():  # tidies up what the interrupted one has left
                pass
            assert os.statvfs(filesystem.path).f_bavail > free - 256
            (volume / "large").write_bytes(b"small")
            replica.sync()
            assert (replica.path / "large").read_bytes() == b"small"
        finally:
            replica.free()


def test_without_room_for_the_first_copy_it_goes_on_where_there_is(tmp_path: Path) -> None:
    volume = tmp_path / "v" / "vol"
    volume.mkdir(parents=True)
    for name in "abcd":
        (volume / name).write_bytes(os.urandom(8 * MIB))
    with LoopFilesystem("ext4", 64 * MIB) as filesystem, Rig(tmp_path / "rig", volume) as rig:
        replica = Replica(rig, filesystem.path / "rep", f"{1:032x}")
        ballast = filesystem.path / "ballast"
        ballast.write_bytes(bytes(32 * MIB))
        try:
            with pytest.raises(SpaceError, match="no room for the replica's first copy") as failed:
                replica.sync()
            assert re.search(r"so [0-9,]+ are missing$", failed.value.why), failed.value.why
            ballast.unlink()
            replica.sync()
            assert compare(volume, replica.path) == []
        finally:
            replica.free()
