"""`voltool doctor` where two hosts take themselves for a volume's home: what it says, what it does, and that nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.replica.hosts import Administrator, Ground
from tests.replica.test_promotion import findings
from voltool.errors import MovedError
from voltool.move.doctor import HostFinding, examine
from voltool.replica.contact import TellSettings, settle_homes
from voltool.replica.doctor import settle_claims
from voltool.volumes.lock.hold import in_container


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    """All three on one file system."""
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with LoopFilesystem("ext4") as filesystem:
        for host in "abc":
            (filesystem.path / host).mkdir()
        made = Ground(tmp_path / "ground", {host: filesystem.path / host / "vol" for host in "abc"})
        try:
            yield made
        finally:
            made.clear()


def doctor(administrator: Administrator, *, fix: bool) -> list[HostFinding]:
    """What it says of claims."""
    found = examine(administrator.world, fix=fix)
    if fix:
        found = settle_claims(administrator.world, found)
    return [each for each in found if each.finding.kind == "claims"]


def test_equal_epochs_are_a_split_and_a_lower_one_retires_without_anything_being_overwritten(ground: Ground) -> None:
    boss = ground.boss
    boss.add("b")
    boss.add("c")
    old, other = (Administrator(ground, name, like=boss) for name in ("old", "other"))
    ground.dead.update("ac")
    boss.promote("b")
    ground.dead.clear()
    ground.dead.update("ab")
    other.promote("c")
    ground.dead.clear()
    for host in "abc":
        (ground.paths[host] / "own").write_text(f"written at {host}")
        (ground.paths[host] / "d0/f0").write_text(f"changed at {host}")
    before = {host: ground.contents(host) for host in "abc"}
    (found,) = doctor(old, fix=False)
    assert "two hosts claim to be the volume's home" in found.finding.what
    for host, number in {"a": 1, "b": 2, "c": 2}.items():
        assert f"{host}:{ground.paths[host]} (epoch {number})" in found.finding.where
    assert "voltool replica promote vol HOST --force" in found.finding.remedy
    assert {host: ground.contents(host) for host in "abc"} == before
    for host in "abc":
        (ground.paths[host] / "own").touch()  # nobody has made any of them read-only

    (found,) = doctor(old, fix=True)
    assert not found.finding.fixed
    assert {host: ground.contents(host) for host in "bc"} == {host: before[host] for host in "bc"}
    for host in "bc":
        with pytest.raises(OSError, match="Read-only"):
            (ground.paths[host] / "own").touch()
    assert os.listdir(ground.paths["a"]) == []  # it is the home in no case
    (kept,) = (ground.paths["a"].parent / ".voltool").glob("*/retired-*")
    assert (kept / "own").read_text() == "written at a"
    assert any("2 paths were written at a meanwhile" in notice for notice in old.reporter.notices())
    assert any("split" in notice for notice in old.reporter.notices())
    (found,) = doctor(old, fix=True)
    assert not found.finding.fixed

    boss.promote("c")
    assert doctor(old, fix=True) == []
    assert ground.contents("c") == before["c"]
    (kept,) = (ground.paths["b"].parent / ".voltool").glob("*/retired-*")
    assert {str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before["b"]
    assert old.home() == "c"
    for administrator in (old, other):
        administrator.close()


def test_a_home_that_has_heard_of_a_later_one_and_cannot_retire_yet_makes_nothing_more_of_what_it_has(
    ground: Ground,
) -> None:
    boss = ground.boss
    boss.add("b")
    boss.add("c")
    old = Administrator(ground, "old", like=boss)
    ground.dead.add("a")
    boss.promote("b")
    ground.dead.clear()
    with (ground.paths["a"] / "d0/f0").open("ab") as file:
        (told,) = settle_homes(boss.world, boss.catalog.volume("vol"), settings=TellSettings(timeout=0))
        assert (told.host, told.outcome) == ("a", "unreached")
        assert "can still write to it" in told.why
        with pytest.raises(MovedError, match=f"b:{ground.paths['b']}.*has heard of it and could not retire yet"):
            old.dump()
        assert old.catalog.dumps() == []
        assert findings(old, "a") == {"replaced"}
        file.write(b"acknowledged")
    served = ground.contents("c")
    with pytest.raises(MovedError):
        old.sync("c")  # which makes contact
    assert ground.contents("c") == served
    assert (old.home(), os.listdir(ground.paths["a"])) == ("b", [])
    (kept,) = (ground.paths["a"].parent / ".voltool").glob("*/retired-*")
    assert (kept / "d0/f0").read_bytes().endswith(b"acknowledged")
    assert not list(kept.parent.glob("heard.json*"))
    old.dump()
    old.close()


def test_a_home_that_was_not_told_is_told_by_doctor_fix_also_of_a_catalog_that_knows_nothing(ground: Ground) -> None:
    boss = ground.boss
    boss.add("b")
    old = Administrator(ground, "old", like=boss)
    ground.dead.add("a")
    boss.promote("b")
    ground.dead.clear()
    (ground.paths["a"] / "own").write_text("written at a")
    before = ground.contents("b")
    (found,) = doctor(old, fix=False)
    assert (
        f"b:{ground.paths['b']} (epoch 2) is the later home; voltool doctor --fix lets the other"
        in found.finding.remedy
    )
    assert (ground.paths["a"] / "own").exists()
    (found,) = doctor(old, fix=True)
    assert found.finding.fixed
    assert doctor(old, fix=True) == []
    assert (old.home(), ground.contents("b"), os.listdir(ground.paths["a"])) == ("b", before, [])
    (kept,) = (ground.paths["a"].parent / ".voltool").glob("*/retired-*")
    assert (kept / "own").read_text() == "written at a"
    assert any("1 path was written at a meanwhile" in notice and "own" in notice for notice in old.reporter.notices())
    old.close()
