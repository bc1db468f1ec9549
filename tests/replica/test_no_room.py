"""A replica whose file system has no room for what changed twice: the last good state is served, and nothing is left over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import MIB, LoopFilesystem
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
            with pytest.raises(SpaceError):
                replica.sync()
            assert (replica.path / "large").read_bytes() == first
            with replica.session():  # tidies up what the interrupted one has left
                pass
            assert os.statvfs(filesystem.path).f_bavail > free - 256
            (volume / "large").write_bytes(b"small")
            replica.sync()
            assert (replica.path / "large").read_bytes() == b"small"
        finally:
            replica.free()
