"""What belongs to a volume and what does not: mounts, voltool's own area, exclusions, the root itself; and a host that has
lost its memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.filesystems import LoopFilesystem
from tests.judge import compare
from tests.torture import acl
from voltool.model import StoredDump
from voltool.tree import excluding
from voltool.tree.walk import TICK_NS

MIB = 1 << 20


def rest() -> None:
    time.sleep(2 * TICK_NS / 1e9)


def restored(rig: Rig, dump: StoredDump) -> Path:
    target = rig.directory.parent / f"restored-{dump.header.dump_id[:8]}"
    rig.restore(dump, target)
    return target


def names_in(tree: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(where, name), tree)
        for where, dirs, files in os.walk(tree)
        for name in dirs + files
    }


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    subprocess.run(["mount", *map(str, arguments)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


def test_what_is_mounted_inside_is_skipped_and_named(ext4: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(ext4)
    outside = rig.directory.parent / "outside"
    outside.mkdir()
    (outside / "not ours").write_bytes(b"x")
    for name in ("tmpfs", "bind"):
        (rig.path / name).mkdir()
    (rig.path / "file").write_bytes(b"covered")
    (rig.path / "target").write_bytes(b"target")
    with (
        mounted("-t", "tmpfs", "none", rig.path / "tmpfs"),
        mounted("--bind", outside, rig.path / "bind"),
        mounted("--bind", rig.path / "target", rig.path / "file"),
    ):
        (rig.path / "tmpfs" / "not ours").write_bytes(b"x")
        dumps = [rig.dump(0), rig.dump(1)]
        notices = [notice for notice in rig.reporter.notices() if "file systems" in notice or "mount" in notice]
        assert len(notices) == len(dumps)
        assert all(notice.count("not dumped") == 1 and notice.endswith(": bind, file, tmpfs") for notice in notices)
    for dump in dumps:
        target = restored(rig, dump)
        assert names_in(target) == {"tmpfs", "bind", "target"}
        assert (target / "target").stat().st_nlink == 1
    assert compare(rig.path, restored(rig, rig.dump(2))) == []


def test_a_subvolume_inside_a_plain_directory_is_named(btrfs: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(btrfs)
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(rig.path / "nested")], check=True)
    (rig.path / "nested" / "file").write_bytes(b"x")
    (rig.path / "file").write_bytes(b"y")
    target = restored(rig, rig.dump(0))
    assert names_in(target) == {"nested", "file"}
    assert [notice for notice in rig.reporter.notices() if "not dumped" in notice and "nested" in notice]


def test_a_volume_that_is_a_whole_file_system(tmp_path: Path) -> None:
    """Its area lies inside it, and is never dumped; elsewhere the name means nothing. Its lost+found is a directory like
    any other."""
    with LoopFilesystem("ext4") as filesystem, Rig(tmp_path / "rig", filesystem.path) as rig:
        (filesystem.path / "d" / ".voltool").mkdir(parents=True)
        (filesystem.path / "d" / ".voltool" / "mine").write_bytes(b"a user's own")
        target = tmp_path / "restored"
        for level in (0, 1, 2):
            dump = rig.dump(level)
            rig.restore(dump, target.with_name(f"restored-{level}"))
            found = names_in(target.with_name(f"restored-{level}"))
            assert found == {"lost+found", "d", "d/.voltool", "d/.voltool/mine"}


def test_exclusions_with_and_without_a_slash(ext4: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(ext4, "directory", (b"*.o", b"cache/", b"/var/tmp", b"a/*/c", b"\xff*"))
    for name in (
        "x.o", "d/y.o", "cache/f", "d/cache/f", "var/tmp/f", "d/var/tmp/f", "a/b/c/f", "a/b/d/f", "d/a/b/c", "keep", "x.oo",
    ):  # fmt: skip
        (rig.path / name).parent.mkdir(parents=True, exist_ok=True)
        (rig.path / name).write_bytes(b"x")
    with open(os.fsencode(rig.path) + b"/\xff\xfe", "wb"):
        pass
    for level in (0, 1):
        found = names_in(restored(rig, rig.dump(level)))
        assert {name for name in found if not (rig.path / name).is_dir()} == {
            "d/var/tmp/f", "a/b/d/f", "d/a/b/c", "keep", "x.oo",
        }  # fmt: skip
        assert "d/cache" not in found
        assert "var" in found


def test_the_attributes_of_the_root_itself(ext4: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(ext4)
    for level, mode in ((0, 0o2750), (1, 0o700), (1, 0o1777)):
        rig.path.chmod(mode)
        os.chown(rig.path, 1000 + level, mode)
        os.setxattr(rig.path, b"user.level", b"%d" % mode)
        os.setxattr(
            rig.path, b"system.posix_acl_default", acl((1, 7, 0), (2, 5, mode), (4, 5, 0), (16, 7, 0), (32, 1, 0))
        )
        os.utime(rig.path, ns=(mode, mode))
        dump = rig.dump(level)
        assert dump.totals.entries == 0
        assert compare(rig.path, restored(rig, dump)) == []


def test_a_host_that_was_set_up_anew_sends_only_differences(ext4: Path, make_rig: Callable[..., Rig]) -> None:
    """No home stamps: the base's manifest comes from the store, everything is read, and only what differs travels; of a
    large file the chunks that differ."""
    rig = make_rig(ext4)
    for number in range(200):
        (rig.path / f"{number}").write_bytes(os.urandom(1000))
    with (rig.path / "large").open("wb") as file:
        file.write(os.urandom(20 * MIB))
    with (rig.path / "sparse").open("wb") as file:
        file.seek(30 * MIB)
        file.write(os.urandom(MIB))
    os.link(rig.path / "1", rig.path / "another name")
    rest()
    rig.dump(0)
    for changed in (False, True):
        if changed:
            (rig.path / "7").write_bytes(b"changed")
            with (rig.path / "large").open("r+b") as file:
                file.seek(5 * MIB + 10)
                file.write(b"changed")
            (rig.path / "8").unlink()
        rest()
        rig.forget_states()
        dump = rig.dump(1)
        assert dump.totals.data_bytes == (MIB + 7 if changed else 0)
        assert compare(rig.path, restored(rig, dump)) == []
    assert [notice for notice in rig.reporter.notices() if "no home stamps" in notice]
    quick = rig.dump(2)
    assert rig.outcome is not None
    assert rig.outcome.totals is not None
    assert rig.outcome.totals.files == 0, "the stamps are there again"
    assert quick.totals.data_bytes == 0


def test_a_host_set_up_anew_is_not_told_hashes_of_chunks_that_are_holes_now(
    ext4: Path, make_rig: Callable[..., Rig]
) -> None:
    """A chunk is punched out, the punched file dumped; then the old bytes come back: they are not what the base has."""
    rig = make_rig(ext4)
    file = rig.path / "file"
    content = os.urandom(6 * MIB)
    file.write_bytes(content)
    rest()
    rig.dump(0)
    subprocess.run(["fallocate", "-p", "-o", str(2 * MIB), "-l", str(2 * MIB), str(file)], check=True)
    rest()
    rig.dump(1)
    with file.open("r+b") as opened:
        opened.seek(2 * MIB)
        opened.write(content[2 * MIB : 4 * MIB])
    rest()
    rig.forget_states()
    assert compare(rig.path, restored(rig, rig.dump(2))) == []


def test_a_tree_that_was_copied_to_another_host(ext4: Path, make_rig: Callable[..., Rig]) -> None:
    """All inode numbers are new, stamps of the old ones mean nothing."""
    rig = make_rig(ext4)
    for number in range(50):
        (rig.path / f"{number}").write_bytes(b"%d" % number)
    rest()
    rig.dump(0)
    rig.path.rename(rig.path.with_name("old"))
    subprocess.run(["cp", "-a", str(rig.path.with_name("old")), str(rig.path)], check=True)
    (rig.path / "5").write_bytes(b"changed")
    rest()
    dump = rig.dump(1)
    assert compare(rig.path, restored(rig, dump)) == []


def test_the_way_to_all_snapshots_of_a_dataset_is_no_part_of_it(
    ext4: Path, make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenZFS lists `.zfs` with snapdir=visible; a directory here has the inode number that it has there."""
    rig = make_rig(ext4)
    (rig.path / "dir").mkdir()
    for place in (rig.path / ".zfs", rig.path / "dir/.zfs"):
        place.mkdir()
        (place / "file").write_bytes(b"x")
    monkeypatch.setattr(excluding, "ZFS_CONTROL_INODE", (rig.path / ".zfs").stat().st_ino)
    assert names_in(restored(rig, rig.dump(0))) == {"dir", "dir/.zfs", "dir/.zfs/file"}
