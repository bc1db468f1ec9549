"""Prune, undelete and merge for real: full disks, kills in the middle, two at once, and entries that point elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import judge
from tests.core.harness import Rig
from tests.filesystems import MIB, LoopFilesystem
from tests.hosts import VOLTOOL
from voltool.backup.accept import accept_point
from voltool.backup.dump import DumpOptions, dump_volume
from voltool.backup.keeping import Keeping
from voltool.backup.marks import read_marks
from voltool.backup.merge import merge_dump, replace_merged
from voltool.backup.ports import World
from voltool.backup.prune import prune_volume, purge_expired
from voltool.backup.undelete import undelete
from voltool.backup.verify import verify
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import NotFoundError, SpaceError, VoltoolError
from voltool.events import Event, Progressed
from voltool.model import StoredDump
from voltool.policy.chain import Lineage, point_of
from voltool.policy.retention import Rules
from voltool.stores.local import LocalStore
from voltool.stores.local_files import LocalWriter

LAST = Keeping(rules=Rules(last=1, min_age=0), min_free_percent=0.0)
NO_RULES = Keeping(min_free_percent=0.0)


@pytest.fixture(scope="module")
def small() -> Iterator[LoopFilesystem]:
    with LoopFilesystem("ext4", 48 * MIB) as filesystem:
        yield filesystem


@pytest.fixture
def ground(small: LoopFilesystem, tmp_path: Path) -> Iterator[Rig]:
    """A volume of 3 MB with three dumps, level 0 to 2; store, catalog and host's records on the small file system."""
    volume = tmp_path / "v/vol"
    volume.mkdir(parents=True)
    place = small.path / "state"
    with Rig(place, volume) as rig:
        (volume / "large").write_bytes(os.urandom(3 * MIB))
        (volume / "gone").write_text("at first")
        rig.dump(0)
        with open(volume / "large", "r+b") as file:
            file.seek(MIB)
            file.write(b"changed in place")
        rig.dump(1)
        (volume / "gone").unlink()
        (volume / "new").write_text("at last")
        rig.dump(2)
        yield rig
    for path in small.path.iterdir():
        if path.name != "lost+found":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def dumps_of(rig: Rig) -> list[StoredDump]:
    return rig.catalog.dumps()


def store_of(rig: Rig) -> Path:
    return rig.directory / "store"


def names(rig: Rig, *, hidden: bool = False) -> list[str]:
    """Files in the store; hidden ones instead."""
    found = (path for path in store_of(rig).rglob("*") if path.is_file() and path.suffix != ".json")
    return sorted(path.name for path in found if path.name.startswith(".") == hidden)


def assert_all_restore(rig: Rig) -> None:
    for dump in dumps_of(rig):
        verify(rig.world, dump)


def prune(rig: Rig, keeping: Keeping = LAST) -> list[StoredDump]:
    return list(prune_volume(rig.world, rig.volume.uuid, dumps_of(rig), keeping, time.time_ns()).dropped)


def voltool(rig: Rig, *arguments: str, check: bool = True) -> dict[str, Any]:
    """The real command with the rig's directory as its state directory: the rig's catalog and store are its own."""
    environment = {**os.environ, "VOLTOOL_STATE_DIR": str(rig.directory), "HOME": str(rig.directory)}
    done = subprocess.run(
        [VOLTOOL, "--json", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


# ------------------------------------------------------------------------------------------------------- full disks


def test_pruning_makes_room_on_a_disk_without_a_byte_left(ground: Rig, small: LoopFilesystem) -> None:
    ground.dump(0)
    config = ground.directory / ".config/voltool/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("keep.last = 1\nkeep.min_age = 0\n")
    ground.catalog.close()
    small.fill()
    with pytest.raises(OSError, match="No space"):
        (small.path / "x").write_bytes(b"x" * 4096)
    result = voltool(ground, "prune")
    assert len(result["dropped"]) == 3
    assert len(names(ground)) == 1
    assert len(names(ground, hidden=True)) == 3
    result = voltool(ground, "prune", "--purge-now", "--yes")
    assert len(result["purged"]) == 3
    assert names(ground, hidden=True) == []
    assert [dump["id"] for dump in voltool(ground, "dumps")["dumps"]] == [dumps_of(ground)[-1].header.dump_id]


def test_a_merge_without_room_leaves_everything_as_it_was(ground: Rig, small: LoopFilesystem) -> None:
    """Refused at once where it cannot fit; and where the disk fills up in its middle."""
    before = names(ground)
    newest = dumps_of(ground)[-1]
    filler = small.fill(leave=2 * MIB)
    with pytest.raises(SpaceError, match="may not fit"):
        merge_dump(ground.world, newest, NO_RULES)
    filler.unlink()

    class Filling:
        """Fills the disk when the first MiB is written."""

        def report(self, event: Event) -> None:
            if isinstance(event, Progressed) and event.phase == "merge" and event.bytes >= MIB:
                small.fill()

    with pytest.raises(SpaceError, match="full"):
        merge_dump(replace(ground.world, reporter=Filling()), newest, NO_RULES)
    (small.path / "filler").unlink()
    assert names(ground) == before
    assert names(ground, hidden=True) == []
    assert_all_restore(ground)


# ------------------------------------------------------------------------------------------------------------ kills


def in_a_child(rig: Rig, act: Callable[[World], object]) -> None:
    """``act`` in a process of its own, with a world of its own, that kills itself with SIGKILL somewhere in it."""
    pid = os.fork()
    if pid == 0:
        catalog = SqliteCatalog(rig.catalog.path)
        act(replace(rig.world, catalog=catalog))
        os._exit(0)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "it was to be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def die_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int, *, after: bool = False) -> None:
    """kill -9 in the ``call``-th call of a method, before or after it does its work; this process lives on."""
    real, parent, calls = getattr(owner, name), os.getpid(), [0]

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        mine = os.getpid() != parent and calls[0] == call
        if mine and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*arguments, **options)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("owner", "method", "call", "after"),
    [
        (LocalWriter, "write", 4, False),
        (LocalWriter, "read_back", 1, True),
        (LocalWriter, "publish", 1, False),
        (LocalWriter, "publish", 1, True),
        (LocalStore, "discard", 1, False),
        (LocalStore, "discard", 2, True),
    ],
)
def test_a_merge_that_is_killed_loses_nothing_and_is_repeated(
    ground: Rig, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, call: int, after: bool
) -> None:
    points = {point_of(dump) for dump in dumps_of(ground)}
    newest = dumps_of(ground)[-1]

    def merge_and_replace(world: World) -> None:
        outcome = merge_dump(world, newest, LAST)
        replace_merged(world, outcome, LAST, time.time_ns())

    die_at(monkeypatch, owner, method, call, after=after)
    in_a_child(ground, merge_and_replace)
    there = {dump.header.dump_id for dump in dumps_of(ground)} & {name[-40:-8] for name in names(ground)}
    assert all(name.startswith((".partial-", ".pin-", ".discarded-")) for name in names(ground, hidden=True))
    if owner is LocalWriter:
        assert points == {point_of(dump) for dump in dumps_of(ground) if dump.header.dump_id in there}
        assert_all_restore(ground)
    # Whatever there was, the same again makes it what it should be.
    merge_and_replace(ground.world)
    assert len(names(ground)) == 1
    assert not [name for name in names(ground, hidden=True) if not name.startswith(".discarded-")]
    full = dumps_of(ground)[-1]
    assert (full.header.level, point_of(full)) == (0, point_of(newest))
    verify(ground.world, full)


def test_a_prune_that_is_killed_breaks_no_chain(ground: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ground.dump(0)
    die_at(monkeypatch, LocalStore, "discard", 2, after=True)
    in_a_child(ground, lambda world: prune_volume(world, ground.volume.uuid, dumps_of(ground), LAST, time.time_ns()))
    left = [dump for dump in dumps_of(ground) if Path(dump.file).name in names(ground)]
    assert len(left) == 2
    assert all(Lineage(left).is_whole(dump) for dump in left)
    prune(ground)
    assert len(names(ground)) == 1
    assert len(names(ground, hidden=True)) == 3


# ----------------------------------------------------------------------------------------------------- at one time


def test_what_is_in_use_stays_with_what_it_rests_on(ground: Rig) -> None:
    one = dumps_of(ground)[1]
    ground.dump(0)
    store = ground.world.stores.open(one.store)
    with store.pin(one.file, "a restore"):
        outcome = prune_volume(ground.world, ground.volume.uuid, dumps_of(ground), LAST, time.time_ns())
    assert [dump.header.level for dump in outcome.dropped] == [2]
    assert [(each.dump.header.level, each.why) for each in outcome.spared] == [
        (1, "somebody restores, verifies or builds on it"),
        (0, f"dump {one.header.dump_id[:12]}, which rests on it, is still there"),
    ]
    assert len(prune(ground)) == 2


def test_a_prune_while_a_dump_is_made_takes_nothing_from_under_it(ground: Rig) -> None:
    """The rules would let the base go, for a later full dump is the newest; the dump that is being made holds it."""
    base = dumps_of(ground)[-1]
    seen: list[list[StoredDump]] = []
    made = ground.dump(
        3, after_scan=lambda: seen.append(prune(ground, replace(LAST, rules=Rules(yearly=1, min_age=0))))
    )
    assert made.header.base_dump_id == base.header.dump_id
    assert seen == [[]]
    verify(ground.world, made)


def test_a_dump_whose_base_went_away_all_the_same_is_not_published(ground: Rig) -> None:
    """Somebody removed it by hand."""
    zero = dumps_of(ground)[0]
    with pytest.raises(VoltoolError, match="base of the dump has gone"):
        ground.dump(3, after_scan=(store_of(ground) / zero.file).unlink)
    assert len(names(ground)) == 2


def test_a_base_that_was_dropped_in_the_last_moment_comes_back(ground: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump appears, and lets go of its base, between prune's look and its rename."""
    (ground.path / "more").write_text("so that the full dump is of another state, and cannot be the base too")
    ground.dump(0)
    base = dumps_of(ground)[2]
    real = LocalStore.discard
    late: list[StoredDump] = []

    def discard(store: LocalStore, name: str) -> None:
        if not late:
            monkeypatch.setattr(LocalStore, "discard", real)
            hidden = [dump for dump in dumps_of(ground) if dump.header.sequence == 4]
            ground.catalog.remove_dump(hidden[0].header.dump_id)  # so that the third is chosen as base
            away = store_of(ground) / hidden[0].file
            away.rename(store_of(ground) / "away")
            late.append(ground.dump(3))
            (store_of(ground) / "away").rename(away)
        real(store, name)

    monkeypatch.setattr(LocalStore, "discard", discard)
    dropped = prune(ground)
    assert late[0].header.base_dump_id == base.header.dump_id
    assert dropped == []
    verify(ground.world, late[0])


def test_two_prunes_at_once(ground: Rig) -> None:
    ground.dump(0)
    known = dumps_of(ground)
    children = []
    for _number in range(2):
        pid = os.fork()
        if pid == 0:
            world = replace(ground.world, catalog=SqliteCatalog(ground.catalog.path))
            outcome = prune_volume(world, ground.volume.uuid, known, LAST, time.time_ns())
            os._exit(0 if not outcome.spared else 1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert len(names(ground)) == 1
    assert len(names(ground, hidden=True)) == 3


# ------------------------------------------------------------------------------------------- bin, undelete, suspicion


def test_what_was_dropped_comes_back_whole_and_stays_for_the_grace_period(ground: Rig, tmp_path: Path) -> None:
    old = dumps_of(ground)[1]
    ground.restore(old, tmp_path / "before")
    ground.dump(0)
    assert len(prune(ground)) == 3
    assert voltool(ground, "dumps")["dumps"][0]["level"] == 0
    done = undelete(ground.world, [old.store], old.header.dump_id[:10])
    assert [base.header.level for base in done.bases] == [0]
    ground.restore(done.dump, tmp_path / "after")
    assert judge.compare(tmp_path / "before", tmp_path / "after") == []
    assert prune(ground) == []
    later = time.time_ns() + (LAST.grace + 10) * 10**9
    assert (
        len(prune_volume(ground.world, ground.volume.uuid, dumps_of(ground), LAST, later, dry_run=True).decisions) == 3
    )
    with pytest.raises(NotFoundError, match="no discarded dump"):
        undelete(ground.world, [old.store], old.header.dump_id)


def test_the_grace_period_is_kept_whatever_the_clocks_say(ground: Rig) -> None:
    ground.dump(0)
    prune(ground)
    known, week = dumps_of(ground), 7 * 86_400
    (path, *_others) = store_of(ground).rglob(".discarded-*")

    def purge(after: float) -> int:
        now_ns = time.time_ns() + int(after * 10**9)
        return len(purge_expired(ground.world, known, lambda _name: week, now_ns).purged)

    assert purge(week - 60) == 0
    assert purge(-(10**9)) == 0, "this machine's clock is in the past"
    assert purge(10**9) == 0, "it is thirty years ahead of everything"
    ahead = time.time() + 10**9
    os.utime(path, (ahead, ahead))
    assert purge(week + 60) == 2, "one of them was dropped in the future"
    os.utime(path)
    assert purge(week + 60) == 1


def test_nothing_goes_while_a_dump_is_suspicious(ground: Rig) -> None:
    for number in range(5):
        (ground.path / "small").write_text(str(number))
        ground.dump(1)
    (ground.path / "large").write_bytes(os.urandom(3 * MIB))
    attack = ground.dump(1)
    outcome = prune_volume(ground.world, ground.volume.uuid, dumps_of(ground), LAST, time.time_ns())
    assert outcome.dropped == ()
    assert f"voltool dumps --accept {attack.header.dump_id[:12]}" in outcome.alarms[0]
    assert "changes 3,14" in outcome.alarms[0]
    full = merge_dump(ground.world, attack, LAST)
    assert replace_merged(ground.world, full, LAST, time.time_ns()) == ([], [])
    voltool(ground, "dumps", "--accept", attack.header.dump_id[:10])
    ground.catalog.close()
    os.unlink(ground.catalog.path)  # lost; the store remembers
    accepted = read_marks(ground.world.stores.open(attack.store)).accepted
    assert {attack.header.dump_id, full.dump.header.dump_id} <= set(accepted), "both are that point in time"
    config = ground.directory / "config.toml"
    config.write_text("keep.last = 1\nkeep.min_age = 0\n")
    result = voltool(ground, "--config", str(config), "prune")
    assert len(result["dropped"]) == 9
    assert [decision["dump"] for decision in result["decisions"] if decision["keep"]] == [full.dump.header.dump_id]


def test_what_was_accepted_is_so_after_its_merge_too(ground: Rig) -> None:
    ground.dump()
    accepted = ground.dump(1)
    accept_point(ground.world, accepted, (), time.time_ns())
    full = merge_dump(ground.world, accepted, LAST).dump
    assert full.header.dump_id in read_marks(ground.world.stores.open(full.store)).accepted
    assert full.header.dump_id in ground.world.catalog.accepted()


# ---------------------------------------------------------------------------------------------------------- hostile


def test_nothing_outside_the_store_is_ever_removed(ground: Rig, tmp_path: Path) -> None:
    """Names in the store, its bin and the catalog that point elsewhere; a dump that claims to be another."""
    ground.dump(0)
    zero, one, two, newest = dumps_of(ground)
    outside = tmp_path / "outside"
    shutil.copytree(store_of(ground) / "vol", outside)
    precious = sorted(path.name for path in outside.iterdir())
    stamps = {path.name: path.stat().st_mtime_ns for path in outside.iterdir()}
    volume_directory = store_of(ground) / "vol"
    # The catalog: a file above the store, another dump's file.
    ground.catalog.add_dump(replace(zero, file=f"../../outside/{Path(zero.file).name}"))
    ground.catalog.add_dump(replace(one, file=newest.file))
    # The store: a link in a dump's place, a directory that leads out, a dump under another's name.
    (store_of(ground) / two.file).unlink()
    (store_of(ground) / two.file).symlink_to(outside / Path(two.file).name)
    (store_of(ground) / "linked").symlink_to(outside)
    (store_of(ground) / "bin").symlink_to(outside)
    false = "20260101T000000Z-L0-" + "e" * 32 + ".voltool"
    shutil.copy(store_of(ground) / newest.file, volume_directory / false)
    # The bin: a link, something that is no dump, a directory that leads out.
    (volume_directory / (".discarded-20260101T000000Z-L0-" + "d" * 32 + ".voltool")).symlink_to(outside / precious[0])
    (volume_directory / ".discarded-notes.txt").write_text("mine")
    for name in precious:
        (outside / f".discarded-{name}").write_text("mine")
    store = ground.world.stores.open(zero.store)
    for name in (f"linked/{precious[0]}", f"bin/{precious[1]}"):
        for act in (store.discard, store.purge, store.remove, store.recover):
            with pytest.raises(VoltoolError):
                act(name)
    prune(ground)
    purge_expired(ground.world, dumps_of(ground), lambda _name: 0, time.time_ns() + 10**9, at_once=True)
    assert sorted(path.name for path in outside.iterdir()) == sorted(
        [*precious, *(f".discarded-{name}" for name in precious)]
    )
    assert {name: (outside / name).stat().st_mtime_ns for name in precious} == stamps
    assert (store_of(ground) / newest.file).exists()
    assert (volume_directory / ".discarded-notes.txt").exists()
    assert ground.catalog.dumps()[-1].header.dump_id == newest.header.dump_id


def test_a_merge_of_a_damaged_chain_names_what_is_damaged(ground: Rig) -> None:
    zero, _one, two = dumps_of(ground)
    path = store_of(ground) / zero.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = names(ground)
    with pytest.raises(VoltoolError, match=Path(zero.file).name):
        merge_dump(ground.world, two, NO_RULES)
    assert names(ground) == before
    assert names(ground, hidden=True) == []


def test_without_rules_only_the_same_point_in_time_is_replaced(ground: Rig, tmp_path: Path) -> None:
    zero, one, two = dumps_of(ground)
    outcome = merge_dump(ground.world, two, NO_RULES)
    assert (outcome.dump.totals.state_id, outcome.dump.header.sequence) == (two.totals.state_id, two.header.sequence)
    ground.restore(two, tmp_path / "chain")
    ground.restore(outcome.dump, tmp_path / "merged")
    assert judge.compare(tmp_path / "chain", tmp_path / "merged") == []
    again = merge_dump(ground.world, two, NO_RULES)
    assert (again.made, again.dump) == (False, outcome.dump)
    assert set(again.chain) == {*outcome.chain, outcome.dump.header.dump_id}
    dropped, spared = replace_merged(ground.world, outcome, NO_RULES, time.time_ns())
    assert ([dump.header.dump_id for dump in dropped], spared) == ([two.header.dump_id], [])
    assert dumps_of(ground) == [zero, one, outcome.dump]
    # What the host kept for the incremental serves the next level 1: nothing is read again but what changed.
    (ground.path / "later").write_text("later")
    options = DumpOptions(level=1, store=two.store, min_free_percent=0.0, workers=1)
    ground.reporter.events.clear()
    made = dump_volume(ground.world, ground.volume, options)
    assert made.dump is not None
    assert made.dump.header.base_dump_id == outcome.dump.header.dump_id
    assert made.totals is not None
    assert made.totals.files == 1
    verify(ground.world, made.dump)
