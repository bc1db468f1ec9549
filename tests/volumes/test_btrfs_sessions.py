"""Several sessions about one volume, as those of its replicas: one lists the clones while another makes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.volume import make_volume
from voltool.volumes.btrfs import BtrfsDriver


def test_a_clone_that_is_listed_while_it_is_noted_is_made_all_the_same(
    make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = make_volume(make_filesystem("btrfs").path, "btrfs", tmp_path / "state")
    driver, other, real, seen = BtrfsDriver(), BtrfsDriver(), os.fsync, list[str]()

    def fsync(descriptor: int) -> None:
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if sum(path.endswith("/one.json.new") for path in seen) == 2 and seen[-1].endswith("/one.json.new"):
            assert [clone.label for clone in other.clones(volume)] == ["one"]
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    made = driver.clone(volume, "one")
    assert driver.clones(volume) == [made]
