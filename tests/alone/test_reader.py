"""The stand-alone reader as somebody uses it who has nothing else: python3, dumps, and no library."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import torture
from tests.hosts import Site
from tests.judge import compare
from voltool.dumpfile import codec
from voltool.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTEGRITY, EXIT_USAGE
from voltool.remote.ship import build_reader

#: The system's: it has nothing installed.
PYTHON = "/usr/bin/python3"
LIBRARY = "/usr/lib/x86_64-linux-gnu/liblz4.so.1"


@dataclass
class Dumps:
    """A volume, and the store with its dumps of levels 0, 1 and 2; a second volume has one."""

    volume: Path
    store: Path
    reader: Path

    def at(self, level: int, name: str = "vol1") -> Path:
        (path,) = (self.store / name).glob(f"*-L{level}-*.voltool")
        return path

    def run(
        self, *words: object, hide_lz4: bool = False, before: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = [*before, PYTHON, "-I", "-S", str(self.reader), *map(str, words)]
        if hide_lz4:
            real = os.path.realpath(LIBRARY)
            hide = f"mount --bind /dev/null {real} && exec " + '"$@"'
            command = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", hide, "sh", *command]
        return subprocess.run(command, env={}, capture_output=True, text=True, check=False, cwd="/", timeout=120)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dumps]:
    # Not in pytest's directory: a user who is not root must be able to read.
    place = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="voltool-test-alone-"))
    place.chmod(0o755)
    volume = place / "vol1"
    volume.mkdir()
    torture.build(volume)
    other = place / "other"
    other.mkdir()
    (other / "file").write_text("of another volume")
    try:
        with Site(tmp_path_factory.mktemp("site")) as site:
            store = place / "store"
            for path in (volume, other):
                site.voltool("volume", "add", path.name, f"local:{path}")
            site.voltool("dump", "--store", str(store), "vol1", "other")
            for level in (1, 2):
                (volume / f"new at level {level}").write_bytes(b"all the same " * 5000)
                os.rename(volume / f"new at level {level}", volume / f"kept at level {level}")
                site.voltool("dump", "--store", str(store), "--level", str(level), "vol1", check=False)
        reader = place / "voltool.pyz"
        reader.write_bytes(build_reader())
        for directory, names, files in os.walk(store):
            os.chmod(directory, 0o755)
            for name in (*names, *files):
                os.chmod(os.path.join(directory, name), 0o755)
        yield Dumps(volume, store, reader)
    finally:
        torture.destroy(volume)
        shutil.rmtree(place, ignore_errors=True)


def test_the_chain_in_any_order_is_the_volume(dumps: Dumps, tmp_path: Path) -> None:
    target = tmp_path / "target"
    done = dumps.run("restore", dumps.at(1), dumps.at(2), dumps.at(0), target, hide_lz4=True)
    assert done.returncode == EXIT_DONE, done.stderr
    assert "no lz4 library" in done.stderr
    assert compare(dumps.volume, target) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"target", "home"}
    assert f"restored to {target}" in done.stdout
    again = dumps.run("restore", dumps.at(2), target)
    assert again.returncode == EXIT_FAILED
    assert "not empty" in again.stderr
    torture.destroy(target)


def test_the_lone_newest_dump_finds_its_bases_beside_it(dumps: Dumps, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert dumps.run("restore", dumps.at(2), target).returncode == EXIT_DONE
    assert compare(dumps.volume, target, ignore={"holes"}) == []  # looking at preallocated bytes makes data of them
    torture.destroy(target)


def test_a_missing_base_is_named(dumps: Dumps, tmp_path: Path) -> None:
    shutil.copy(dumps.at(2), tmp_path)
    (alone,) = tmp_path.glob("*.voltool")
    done = dumps.run("restore", alone, tmp_path / "target")
    assert done.returncode == EXIT_INTEGRITY
    base = dumps.at(1).stem.rpartition("-")[2]
    assert f"since the dump {base} (state " in done.stderr
    assert not (tmp_path / "target").exists()
    listed = dumps.run("list", tmp_path)
    assert f"(the dump {base} below it is missing)" in listed.stdout
    shutil.copy(dumps.at(1), tmp_path)
    done = dumps.run("restore", alone, tmp_path / "target")
    assert dumps.at(0).stem.rpartition("-")[2] in done.stderr


def test_a_user_restores_what_a_user_can(dumps: Dumps) -> None:
    place = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="voltool-test-alone-"))
    os.chown(place, 65534, 65534)
    try:
        as_nobody = ("/usr/bin/setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all")
        done = dumps.run("restore", dumps.at(0, "other"), place / "target", before=as_nobody)
        assert done.returncode == EXIT_DONE, done.stderr
        assert "not restored: owner" in done.stderr
        assert (place / "target/file").read_text() == "of another volume"
        assert (place / "target/file").stat().st_uid == 65534
    finally:
        shutil.rmtree(place)


def test_listing(dumps: Dumps) -> None:
    done = dumps.run("list", dumps.store)
    assert done.returncode == EXIT_DONE
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith(" ")] == [
        ["level", "0"], ["level", "0"], ["level", "1"], ["level", "2"],
    ]  # fmt: skip
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["other", "vol1"]
    names = dumps.run("list", "--files", dumps.at(1)).stdout
    assert "kept at level 1" in names
    assert "kept at level 2" not in names


def test_more_dumps_than_files_may_be_open(dumps: Dumps, tmp_path: Path) -> None:
    for number in range(40):
        shutil.copy(dumps.at(0, "other"), tmp_path / f"{number}.voltool")
    done = dumps.run("list", tmp_path, before=("/bin/sh", "-c", 'ulimit -n 30; exec "$@"', "sh"))
    assert (done.returncode, done.stderr) == (EXIT_DONE, "")
    assert done.stdout.count("level 0") == 40
    done = dumps.run("verify", tmp_path, before=("/bin/sh", "-c", 'ulimit -n 30; exec "$@"', "sh"))
    assert (done.returncode, done.stdout.count("is whole")) == (EXIT_DONE, 40)


def test_verifying(dumps: Dumps, tmp_path: Path) -> None:
    done = dumps.run("verify", dumps.store)
    assert done.returncode == EXIT_DONE, done.stderr
    assert done.stdout.count(" is whole: ") == 2
    shutil.copytree(dumps.store, tmp_path / "store")
    damaged = tmp_path / "store/vol1" / dumps.at(1).name
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 1
    damaged.write_bytes(data)
    done = dumps.run("verify", tmp_path / "store")
    assert done.returncode == EXIT_INTEGRITY
    assert done.stdout.count(" is whole: ") == 2  # the other volume, and the level 0 dump below
    target = tmp_path / "target"
    assert dumps.run("restore", tmp_path / "store/vol1", target).returncode == EXIT_INTEGRITY
    assert not target.exists()


def test_what_cannot_be_meant(dumps: Dumps, tmp_path: Path) -> None:
    done = dumps.run("restore", dumps.store, tmp_path / "target")
    assert (done.returncode, "several volumes" in done.stderr) == (EXIT_USAGE, True)
    done = dumps.run("restore", tmp_path / "nothing.voltool", tmp_path / "target")
    assert (done.returncode, "No such file" in done.stderr) == (EXIT_FAILED, True)
    os.mkfifo(tmp_path / "pipe.voltool")
    (tmp_path / "link.voltool").symlink_to(dumps.at(0))
    (tmp_path / "noise\n.voltool").write_bytes(os.urandom(5000))
    assert dumps.run("list", tmp_path / "pipe.voltool").returncode == EXIT_USAGE
    done = dumps.run("list", tmp_path)
    assert done.returncode == EXIT_FAILED
    assert done.stderr.count("is passed over") == 3
    assert "noise\\x0a.voltool" in done.stderr
    assert dumps.run().returncode == EXIT_USAGE
    assert dumps.run("restore", dumps.at(0)).returncode == EXIT_USAGE


def test_the_dumps_were_compressed_with_lz4() -> None:
    """Or the others would show nothing."""
    assert codec.find_lz4() is not None
    assert os.path.exists(LIBRARY)
