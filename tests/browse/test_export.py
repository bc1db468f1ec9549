"""An exported archive, unpacked by GNU tar, is the tree; what cannot be verified never looks complete."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import torture
from tests.cli.test_json import SCHEMA, check_fields
from tests.core.harness import Rig
from tests.core.test_unreadable import bad_disk
from tests.dumpfile import model, test_golden
from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from tests.judge import compare
from voltool.browse.archive import export_dump
from voltool.browse.export import Exporter, coarse
from voltool.browse.filesystem import VolumeFiles
from voltool.browse.opened import OpenPoints
from voltool.browse.points import OnePoint
from voltool.browse.tree import Kept, Tree
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, RefusedError, SpaceError, VoltoolError
from voltool.model import Problem

GNU_TAR = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf"]


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with LoopFilesystem("ext4") as filesystem:
        yield filesystem.path


def unpack(archive: Path, target: Path) -> str:
    target.mkdir()
    done = subprocess.run([*GNU_TAR, archive, "-C", target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def shorten(root: Path) -> None:
    """Take out what no tar can make: paths beyond PATH_MAX."""
    subprocess.run(["rm", "-rf", root / "long"], check=True)
    at = root / "long"
    for level in range(15):
        at = at / (f"{level:02d}-" + "p" * 247)
    at.mkdir(parents=True)
    (at / "deep").write_bytes(b"3,800 bytes down\n")
    os.link(at / "deep", at / "deep-link")


def test_gnu_tar_restores_the_torture_tree(disk: Path, tmp_path: Path) -> None:
    volume, target = disk / "volume", disk / "restored"
    torture.build(volume)
    shorten(volume)
    with open(volume / "huge", "wb") as file:  # beyond what the old header can say, nearly all of it a hole
        os.pwrite(file.fileno(), b"begin", 3 << 20)
        os.pwrite(file.fileno(), b"end", (9 << 30) - 3)
    with Rig(tmp_path / "rig", volume) as rig:
        rig.dump()
        (volume / "sizes" / "random-1048577").write_bytes(b"another")
        with open(volume / "sizes" / "random-3145745", "r+b") as file:
            os.pwrite(file.fileno(), b"a patch of the second dump", 2_000_000)
        os.rename(volume / "empty", volume / "not empty")
        dump = rig.dump(1)
        archive = tmp_path / "out.tar"
        archived = export_dump(rig.world, dump, os.fsencode(archive))
        assert archived.exported.sockets == [b"types/socket"]
        assert not archived.exported.problems
        assert archived.archive_bytes == archive.stat().st_size < 100 << 20
        unpack(archive, target)
        os.unlink(volume / "types" / "socket")
        ignore = ("flags", "project")  # a tar archive has no such thing
        for path in (volume / "types", target / "types"):
            os.utime(path, ns=(0, 0))
        assert compare(volume, target, ignore=ignore) == []
    torture.destroy(volume)


def test_python_reads_it_too(tmp_path: Path) -> None:
    """Another reader than GNU tar's: names and times; it undoes holes as well."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "żółw").write_bytes(b"x" * 600)
    Path(os.fsdecode(os.fsencode(volume) + b"/\xff\n" + b"n" * 200)).write_bytes(b"bytes")
    os.utime(volume / "żółw", ns=(0, -1_500_000_000))
    with open(volume / "sparse", "wb") as file:
        os.pwrite(file.fileno(), b"end", 5 << 20)
    with Rig(tmp_path / "rig", volume) as rig:
        export_dump(rig.world, rig.dump(), os.fsencode(tmp_path / "out.tar"))
    with tarfile.open(tmp_path / "out.tar", errors="surrogateescape") as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert sorted(members) == sorted([".", "./żółw", "./sparse", os.fsdecode(b"./\xff\n" + b"n" * 200)])
        assert members["./żółw"].mtime == -1.5
        sparse = tar.extractfile(members["./sparse"])
        assert sparse is not None
        assert sparse.read() == bytes(5 << 20) + b"end"


def test_an_empty_tree_and_a_part_of_one(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o750)
    with Rig(tmp_path / "rig", volume) as rig:
        export_dump(rig.world, rig.dump(), os.fsencode(tmp_path / "empty.tar"))
        unpack(tmp_path / "empty.tar", tmp_path / "empty")
        assert compare(volume, tmp_path / "empty") == []
        for name in ("a/b/file", "a/c/file", "d"):
            path = volume / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        dump = rig.dump(1)
        only = [b"a/b", os.fsencode(volume) + b"/d"]
        export_dump(rig.world, dump, os.fsencode(tmp_path / "part.tar"), only=only)
        unpack(tmp_path / "part.tar", tmp_path / "part")
        found = sorted(str(path.relative_to(tmp_path / "part")) for path in (tmp_path / "part").rglob("*"))
        assert found == ["a", "a/b", "a/b/file", "d"]
        with pytest.raises(RefusedError):
            export_dump(rig.world, dump, os.fsencode(tmp_path / "part.tar"))


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_bytes(os.urandom(5 << 20))
    with Rig(tmp_path / "rig", volume) as rig, LoopFilesystem("tmpfs", size=3 << 20) as disk:
        dump = rig.dump()
        with pytest.raises(SpaceError):
            export_dump(rig.world, dump, os.fsencode(disk.path / "out.tar"))
        assert os.listdir(disk.path) == []


def damage(path: Path, number_of_frame: int = 0) -> None:
    """Flip one bit in a DATA frame of a dump in a store."""
    raw = bytearray(path.read_bytes())

    class Bytes:
        size = len(raw)

        def read_at(self, offset: int, length: int) -> bytes:
            return bytes(raw[offset : offset + length])

    index = DumpReader(Bytes(), "dump").index
    entry = index.entry(list(index.of_type(fmt.DATA))[number_of_frame])
    raw[entry.offset + fmt.FRAME_SIZE + entry.stored // 2] ^= 1
    path.write_bytes(raw)


def test_the_command_in_a_pipe_and_to_a_file(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "first").write_bytes(os.urandom(2 << 20))
    (volume / "second").write_bytes(os.urandom(2 << 20))
    os.mknod(volume / "socket", stat.S_IFSOCK | 0o600)
    with Site(tmp_path / "site") as site:
        site.voltool("volume", "add", "vol1", f"local:{volume}")
        site.voltool("dump", "vol1")
        shell = f"{site.command()[0]} export vol1 | tar -xpf - -C {tmp_path}/piped"
        (tmp_path / "piped").mkdir()
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {shell}"], env=site.environment, capture_output=True, check=False
        )
        assert done.returncode == 3, done.stderr
        assert b"tar has no sockets: socket" in done.stderr
        os.unlink(volume / "socket")
        os.utime(tmp_path / "piped", ns=(0, 0))
        os.utime(volume, ns=(0, 0))
        assert compare(volume, tmp_path / "piped") == []
        told = site.voltool("--json", "export", "vol1", "-o", f"{tmp_path}/out.tar", check=False)
        last = json.loads(told.stdout.splitlines()[-1])
        check_fields(last, {**SCHEMA["result"], **SCHEMA["export"]}, "export")
        assert (last["exit"], last["sockets"]) == (3, ["socket"])
        assert os.stat(tmp_path / "out.tar").st_mode & 0o777 == 0o600
        assert site.voltool("--json", "export", "vol1", check=False).returncode == 2

        (dump,) = (site.state / "store" / "vol1").glob("*.voltool")
        damage(dump, -1)
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {site.command()[0]} export vol1 | tar -tf -"],
                              env=site.environment, capture_output=True, check=False)  # fmt: skip
        assert b"./first" in done.stdout
        assert b"tar: Exiting with failure status" in done.stderr
        failed = site.voltool("export", "vol1", "-o", f"{tmp_path}/broken.tar", check=False)
        assert failed.returncode == 5
        assert not list(tmp_path.glob("broken*"))


# Nothing of "bomb" is ever read: its bad frame has no object.
@pytest.mark.parametrize("name", [name for name in test_golden.ALL if not name.endswith("/bomb")])
def test_no_hostile_dump_becomes_an_archive(name: str) -> None:
    golden = test_golden.load(name)

    def export() -> list[bytes]:
        written: list[bytes] = []
        sources = test_golden.dumps_of(golden, name.split("/", maxsplit=1)[0])
        chain = Chain([model.open_dump(data, f"dump {at}") for at, data in enumerate(sources)])
        Exporter(Tree(chain, Kept(), numeric_owner=True), written.append).run()
        return written

    if golden.fields["expect"] == "whole":
        assert export()[-1] == bytes(len(export()[-1]))
    else:
        with pytest.raises(VoltoolError):
            export()


def test_what_could_not_be_read_is_named_and_not_made_up(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "bad").write_bytes(b"nobody knows")
    (volume / "good").write_bytes(b"good")
    with Rig(tmp_path / "rig", volume) as rig:
        dump = rig.dump(inject=bad_disk("bad"))
        result = export_dump(rig.world, dump, os.fsencode(tmp_path / "out.tar")).exported
        assert [(problem.problem, problem.path) for problem in result.problems] == [(Problem.UNREADABLE, b"bad")]
        files = VolumeFiles(OnePoint(dump), OpenPoints(rig.world, numeric_owner=True), rig.reporter)
        assert files.getattr("/bad")["st_mode"] == (volume / "bad").stat().st_mode
        with pytest.raises(OSError, match="Input/output"):
            files.open("/bad", os.O_RDONLY)
        assert files.read(None, 100, 0, files.open("/good", os.O_RDONLY)) == b"good"
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert sorted(tar.getnames()) == [".", "./good"]


def test_a_file_of_countless_holes_has_a_bounded_map() -> None:
    ranges = [(at * 8192, at * 8192 + 4096) for at in range(1000)]
    assert coarse(iter(ranges), 1000) == ranges
    joined = coarse(iter(ranges), 100)
    assert len(joined) <= 100
    assert joined[0][0] == 0
    assert joined[-1][1] == ranges[-1][1]


def test_content_that_is_not_its_hashs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame says a hole where the hash says data: also where nothing would ever be read."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_bytes(os.urandom(2 << 20))
    with Rig(tmp_path / "rig", volume) as rig:
        dump = rig.dump()
        real = DumpReader.extents

        def holes(self: DumpReader, number: int, offset: int = 0) -> Iterator[tuple[fmt.Extent, memoryview]]:
            for extent, _data in real(self, number, offset):
                yield extent._replace(kind=fmt.EXTENT_HOLE), memoryview(b"")

        monkeypatch.setattr(DumpReader, "extents", holes)
        with pytest.raises(IntegrityError):
            export_dump(rig.world, dump, os.fsencode(tmp_path / "out.tar"))
        assert not (tmp_path / "out.tar").exists()
