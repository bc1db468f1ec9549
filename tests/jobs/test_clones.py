"""Clones for the user, and where a volume lives: over a real sshd, on real btrfs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems import MIB, LoopFilesystem
from tests.hosts import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.add_host("hosta")
        yield made


@pytest.fixture
def volume(site: Site, make_filesystem: Callable[..., LoopFilesystem]) -> Path:
    """A btrfs subvolume with a file in it, adopted as ``vol``."""
    path = make_filesystem("btrfs", 256 * MIB).path / "vol"
    subprocess.run(["btrfs", "subvolume", "create", path], check=True, capture_output=True)
    (path / "file").write_bytes(b"before")
    site.voltool("volume", "add", "vol", f"hosta:{path}")
    return path


def answer(site: Site, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The result line of a command."""
    done = site.voltool("--json", *arguments, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_clone_is_frozen_and_outlives_dumps(site: Site, volume: Path) -> None:
    clone = answer(site, "clone", "vol")["clone"]
    (volume / "file").write_bytes(b"after")
    assert (Path(clone["path"]) / "file").read_bytes() == b"before"
    assert clone["consistency"] == "snapshot"
    with pytest.raises(OSError, match="Read-only"):
        (Path(clone["path"]) / "new").write_bytes(b"")
    for level in ("0", "1", "1"):
        site.voltool("dump", "--level", level, "vol")
    listed = answer(site, "clones", "vol")["clones"]
    assert listed[0] == clone
    assert [one["for"] for one in listed] == ["user", "dump", "dump"]
    assert (Path(clone["path"]) / "file").read_bytes() == b"before"
    assert clone["id"] in site.voltool("clones", "vol").stdout


def test_dropping_needs_one_that_is_the_users(site: Site, volume: Path) -> None:
    first, second = (answer(site, "clone", "vol")["clone"] for _ in range(2))
    site.voltool("dump", "vol")
    kept = answer(site, "clones", "vol")["clones"][-1]
    assert kept["for"] == "dump"
    assert answer(site, "clones", "vol", "--drop", kept["id"], code=2)["error"]["kind"] == "usage"
    assert answer(site, "clones", "vol", "--drop", "", code=1)["error"]["kind"] == "not_found"
    assert answer(site, "clones", "vol", "--drop", "nothing", code=1)["error"]["kind"] == "not_found"
    shortest = next(
        first["id"][:end]
        for end in range(1, 13)
        if not any(other["id"].startswith(first["id"][:end]) for other in (second, kept))
    )
    assert answer(site, "clones", "vol", "--drop", shortest)["dropped"] == first
    assert not Path(first["path"]).exists()
    assert [one["id"] for one in answer(site, "clones", "vol")["clones"]] == [second["id"], kept["id"]]


def test_a_directory_cannot_be_cloned(site: Site, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/file").write_bytes(b"x")
    site.voltool("volume", "add", "vol", f"hosta:{tmp_path}/plain", "--driver", "directory")
    error = answer(site, "clone", "vol", code=1)["error"]
    assert (error["kind"], "directory" in error["why"]) == ("refused", True)
    assert answer(site, "clones", "vol")["clones"] == []
    assert (tmp_path / "plain/file").read_bytes() == b"x"


def test_where_a_volume_lives(site: Site, volume: Path) -> None:
    assert site.voltool("where", "vol").stdout == f"hosta:{volume}\n"
    found = answer(site, "where", "vol")
    assert (found["host"], found["path"], found["epoch"]) == ("hosta", str(volume), 1)
    assert answer(site, "where", "nothing", code=1)["error"]["kind"] == "not_found"
