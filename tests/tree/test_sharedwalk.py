"""A walk in several processes finds what a walk alone does, whatever is in the way."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from voltool.spool import SortedSpool
from voltool.tree import sharedwalk, walk
from voltool.tree.sharedwalk import SharedWalk
from voltool.tree.walk import DIRECTORY_AT, SCAN_SIZE, TICK_NS, Walker, WalkResult


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Hard links between directories, holes, a symlink, a long and an empty directory, something mounted."""
    root = tmp_path / "tree"
    for outer in range(12):
        for inner in range(4):
            directory = root / f"{outer}" / f"{inner}" / "deep"
            directory.mkdir(parents=True)
            (directory / "file").write_bytes(b"x" * (outer * 100 + inner))
            (directory.parent / "same").hardlink_to(directory / "file")
    for number in range(30):
        (root / "3" / f"long-{number}").symlink_to("nowhere")
    (root / "5" / "empty").mkdir()
    with (root / "7" / "holes").open("wb") as file:
        file.truncate(5 << 20)
        file.seek(2 << 20)
        file.write(b"data")
    mounted = root / "9" / "1" / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    (mounted / "not-ours").touch()
    time.sleep(3 * TICK_NS / 1e9)  # what is younger is listed twice, and counted twice
    try:
        yield root
    finally:
        subprocess.run(["umount", mounted], check=True)


def _found(kind: type[Walker], root: Path, *, live: bool, excludes: list[bytes]) -> tuple[object, ...]:
    """What a walk came to, without the indexes of directories, which depend on the order of listing."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with SortedSpool(os.fsencode(root.parent)) as spool:
            ticks = lambda _entries, _size: None  # noqa: E731
            result = kind(descriptor, spool, live=live, excludes=excludes, tick=ticks).walk()
            return (
                sorted(_placed(result)), result.entries, result.file_bytes, result.sparse, result.problems,
                result.fuzzy, sorted(result.skipped_mounts),
            )  # fmt: skip
    finally:
        os.close(descriptor)


def _placed(result: WalkResult) -> Iterator[bytes]:
    for record in result.listings():
        path = result.table.path(int.from_bytes(record[DIRECTORY_AT:SCAN_SIZE], "big"))
        inode = b"mounted " if record[0] & 0x80 else record[:8]  # a number that stands for what is mounted
        yield inode + record[8:DIRECTORY_AT] + path + b"\0" + record[SCAN_SIZE:]


@pytest.mark.parametrize("live", [False, True])
def test_it_finds_what_a_walk_alone_finds(tree: Path, monkeypatch: pytest.MonkeyPatch, *, live: bool) -> None:
    """Also where a directory has more names than are held at once, a mount in it, or is left out."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(sharedwalk, "ALONE", 2)
    for module in (walk, sharedwalk):
        monkeypatch.setattr(module, "NAMES_AT_ONCE", 20)
    shared: list[bool] = []
    original = SharedWalk._take

    def take(self: SharedWalk, index: int, listing: Any) -> None:
        shared.append(listing is not None)
        original(self, index, listing)

    monkeypatch.setattr(SharedWalk, "_take", take)
    for excludes in ([], [b"4", b"file", b"6/2/*"]):
        alone = _found(Walker, tree, live=live, excludes=excludes)
        assert _found(SharedWalk, tree, live=live, excludes=excludes) == alone
    assert True in shared  # workers have listed some
    assert False in shared  # and left others to the walk
