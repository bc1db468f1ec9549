"""What is said of a file system's limits is what the kernel does there: the most is possible, one more is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from voltool import inodes
from voltool.agent.moving.extremes import Extremes, obstacles_of
from voltool.inodes import get_flags, set_flags
from voltool.model import RECEIVING, Peer, TargetMove
from voltool.volumes.limits import LETTERS, Limits, limits_of, xattr_cost
from voltool.wire.moving import Extreme

MOVE = TargetMove("m", "u", "vol", b"/there/vol", Peer("hosta", "", "", b"/here/vol"), RECEIVING, 0)


def is_possible(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def time_holds(path: Path, seconds: int) -> bool:
    os.utime(path, (seconds, seconds))
    return path.stat().st_mtime_ns == seconds * 10**9


def flag_holds(path: Path, bit: int) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        is_possible(lambda: set_flags(descriptor, bit, bit))
        held = bool(get_flags(descriptor)[0] & bit)
        is_possible(lambda: set_flags(descriptor, 0, bit))
        return held
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ext4", []), ("ext4", ["-I", "128"]), ("ext4", ["-O", "ea_inode"]), ("ext4", ["-b", "1024"]),
        ("xfs", []), ("xfs", ["-m", "bigtime=0"]), ("btrfs", []),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else value,
)  # fmt: skip
def test_the_limits_are_the_kernels(kind: str, options: list[str]) -> None:
    with LoopFilesystem(kind, mkfs_options=options) as filesystem:
        root = filesystem.path
        limits = limits_of(os.fsencode(root))
        assert limits.kind == kind
        file = root / "file"
        file.touch()
        assert is_possible((root / ("n" * limits.name)).touch)
        assert not is_possible((root / ("n" * (limits.name + 1))).touch)
        check_xattrs(root, limits)
        assert is_possible(lambda: (root / "link").symlink_to("t" * limits.symlink))
        if limits.symlink < 4095:
            assert not is_possible(lambda: (root / "longer").symlink_to("t" * (limits.symlink + 1)))
        if limits.file_size >= 0:
            assert is_possible(lambda: os.truncate(file, limits.file_size))
            assert not is_possible(lambda: os.truncate(file, limits.file_size + 1))
        for seconds, one_more in ((limits.first, -1), (limits.last, 1)):
            if seconds is not None:
                assert time_holds(file, seconds)
                assert not time_holds(file, seconds + one_more)
        assert limits.flags is not None
        kept = {letter for bit, letter in LETTERS.items() if flag_holds(file, bit) or flag_holds(root, bit)}
        assert kept - {"j"} == set(limits.flags) - {"j"}  # that one needs a journal, which a small file system lacks
        descriptor = os.open(file, os.O_RDWR)
        assert is_possible(lambda: inodes.set_project(descriptor, 7)) is limits.projects
        os.close(descriptor)


def check_xattrs(root: Path, limits: Limits) -> None:
    most = 65536
    if limits.xattr >= 0:
        most = limits.xattr - len("user.x")
    elif limits.xattr_entry >= 0:
        most = (limits.xattr_entry - xattr_cost(b"user.x", 0)) // 4 * 4
    assert is_possible(lambda: os.setxattr(root / "file", "user.x", bytes(most)))
    (root / "other").touch()
    assert not is_possible(lambda: os.setxattr(root / "other", "user.x", bytes(most + 1)))


def test_links(tmp_path: Path) -> None:
    with LoopFilesystem("ext4") as filesystem:
        most = limits_of(os.fsencode(filesystem.path)).links
        first = filesystem.path / "first"
        first.touch()
        for number in range(1, most):
            os.link(first, filesystem.path / f"{number:x}")
        assert not is_possible(lambda: os.link(first, filesystem.path / "one more"))


def seen(root: Path) -> tuple[Extreme, ...]:
    extremes = Extremes(os.fsencode(root))
    for directory, names, files in os.walk(os.fsencode(root)):
        extremes.names(directory, names + files)
        for name in names + files:
            path = os.path.join(directory, name)
            extremes.entry(path, os.lstat(path))
    return extremes.found


def test_each_excess_names_the_first_path_that_has_it(tmp_path: Path) -> None:
    root = tmp_path / "vol"
    (root / "sub").mkdir(parents=True)
    (root / "README").touch()
    (root / "sub" / "Readme").touch()
    (root / "sub" / "readme").touch()
    (root / os.fsdecode(b"caf\xe9")).touch()
    (root / "link").symlink_to("README")
    os.link(root / "README", root / "other")
    with (root / "large").open("wb") as file:
        file.truncate(5 << 30)
    os.utime(root / "large", (0, 0))
    limits = Limits("vfat", file_size=(1 << 32) - 1, links=1, symlink=0, first=315_532_800, folds_case=True)
    found = {each.what.partition(" hold ")[2]: each.where for each in obstacles_of(seen(root), limits, MOVE)}
    assert found == {
        "a file as large as this": f"hosta:{root}/large",
        "a file with so many names": found["a file with so many names"],
        "a symlink to a path as long as this": f"hosta:{root}/link",
        "names that differ only in case": f"hosta:{root}/sub/readme",
        "a name that is not UTF-8": f"hosta:{root}/caf\\xe9",
        "this time of modification": f"hosta:{root}/large",
    }
    assert found["a file with so many names"].rpartition("/")[2] in ("README", "other")
    assert obstacles_of(seen(root), Limits("unknown"), MOVE) == []


def test_a_longer_path_of_the_volume_may_be_too_long() -> None:
    deep = (Extreme("path", 4080, b"/here/vol/..."),)
    assert obstacles_of(deep, Limits("ext4"), MOVE) == []
    (obstacle,) = obstacles_of(deep, Limits("ext4"), replace(MOVE, path=b"/somewhere/else/vol"))
    assert "at a path that programs can open" in obstacle.what
