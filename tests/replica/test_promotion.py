"""Promotions on real file systems: the old home is lost and comes back with writes; two promotions, a split, and its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.replica.hosts import Administrator, Ground
from voltool.agent.replica import guard
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.promotion import HostPromotion
from voltool.errors import HostError, MovedError, RefusedError, VoltoolError
from voltool.model import SERVING, Peer, ReplicaRecord
from voltool.volumes.btrfs_ioctl import create_subvolume
from voltool.volumes.lock.hold import in_container
from voltool.wire import messages, replicas

Make = Callable[..., Ground]
KINDS = [("ext4", "xfs", "ext4"), ("btrfs", "btrfs", "btrfs"), ("ext4", "btrfs", "xfs")]


@pytest.fixture(params=KINDS[:2], ids=["-".join(kinds) for kinds in KINDS[:2]])
def ground(
    request: pytest.FixtureRequest, tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]
) -> Iterator[Ground]:
    yield from _made(request.param, tmp_path, make_filesystem)


@pytest.fixture
def mixed(tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]) -> Iterator[Ground]:
    yield from _made(KINDS[2], tmp_path, make_filesystem)


def _made(kinds: tuple[str, ...], tmp_path: Path, make_filesystem: Callable[..., LoopFilesystem]) -> Iterator[Ground]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    roots = [make_filesystem(kind).path for kind in kinds]
    if kinds[0] == "btrfs":
        descriptor = os.open(roots[0], os.O_RDONLY)
        create_subvolume(descriptor, b"vol")
        os.close(descriptor)
    made = Ground(tmp_path / "ground", dict(zip("abc", [root / "vol" for root in roots], strict=True)))
    yield made
    made.clear()


def test_the_old_home_is_lost_and_comes_back_with_writes(ground: Ground) -> None:
    boss, synced = ground.boss, ground.contents("a")
    boss.add("b")
    boss.dump()
    (ground.paths["a"] / "acknowledged").write_bytes(b"after the last sync")
    with pytest.raises(RefusedError, match="alive"):
        boss.promote("b", force=False)
    ground.dead.add("a")
    with pytest.raises(RefusedError, match="may be alive"):
        boss.promote("b", force=False)
    done = boss.promote("b")
    assert (done.record.epoch.number, done.untold, done.record.sequence > 2) == (2, ("a",), True)
    assert ground.contents("b") == synced
    (ground.paths["b"] / "d1" / "new").write_bytes(b"at the new home")
    level = boss.dump(1)
    assert (level.header.level, level.totals.data_bytes) == (1, len(b"at the new home"))
    assert level.header.epoch == done.record.epoch
    (ground.paths["a"] / "d0" / "f0").write_bytes(b"written by one who did not know")
    assert [told.outcome for told in boss.tell()] == ["unreached"]
    ground.dead.clear()
    (told,) = boss.tell()
    assert (told.outcome, told.aside) == ("retired", (b"acknowledged", b"d0/f0"))
    assert os.listdir(ground.paths["a"]) == []
    assert boss.tell() == []
    come_back(ground, Path(os.fsdecode(told.aside_place)))


def come_back(ground: Ground, kept: Path) -> None:
    """The former home becomes a replica, is synced, and is the home again; what it kept aside is not touched."""
    boss = ground.boss
    boss.add("a")
    assert ground.contents("a") == ground.contents("b")
    (ground.paths["b"] / "later").write_bytes(b"later")
    boss.sync("a")
    ground.dead.add("b")
    boss.promote("a")
    ground.dead.clear()
    assert (kept / "acknowledged").read_bytes() == b"after the last sync"
    assert (ground.paths["a"] / "later").read_bytes() == b"later"
    (told,) = boss.tell()
    assert (told.host, told.outcome, told.aside_count) == ("b", "retired", 0)
    assert boss.dump(1).header.epoch.number == 3
    assert findings(boss, "a") == {"aside"}
    assert findings(boss, "b") == set()


def findings(administrator: Administrator, host: str) -> set[str]:
    with administrator.world.hosts.connect(host) as agent:
        agent.send(messages.Examine(fix=False))
        return {finding.kind for finding in agent.receive().findings}


def test_two_promotions_are_a_split_that_the_user_ends(mixed: Ground) -> None:
    boss = mixed.boss
    boss.add("b")
    boss.add("c")
    other = Administrator(mixed, "other", like=boss)
    mixed.dead.update("ac")
    boss.promote("b")
    mixed.dead.clear()
    mixed.dead.update("ab")
    (mixed.paths["b"] / "at b").write_bytes(b"b")
    other.promote("c")
    (mixed.paths["c"] / "at c").write_bytes(b"c")
    mixed.dead.clear()
    with pytest.raises(MovedError):
        boss.sync("c")
    for host in "bc":
        with pytest.raises(OSError, match="Read-only"):
            (mixed.paths[host] / "no").touch()
    assert findings(boss, "b") == findings(boss, "c") == {"split"}
    assert any("split" in notice for notice in boss.reporter.notices())
    with pytest.raises(RefusedError, match="split"):
        boss.dump()
    with pytest.raises(RefusedError, match="several hosts"):
        boss.promote("c", force=False)
    done = boss.promote("c")
    assert done.record.epoch.number == 3
    assert {told.host: told.aside for told in done.told if told.host == "b"} == {"b": (b"at b",)}
    (mixed.paths["c"] / "yes").touch()
    boss.dump()
    other.settle()
    assert (boss.home(), other.home()) == ("c", "c")
    other.close()


def test_a_stale_catalog_makes_no_damage(mixed: Ground) -> None:
    """Another administrator still takes the old home for the volume's, which nobody has told."""
    boss = mixed.boss
    boss.add("b")
    boss.add("c")
    other = Administrator(mixed, "other", like=boss)
    mixed.dead.add("a")
    boss.promote("b")
    boss.sync("c")
    served = mixed.contents("c")
    mixed.dead.clear()
    (mixed.paths["a"] / "stale").write_bytes(b"at the old home")
    with pytest.raises(MovedError, match="another home"):
        other.sync("c")
    assert mixed.contents("c") == served
    assert other.home() == "b"
    assert os.listdir(mixed.paths["a"]) == []
    remove_promoted(other)
    assert mixed.contents("b") == served
    other.sync("c")
    other.close()


def remove_promoted(administrator: Administrator) -> None:
    """To remove what was a replica, by one who does not know that it is the volume."""
    row = administrator.catalog.volume("vol")
    with administrator.world.hosts.connect("b") as agent:
        agent.send(replicas.ListReplicas())
        assert agent.receive().replicas == ()
        stub = ReplicaRecord("x", row.uuid, "vol", row.path, Peer("a", "", "", b"/"), SERVING, 0)
        agent.send(replicas.ReplicaIn(stub, begin=False))
        agent.receive()
        agent.send(replicas.RemoveReplica(purge=True))
        agent.receive()


@pytest.mark.parametrize("cut", ["settle", "become_home", "open", "forget"])
def test_a_promotion_that_is_cut_off_is_gone_on_with(mixed: Ground, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    boss, synced = mixed.boss, mixed.contents("a")
    boss.add("c")
    mixed.dead.add("a")
    with monkeypatch.context() as patch:
        patch.setattr(HostPromotion, cut, lambda *_arguments: os._exit(0))
        with pytest.raises(VoltoolError):
            boss.promote("c")
    if cut in ("settle", "become_home"):
        with pytest.raises(OSError, match="Read-only"):
            (mixed.paths["c"] / "no").touch()
    done = boss.promote("c")
    assert mixed.contents("c") == synced
    assert done.untold == ("a",)
    assert not (mixed.paths["c"].parent / ".voltool" / f"replica-{boss.catalog.volume('vol').uuid}").exists()
    (mixed.paths["c"] / "yes").touch()
    assert boss.dump().header.epoch == done.record.epoch


def test_a_replica_that_somebody_has_changed(mixed: Ground) -> None:
    boss = mixed.boss
    boss.add("b")
    mixed.dead.add("a")
    path = os.fsencode(mixed.paths["b"])
    guard.unprotect(path)
    (mixed.paths["b"] / "d0" / "f0").write_bytes(b"by hand")
    mixed.dead.clear()
    with mixed.boss.world.hosts.connect("a") as agent:
        agent.send(messages.ForgetVolume(boss.catalog.volume("vol").uuid, os.fsencode(mixed.paths["a"])))
        agent.receive()
    with pytest.raises(RefusedError, match="changed"):
        boss.promote("b", force=False)
    boss.promote("b")
    assert (mixed.paths["b"] / "d0" / "f0").read_bytes() == b"by hand"
    assert boss.dump().header.epoch.number == 2


def test_a_replica_that_lacks_something_is_not_promoted(mixed: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    boss = mixed.boss

    def cut_off(_self: HostReplica, _record: ReplicaRecord) -> None:
        raise HostError("there is no more power")

    with monkeypatch.context() as patch:
        patch.setattr(HostReplica, "swap", cut_off)
        with pytest.raises(HostError):
            boss.add("b")
    mixed.dead.add("a")
    with pytest.raises(RefusedError, match="would be lost"):
        boss.promote("b")
    assert [row.role for row in boss.catalog.replicas()] == ["replica"]
    mixed.dead.clear()
    boss.sync("b")
    assert boss.dump().header.epoch.number == 1
