"""`restore --in-place` and `size` from the command line on: what a person sees, what is asked, what machines read."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cli.test_end_to_end import result
from tests.hosts import VOLTOOL, Site
from tests.terminal import OnTerminal


def fill(volume: Path, content: bytes) -> None:
    for number in range(14):
        (volume / f"file{number}").write_bytes(content)


def test_it_shows_asks_and_does_and_each_level_has_a_size(tmp_path: Path) -> None:
    volume = tmp_path / "srv" / "vol1"
    volume.mkdir(parents=True)
    fill(volume, b"dumped")
    (volume / "large").write_bytes(os.urandom(3 << 20))
    place = ("vol1", f"local:{volume}", "--in-place", "--delete")
    store = f"file://{tmp_path}/around/store"
    with Site(tmp_path / "site") as site:
        site.voltool("volume", "add", "vol1", f"local:{volume}")
        site.voltool("dump", "vol1", "--store", store)
        fill(volume, b"changed")
        (volume / "extra\n").write_bytes(b"")
        (volume / "large").unlink()
        before = {path.name: path.read_bytes() for path in volume.iterdir()}
        refused = site.voltool("restore", *place, check=False)
        assert refused.returncode == 2
        assert "--yes" in refused.stderr
        around = site.voltool("restore", "vol1", f"local:{tmp_path}/around", "--in-place", "--dry-run", check=False)
        assert "the dumps lie in the directory" in around.stderr
        shown = site.voltool("restore", *place, "--dry-run").stdout
        for line in (
            "1 deleted, 14 written, 1 created, 1 changed in attributes (3.0 MiB)", "deleted: extra\\x0a",
            "created: large", "written: and 4 more (--verbose names them)",
        ):  # fmt: skip
            assert line in shown
        assert answer(site, place, "n") == "nothing was changed"
        assert {path.name: path.read_bytes() for path in volume.iterdir()} == before
        assert answer(site, (*place, "--verbose"), "y") == "vol1: restored in place"
        assert (volume / "file3").read_bytes() == b"dumped"
        assert not (volume / "extra\n").exists()
        fill(volume, b"changed")
        last = result(site.voltool("restore", *place, "--yes", "--json"))
        assert (last["in_place"]["done"], last["in_place"]["written"], last["entries"]) == (True, 14, 14)
        assert {name["change"] for name in last["in_place"]["names"]} == {"write"}
        assert len(last["in_place"]["names"]) == 10
        sizes(site, volume, store)


def answer(site: Site, place: tuple[str, ...], word: str) -> str:
    """What the last line says when a person at a terminal answers ``word``."""
    with OnTerminal([str(VOLTOOL), "restore", *place], site.environment) as terminal:
        terminal.read_until(lambda text: "Go on?" in text)
        shown = terminal.screen.text()
        assert shown.count("written: file") == (14 if "--verbose" in place else 10)
        terminal.type(word + "\n")
        assert terminal.wait() == 0
    text = terminal.screen.text()
    return next(known for known in ("nothing was changed", "vol1: restored in place") if known in text)


def sizes(site: Site, volume: Path, store: str) -> None:
    (volume / "file1").write_bytes(b"x" * 1000)
    two = result(site.voltool("dump", "vol1", "--level", "2", "--store", store, "--json"))["dumps"][0]
    (volume / "new").write_bytes(b"y" * 500)
    left = sorted(os.walk(volume.parent))
    last = result(site.voltool("size", "vol1", "--store", store, "--json"))
    levels = {level["level"]: level for level in last["levels"]}
    assert sorted(levels) == list(range(10))
    full = (3 << 20) + 13 * 6 + 1500
    assert (levels[0]["base"], levels[0]["files"], levels[0]["bytes"]) == (None, 16, full)
    assert (levels[1]["base_level"], levels[1]["bytes"]) == (0, full), "all have new inodes since the restore"
    assert levels[1] == {**levels[2], "level": 1}
    assert (levels[9]["base"], levels[9]["files"], levels[9]["bytes"]) == (two["id"], 1, 500)
    assert sorted(os.walk(volume.parent)) == left, "an estimate leaves traces"
    lines = site.voltool("size", "vol1", "--level", "9", "--store", store).stdout.splitlines()
    assert len(lines) == 2
    assert "(level 2)" in lines[1]
