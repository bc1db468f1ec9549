"""`restore --in-place` and `size` from the command line on: what a person sees, what is asked, what machines read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_end_to_end import result
from tests.hosts import VOLTOOL, Site
from tests.terminal import OnTerminal


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.add_host("hostA")
        yield made


@pytest.fixture
def volume(site: Site, tmp_path: Path) -> Path:
    """A volume on ``hostA`` with a dump at level 0."""
    root = tmp_path / "srv" / "vol1"
    root.mkdir(parents=True)
    for number in range(14):
        (root / f"file{number}").write_bytes(b"dumped")
    (root / "large").write_bytes(os.urandom(3 << 20))
    site.voltool("volume", "add", "vol1", f"hostA:{root}")
    site.voltool("dump", "vol1")
    return root


def damage(volume: Path) -> None:
    for number in range(14):
        (volume / f"file{number}").write_bytes(b"changed")
    (volume / "extra\n").write_bytes(b"")
    (volume / "large").unlink()


def test_it_shows_asks_and_does(site: Site, volume: Path) -> None:
    place = ("vol1", f"hostA:{volume}", "--in-place", "--delete")
    damage(volume)
    before = {path.name: path.read_bytes() for path in volume.iterdir()}
    refused = site.voltool("restore", *place, check=False)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert site.voltool("restore", "vol1", f"hostA:{volume}", "--delete", check=False).returncode == 2
    shown = site.voltool("restore", *place, "--dry-run").stderr
    assert "1 deleted, 14 written, 1 created, 1 changed in attributes (3.0 MiB)" in shown
    assert "deleted: extra\\x0a" in shown
    assert "created: large" in shown
    assert "written: and 4 more (--verbose names them)" in shown
    assert site.voltool("restore", *place, "--dry-run", "--verbose").stderr.count("written: file") == 14
    with OnTerminal([str(VOLTOOL), "restore", *place], site.environment) as terminal:
        terminal.read_until(lambda text: "Go on?" in text)
        terminal.type("n\n")
        assert terminal.wait() == 0
    assert "nothing was changed" in terminal.screen.text()
    assert {path.name: path.read_bytes() for path in volume.iterdir()} == before
    with OnTerminal([str(VOLTOOL), "restore", *place], site.environment) as terminal:
        terminal.read_until(lambda text: "Go on?" in text)
        terminal.type("y\n")
        assert terminal.wait() == 0
    assert "vol1: restored in place" in terminal.screen.text()
    assert (volume / "file3").read_bytes() == b"dumped"
    assert not (volume / "extra\n").exists()
    damage(volume)
    last = result(site.voltool("restore", *place, "--yes", "--json"))
    assert {key: last["in_place"][key] for key in ("done", "created", "written", "deleted")} == {
        "done": True, "created": 1, "written": 14, "deleted": 1,
    }  # fmt: skip
    assert len(last["in_place"]["names"]) == 13
    last = result(site.voltool("restore", *place, "--yes", "--json"))
    assert (last["entries"], last["in_place"]["names"], last["problems"]) == (0, [], [])


def test_the_size_of_each_level(site: Site, volume: Path) -> None:
    (volume / "file1").write_bytes(b"x" * 1000)
    one = result(site.voltool("dump", "vol1", "--level", "2", "--json"))["dumps"][0]
    (volume / "new").write_bytes(b"y" * 500)
    left = sorted(os.walk(volume.parent))
    last = result(site.voltool("size", "vol1", "--json"))
    levels = {level["level"]: level for level in last["levels"]}
    assert sorted(levels) == list(range(10))
    assert (levels[0]["base"], levels[0]["files"], levels[0]["bytes"]) == (None, 16, (3 << 20) + 13 * 6 + 1500)
    assert (levels[1]["base_level"], levels[2]["base_level"]) == (0, 0)
    assert (levels[1]["files"], levels[1]["bytes"]) == (levels[2]["files"], levels[2]["bytes"]) == (2, 1500)
    assert (levels[9]["base"], levels[9]["base_level"]) == (one["id"], 2)
    assert (levels[9]["files"], levels[9]["bytes"]) == (1, 500)
    assert sorted(os.walk(volume.parent)) == left, "an estimate leaves traces"
    lines = site.voltool("size", "vol1", "--level", "9").stdout.splitlines()
    assert len(lines) == 2
    assert "(level 2)" in lines[1]
    dumped = result(site.voltool("dump", "vol1", "--level", "9", "--json"))["dumps"][0]
    assert dumped["data_bytes"] == 500
