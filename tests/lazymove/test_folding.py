"""Whatever happens through an overlay: what it showed is what the fold makes of the tree, also when it is killed anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.core.copying import copy_tree
from tests.core.operations import Operation, apply, operations
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.lazymove.layers import Rig
from voltool.agent.lazymove.folding import FoldPlace, finish, fold, forget, has_begun, seal_root
from voltool.errors import IntegrityError, SpaceError
from voltool.inodes import get_flags
from voltool.volumes.removal import remove_tree

EXAMPLES = int(os.environ.get("VOLTOOL_EXAMPLES", "5"))
KILLS = int(os.environ.get("VOLTOOL_KILLS", "12"))
#: What chattr sets, the overlay shows of the upper directory alone; the fold keeps what the tree's directories had.
IGNORED = ("flags:dAS",)
_NUMBERS = count()
KINDS = ["ext4", "xfs", "btrfs"]


@pytest.fixture(scope="module", params=KINDS)
def filesystem(request: pytest.FixtureRequest) -> Iterator[LoopFilesystem]:
    with LoopFilesystem(request.param) as made:
        yield made


def _rig(filesystem: LoopFilesystem, fill: Callable[[bytes], None]) -> Rig:
    return Rig(filesystem.path / f"rig-{next(_NUMBERS)}", fill)


def _gone(rig: Rig) -> None:
    rig.close()
    shutil.rmtree(rig.home)


@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
@given(st.lists(operations(), min_size=3, max_size=14), st.lists(operations(), min_size=1, max_size=25))
def test_any_operations(filesystem: LoopFilesystem, below: list[Operation], written: list[Operation]) -> None:
    def fill(lower: bytes) -> None:
        for operation in below:
            apply(lower, operation)

    rig = _rig(filesystem, fill)
    try:
        for operation in written:
            apply(rig.layers.path, operation)
        before = rig.before()
        fold(rig.place)
        fold(rig.place)  # once more changes nothing
        rig.close()
        forget(rig.place)
        assert compare(before, rig.place.tree, ignore=IGNORED) == []
        assert not _overlays_own(rig.place.tree)
    finally:
        _gone(rig)


def _overlays_own(tree: bytes) -> list[bytes]:
    found = []
    for directory, directories, files in os.walk(tree):
        for path in [directory, *(os.path.join(directory, name) for name in directories + files)]:
            names = os.listxattr(path, follow_symlinks=False)
            found += [path for name in names if name.startswith(("trusted.overlay.", "trusted.voltool."))]
    return found


def _tree_below(lower: bytes) -> None:
    for directory in (b"a/b/c", b"d/e", b"gone/deep", b"opaque", b"swap1", b"swap2/in"):
        os.makedirs(os.path.join(lower, directory))
    for name in (
        b"file",
        b"a/1",
        b"a/b/2",
        b"a/b/c/3",
        b"d/4",
        b"gone/5",
        b"opaque/6",
        b"swap1/7",
        b"swap2/8",
        b"becomes",
    ):
        with open(os.path.join(lower, name), "wb") as file:
            file.write(name * 20)
    os.link(lower + b"/file", lower + b"/other-name")
    os.link(lower + b"/file", lower + b"/d/third-name")
    os.setxattr(lower + b"/a", b"user.x", b"1")
    os.symlink(b"a/b", lower + b"/link")


def _write(shown: bytes) -> None:
    """Everything that leaves something of its own in the upper directory."""

    def at(name: bytes) -> bytes:
        return os.path.join(shown, name)

    os.rename(at(b"a/b"), at(b"d/moved"))
    os.rename(at(b"a"), at(b"renamed"))
    os.rename(at(b"d/moved/c"), at(b"renamed/c"))
    os.mkdir(at(b"a"))
    os.rename(at(b"d/e"), at(b"a/e"))
    shutil.rmtree(at(b"gone"))
    shutil.rmtree(at(b"opaque"))
    os.mkdir(at(b"opaque"))
    os.rename(at(b"swap1"), at(b"t"))
    os.rename(at(b"swap2"), at(b"swap1"))
    os.rename(at(b"t"), at(b"swap2"))
    os.unlink(at(b"becomes"))
    os.makedirs(at(b"becomes/one"), 0o750)
    os.rename(at(b"swap1/in"), at(b"becomes/one/in"))
    with open(at(b"file"), "ab") as file:
        file.write(b"written")
    os.chmod(at(b"renamed/1"), 0o600)
    with open(at(b"new"), "wb") as file:
        file.write(b"new")
    os.link(at(b"new"), at(b"renamed/also-new"))
    os.setxattr(at(b"d"), b"user.y", b"2")
    os.utime(at(b"d"), (5, 5))
    os.setxattr(at(b"new"), b"trusted.overlay.theirs", b"kept")
    os.setxattr(shown, b"user.root", b"r")


@pytest.fixture
def written(filesystem: LoopFilesystem) -> Iterator[Rig]:
    rig = _rig(filesystem, _tree_below)
    _write(rig.layers.path)
    yield rig
    _gone(rig)


def test_everything_an_overlay_leaves(written: Rig) -> None:
    before = written.before()
    fold(written.place)
    assert has_begun(written.place)
    theirs = ("xattrs:trusted.overlay.",)  # named in the end as they were set, and then the overlay hides them
    assert compare(before, written.layers.path, ignore=theirs) == [], (
        "the overlay shows something else while it is folded"
    )
    finish(written.place, written.place.tree)
    written.close()
    forget(written.place)
    assert not has_begun(written.place)
    assert compare(before, written.place.tree) == []
    assert os.getxattr(written.place.tree + b"/new", "trusted.overlay.theirs") == b"kept"
    status = os.stat(written.place.tree + b"/new")
    assert (status.st_nlink, status.st_ino) == (2, os.stat(written.place.tree + b"/renamed/also-new").st_ino)


def test_names_of_one_file_part_when_it_is_written_to(written: Rig) -> None:
    """What an overlay does without an index: each name goes on with what was shown under it; nothing is lost."""
    fold(written.place)
    tree = written.place.tree
    with open(tree + b"/file", "rb") as file, open(tree + b"/other-name", "rb") as other:
        assert (file.read(), other.read()) == (b"file" * 20 + b"written", b"file" * 20)
    assert os.stat(tree + b"/other-name").st_ino == os.stat(tree + b"/d/third-name").st_ino


def test_what_was_made_immutable_is_so_in_the_end(written: Rig) -> None:
    for name in ("new", "renamed", ""):
        subprocess.run(["chattr", "+i", os.fsdecode(written.layers.path) + "/" + name], check=True)
    subprocess.run(["chattr", "+a", os.fsdecode(written.layers.path) + "/file"], check=True)
    fold(written.place)
    published = written.place.tree + b"-published"
    os.rename(written.place.tree, published)
    for _again in range(2):
        finish(written.place, published)
        seal_root(written.place, published)
    try:
        assert [_letters(published, name) for name in (b"new", b"renamed", b"", b"file", b"d")] == [
            "i",
            "i",
            "i",
            "a",
            "",
        ]
        written.close()
        forget(written.place)
        assert _letters(published, b"new") == "i"
    finally:
        remove_tree(published)


def _letters(root: bytes, name: bytes) -> str:
    descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
    flags = get_flags(descriptor)[0]
    os.close(descriptor)
    return "".join(letter for letter, bit in (("i", 0x10), ("a", 0x20)) if flags & bit)


_CALLS = ("rename", "link", "unlink", "mkdir", "setxattr", "removexattr", "utime", "chmod", "chown")


def test_killed_anywhere(filesystem: LoopFilesystem) -> None:
    """At each call that changes something, and once more at each of the second run."""
    if filesystem.kind != "ext4":
        return  # the calls are the same everywhere
    master = _rig(filesystem, _tree_below)
    _write(master.layers.path)
    before = master.before()
    master.close()
    total = _killed_at(_copied(master, -1), 1 << 30)
    assert total > 100
    for number in range(0, total, max(1, total // KILLS)):
        place = _copied(master, number)
        assert _killed_at(place, number) == number
        if number % 2:
            _killed_at(place, number // 2)
        fold(place)
        forget(place)
        assert compare(before, place.tree, ignore=("rsync",)) == [], f"killed before call {number}"
        shutil.rmtree(os.path.dirname(place.tree))
    _gone(master)


def _copied(rig: Rig, number: int) -> FoldPlace:
    home = os.path.join(rig.home, b"killed-%d" % number)
    os.mkdir(home)
    place = FoldPlace(*(os.path.join(home, name) for name in (b"upper", b"tree", b"scratch")))
    copy_tree(rig.place.upper, place.upper)
    copy_tree(rig.place.tree, place.tree)
    os.mkdir(place.scratch)
    return place


def _killed_at(place: FoldPlace, number: int) -> int:
    """Fold in a process of its own that dies before its call ``number``; how many there were."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        calls = count()
        for name in _CALLS:
            setattr(os, name, _counted(getattr(os, name), calls, number, writing))
        try:
            fold(place)
            os.write(writing, b"%d" % next(calls))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as file:
        return int(file.read() or b"-1")


def _counted(real: Callable[..., Any], calls: Iterator[int], last: int, writing: int) -> Callable[..., Any]:
    def call(*arguments: Any, **words: Any) -> Any:
        number = next(calls)
        if number == last:
            os.write(writing, b"%d" % number)
            os._exit(9)
        return real(*arguments, **words)

    return call


def test_what_no_overlay_of_ours_leaves_is_refused(written: Rig) -> None:
    with open(written.place.upper + b"/hollow", "wb"):
        pass
    os.setxattr(written.place.upper + b"/hollow", b"trusted.overlay.metacopy", b"")
    before = sorted(os.listdir(written.place.tree))
    with pytest.raises(IntegrityError, match="metacopy"):
        fold(written.place)
    assert sorted(os.listdir(written.place.tree)) == before
    assert not has_begun(written.place)


def test_a_full_disk_is_said_and_it_goes_on_when_there_is_room(make_filesystem: Callable[..., LoopFilesystem]) -> None:
    filesystem = make_filesystem("ext4", size=24 << 20, mkfs_options=["-b", "1024", "-N", "400"])
    rig = _rig(filesystem, _tree_below)
    _write(rig.layers.path)
    try:
        before = rig.before()
        for number in count():
            try:
                with open(filesystem.path / f"inode-{number}", "wb"):
                    pass
            except OSError:
                break
        with pytest.raises(SpaceError, match="goes on by itself"):
            fold(rig.place)
        assert compare(before, rig.layers.path) == []
        for path in filesystem.path.glob("inode-*"):
            path.unlink()
        fold(rig.place)
        rig.close()
        forget(rig.place)
        assert compare(before, rig.place.tree) == []
    finally:
        _gone(rig)
