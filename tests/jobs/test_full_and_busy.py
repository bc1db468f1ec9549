"""Full file systems on either side, and two dumps of one volume at once."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import judge
from tests.filesystems import MIB, LoopFilesystem
from tests.hosts import VOLTOOL, Site
from tests.remote.processes import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.add_host("hosta")
        yield made


@pytest.fixture
def volume(site: Site, tmp_path: Path) -> Path:
    """30 MB that do not compress."""
    path = tmp_path / "srv/volume"
    path.mkdir(parents=True)
    for number in range(15):
        (path / f"file{number}").write_bytes(random.Random(number).randbytes(2 * MIB))
    site.voltool("volume", "add", "vol", f"hosta:{path}")
    return path


def failed(site: Site, *arguments: str) -> dict[str, Any]:
    """The error of a command that must fail."""
    done = site.voltool("--json", *arguments, check=False)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == result["exit"] != 0, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    return result


def dumps_in(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.is_file() and path.suffix == ".voltool"]


@pytest.mark.parametrize("room", [20 * MIB, 31 * MIB])
def test_a_store_without_room(
    site: Site, volume: Path, room: int, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    """Not enough from the start; and enough but for what min_free keeps."""
    small = make_filesystem("ext4", 128 * MIB)
    filler = small.fill(leave=room)
    result = failed(site, "dump", "vol", "--store", f"file://{small.path}/store")
    assert result["exit"] == 1
    assert '"no_space"' in json.dumps(result)
    assert dumps_in(small.path) == []
    filler.unlink()
    site.voltool("dump", "vol", "--store", f"file://{small.path}/store")
    assert len(dumps_in(small.path)) == 1
    assert list((small.path / "store").rglob(".*")) == []


def test_a_full_target_goes_on_when_there_is_room(
    site: Site, volume: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    """Of a chain nobody knows beforehand how much room it takes."""
    site.voltool("dump", "vol")
    (volume / "late").write_bytes(b"x")
    site.voltool("dump", "vol", "--level", "1")
    small = make_filesystem("ext4", 128 * MIB)
    filler = small.fill(leave=16 * MIB)
    target = small.path / "target"
    result = failed(site, "restore", "vol", f"hosta:{target}")
    assert result["exit"] == 1
    assert '"no_space"' in json.dumps(result)
    assert not target.exists()
    filler.unlink()
    site.voltool("restore", "vol", f"hosta:{target}")
    assert judge.compare(volume, target) == []
    assert not (small.path / ".voltool").exists()


@pytest.mark.parametrize("short_of", ["bytes", "inodes"])
def test_a_target_that_is_too_small_is_refused_before_anything_is_sent(
    site: Site, volume: Path, short_of: str, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    if short_of == "inodes":
        for number in range(200):
            (volume / f"empty{number}").write_bytes(b"")
    site.voltool("dump", "vol")
    options = {"mkfs_options": ["-N", "128"]} if short_of == "inodes" else {}
    small = make_filesystem("ext4", 128 * MIB, **options)
    if short_of == "bytes":
        small.fill(leave=16 * MIB)
    error = failed(site, "restore", "vol", f"hosta:{small.path}/target")["error"]
    assert error["kind"] == "no_space"
    assert f"{short_of} are needed" in error["why"]
    assert not (small.path / "target").exists()
    assert not (small.path / ".voltool").exists()


def test_a_full_source_is_an_error_and_no_dump(site: Site, make_filesystem: Callable[..., LoopFilesystem]) -> None:
    """There is no room for what the host must keep or sort."""
    small = make_filesystem("ext4", 64 * MIB)
    volume = small.path / "srv/volume"
    volume.mkdir(parents=True)
    for number in range(2000):
        (volume / f"{number}").write_bytes(os.urandom(100))
    site.voltool("volume", "add", "full", f"hosta:{volume}")
    filler = small.fill()
    result = failed(site, "dump", "full")
    assert result["exit"] == 1
    assert dumps_in(site.state) == []
    filler.unlink()
    site.voltool("dump", "full")
    assert len(dumps_in(site.state)) == 1


def test_a_second_dump_of_a_volume_is_told_who_is_at_it(site: Site, volume: Path) -> None:
    slow = subprocess.Popen(
        [str(VOLTOOL), "dump", "vol", "--bandwidth", "4M"],
        env=site.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        (area,) = (volume.parent / ".voltool").iterdir()
        assert wait_until(lambda: (area / "lock").exists() and (area / "lock").stat().st_size > 0)
        done = site.voltool("dump", "vol", check=False)
        assert slow.poll() is None
    finally:
        output = slow.communicate(timeout=60)[0]
    assert slow.returncode == 0, output
    assert done.returncode == 4
    assert "held by" in done.stderr
    assert "since 20" in done.stderr


def test_a_store_that_can_only_be_read(
    site: Site, volume: Path, tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> None:
    """A backup disk mounted read-only: everything that only reads works."""
    disk = make_filesystem("ext4", 128 * MIB)
    site.voltool("dump", "vol", "--store", f"file://{disk.path}/store")
    disk.remount("ro")
    site.voltool("verify", "vol")
    assert "file0" in site.voltool("ls", "vol").stdout
    site.voltool("restore", "vol", f"hosta:{tmp_path}/back")
    assert judge.compare(volume, tmp_path / "back") == []
    assert failed(site, "dump", "vol", "--store", f"file://{disk.path}/store")["exit"] == 1
