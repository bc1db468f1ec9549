"""A volume with everything Linux keeps, dumped at three levels on one host and restored on another, on other file systems.

Everything through the command and real sshds. The judge compares with what the source was at each point: a snapshot of
it, or a copy of its whole disk, since no tool copies such a tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import judge, torture
from tests.filesystems import LoopFilesystem
from tests.hosts import VOLTOOL, Site

DRIVERS = {"ext4": "directory", "xfs": "directory", "btrfs": "btrfs"}
MIB = 1 << 20

#: From, to: what the judge must overlook since the target cannot hold it, and the objects that it cannot hold at all.
FOREIGN: dict[tuple[str, str], tuple[list[str], set[bytes]]] = {
    ("ext4", "xfs"): (["flags:DTc"], {b"types/large-numbers", b"types/longest"}),
    ("ext4", "btrfs"): (["flags:TxP", "xattrs:btrfs."], set()),
    ("xfs", "ext4"): (["project", "xattrs:user.large"], set()),
    # XFS shows what was preallocated as data once the judge has read it (page cache): holes are compared on ext4.
    ("xfs", "btrfs"): (["flags:xP", "project", "holes", "xattrs:user.large"], set()),
    ("btrfs", "ext4"): (["flags:mC", "xattrs:btrfs."], set()),
    ("btrfs", "xfs"): (["flags:cmCD", "xattrs:btrfs."], {b"types/large-numbers", b"types/longest"}),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "driver"), [("ext4", "auto"), ("btrfs", "auto"), ("xfs", "reflink")])
def test_every_point_comes_back_on_other_file_systems(
    kind: str, driver: str, tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    source = make_filesystem(kind)
    volume = source.path / "volume"
    with Site(tmp_path / "site") as site, contextlib.ExitStack() as stack:
        site.add_host("hosta")
        site.add_host("hostb")
        if kind == "btrfs":
            run("btrfs", "-q", "subvolume", "create", str(volume))
        torture.build(volume)
        site.voltool("volume", "add", "vol", f"hosta:{volume}", "--driver", driver)
        dumps: list[dict[str, Any]] = []
        points = []
        for level, change in enumerate((nothing, first_changes, second_changes)):
            change(volume)
            dump = dump_at(site, level)
            points.append(stack.enter_context(kept(source, tmp_path, level)))
            assert dump["base"] == (dumps[-1]["id"] if dumps else None)
            dumps.append(dump)
        assert dumps[1]["data_bytes"] < dumps[0]["data_bytes"] / 4
        assert {tuple(line["dumps"]) for line in site.result("verify")["verified"]} == {
            tuple(dump["id"] for dump in dumps)
        }
        for dump, point in zip(dumps, points, strict=True):
            assert_shown(site, dump["id"], point)
        for other in DRIVERS:
            if other != kind:
                assert_restored(site, make_filesystem(other), kind, dumps, points)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def dump_at(site: Site, level: int) -> dict[str, Any]:
    last = site.result("dump", "--level", str(level), "vol")
    (dump,) = last["dumps"]
    assert dump["level"] == level
    found: dict[str, Any] = dump
    return found


@contextlib.contextmanager
def kept(source: LoopFilesystem, directory: Path, number: int) -> Iterator[Path]:
    """The volume on ``source`` as it is now, for as long as the context lasts."""
    if source.kind == "btrfs":
        snapshot = source.path / f"point{number}"
        run("btrfs", "-q", "subvolume", "snapshot", "-r", str(source.path / "volume"), str(snapshot))
        yield snapshot
        return
    image, point = directory / f"image{number}", directory / f"point{number}"
    point.mkdir()
    run("fsfreeze", "-f", str(source.path))
    try:
        run("cp", "--sparse=always", str(source.image), str(image))
    finally:
        run("fsfreeze", "-u", str(source.path))
    options = "loop,nouuid" if source.kind == "xfs" else "loop"
    run("mount", "-t", source.kind, "-o", options, str(image), str(point))
    try:
        yield point / "volume"
    finally:
        run("umount", str(point))
        image.unlink()


def assert_shown(site: Site, dump_id: str, point: Path) -> None:
    """``ls`` and ``cat`` show what was there."""
    done = site.voltool("--json", "ls", dump_id, "sizes")
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    sizes = {line["name"]: line["size"] for line in listed if line["event"] == "entry"}
    assert sizes == {path.name: path.stat().st_size for path in (point / "sizes").iterdir()}
    for name in ("sizes/random-3145745", "sparse/many", "links/c/d/another name", "sizes/text-4097"):
        shown = subprocess.run(
            [str(VOLTOOL), "cat", dump_id, name], env=site.environment, capture_output=True, check=True
        )
        assert shown.stdout == (point / name).read_bytes(), name


def assert_restored(
    site: Site, other: LoopFilesystem, kind: str, dumps: Sequence[dict[str, Any]], points: Sequence[Path]
) -> None:
    """Each point on ``other``: equal but for what that file system does not know, and all of that has been told."""
    ignore, missing = FOREIGN[kind, other.kind]
    for number, (dump, point) in enumerate(zip(dumps, points, strict=True)):
        target = other.path / f"target{number}"
        done = site.voltool("--json", "restore", dump["id"], f"hostb:{target}", check=False)
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["exit"] == (3 if missing else 0), done.stdout + done.stderr
        assert {os.fsencode(problem["path"]) for problem in result["problems"]} == missing
        assert result["dumps"] == [known["id"] for known in dumps[: number + 1]]
        found = judge.compare(point, target, ignore=[*ignore, "rsync"] if missing else ignore)
        absent = {f"only in the first: {path!r}" for path in missing}
        different = [line for line in found if line not in absent]
        assert lost_kinds(done.stdout) == told_kinds(ignore, other.kind), (kind, other.kind, number)
        assert not different, (kind, other.kind, number, different, notices(done.stdout))
        assert not (other.path / ".voltool").exists()


def notices(output: str) -> list[str]:
    """The notices among the lines of ``--json``."""
    events = [json.loads(line) for line in output.splitlines()]
    return [event["message"] for event in events if event["event"] == "notice"]


def lost_kinds(output: str) -> set[str]:
    """What the notices of a restore say is not restored, each kind once."""
    told = [message for message in notices(output) if message.startswith("not restored: ")]
    return {message.removeprefix("not restored: ").rsplit(" of ", 1)[0] for message in told}


def told_kinds(ignore: Sequence[str], target: str) -> set[str]:
    """What a restore must tell of when the judge has to overlook ``ignore`` on a file system of the kind ``target``.

    Holes are no attribute; and btrfs makes an xattr of its own out of +c: more than there was, nothing lost.
    """
    kinds = set()
    for what in ignore:
        name, _colon, detail = what.partition(":")
        if name == "flags":
            kinds |= {f"inode flag {letter} (chattr +{letter})" for letter in detail}
        elif name == "project":
            kinds.add("project id")
        elif name == "xattrs" and detail != f"{target}.":
            kinds.add(f"extended attribute {detail.partition('.')[0]}.*")
    return kinds


# ---------------------------------------------------------------------------------------------- what users do meanwhile


def nothing(_volume: Path) -> None:
    """The tree as it was built."""


def first_changes(volume: Path) -> None:
    """Content, names, types, attributes and links of some of it."""
    with open(volume / "sizes/random-3145745", "r+b") as file:
        file.seek(MIB + 5)
        file.write(b"changed in place" * 300)
    with open(volume / torture.TERABYTE_FILE.decode(), "r+b") as file:
        file.seek(torture.TERABYTE // 4)
        file.write(b"in the middle of nowhere")
    os.truncate(volume / "sizes/text-1048577", 1000)
    os.rename(volume / "names", volume / "renamed")
    os.rename(volume / "crowd", volume / "renamed" / "crowd")
    for number in range(0, 700, 7):
        (volume / "renamed/crowd" / str(number)).unlink()
    os.link(volume / "links/a/file", volume / "links/fourth")
    (volume / "links/b/large").unlink()
    (volume / "links/b/large").write_bytes(b"no link any more")
    (volume / "types/fifo").unlink()
    (volume / "types/fifo").mkdir()
    (volume / "types/fifo/inside").write_bytes(b"was a fifo")
    os.chmod(volume / "modes/file-0400", 0o4711)
    os.chown(volume / "owners/file-1", 77, 78)
    os.setxattr(volume / "xattrs/file", b"user.voltool", b"another value")
    os.removexattr(volume / "xattrs/directory", b"user.voltool")
    os.setxattr(
        volume / "acls/file",
        b"system.posix_acl_access",
        torture.acl((1, 6, 0), (2, 4, 7), (4, 4, 0), (16, 4, 0), (32, 0, 0)),
    )
    for letter in ("i", "a"):
        unseal(volume / f"sealed/file+{letter}")
    os.utime(volume / "times/file-2106", ns=(0, 42))


def second_changes(volume: Path) -> None:
    """Undo some, go on with some, and make what was deleted anew."""
    os.rename(volume / "renamed", volume / "names")
    (volume / "names/crowd/0").write_bytes(b"again")
    with open(volume / "sizes/random-3145745", "r+b") as file:
        file.truncate(5 * MIB)
        file.seek(4 * MIB)
        file.write(b"beyond the old end")
    with open(volume / "sparse/many", "r+b") as file:
        file.seek(100_000)
        file.write(b"no longer a hole" * 2000)
    (volume / "types/fifo/inside").unlink()
    (volume / "types/fifo").rmdir()
    os.symlink("was a directory", volume / "types/fifo")
    (volume / "links/fourth").unlink()
    os.chmod(volume, 0o750)
    new = volume / "new"
    new.mkdir()
    for number in range(40):
        (new / f"file{number}").write_bytes(b"%d" % number * 1000)


def unseal(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        torture.set_flags(descriptor, torture.get_flags(descriptor) & ~(torture.IMMUTABLE | torture.APPEND))
    finally:
        os.close(descriptor)
    with open(path, "ab") as file:
        file.write(b"no longer sealed\n")
