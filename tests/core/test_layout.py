"""Holes and zeros are the same bytes and not the same layout: a change of layout alone travels, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.judge import compare


@pytest.mark.parametrize(("size", "at"), [(4 << 20, 100_000), (60_000, 8192)], ids=["large", "small"])
def test_zeros_written_over_a_hole_come_back_as_data(tmp_path: Path, size: int, at: int) -> None:
    volume = tmp_path / "v" / "vol"
    volume.mkdir(parents=True)
    with open(volume / "file", "wb") as file:
        file.truncate(size)
    with Rig(tmp_path / "rig", volume, "directory") as rig:
        rig.dump(0)
        with open(volume / "file", "r+b") as file:
            file.seek(at)
            file.write(bytes(30_000))
        point = rig.dump(1)
        rig.restore(point, tmp_path / "restored")
    assert compare(volume, tmp_path / "restored") == []
