"""A restore in place that is killed, has no room, meets users who go on working, mounts, links, and hostile dumps."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.core import copying
from tests.core.harness import Rig
from tests.filesystems import MIB, LoopFilesystem
from tests.judge import compare
from tests.torture import get_flags, set_flags
from voltool.backup import inplace
from voltool.backup.inplace import InPlaceOutcome, InPlaceWish, PlannedRestore, restore_in_place
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.reader import DumpReader
from voltool.errors import BusyError, IntegrityError, MovedError, NotFoundError, RefusedError, SpaceError, VoltoolError
from voltool.model import MOVED, RETIRED, Peer, Problem, SourceMove, StoredDump
from voltool.tree.inplace import ground
from voltool.tree.inplace.touch import Toucher
from voltool.tree.manifest import manifest_stream
from voltool.volumes import records
from voltool.volumes.moving.records import MoveBook
from voltool.wire import messages

Making = Callable[..., Rig]


def bring_back(
    rig: Rig, point: StoredDump, confirm: Callable[[PlannedRestore], bool] = lambda _plan: True, **wish: Any
) -> InPlaceOutcome:
    return restore_in_place(rig.world, point, "local", os.fsencode(rig.path), InPlaceWish(workers=1, **wish), confirm)


def fill(volume: Path, seed: int) -> None:
    """Files large and small, linked, sealed, of all sorts of types; another seed changes most of it, types too."""
    chosen = random.Random(seed)
    for number in range(6):
        path = volume / f"d{(number + seed) % 3}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chosen.randbytes(chosen.randrange(9_000)))
    (volume / "large").write_bytes(random.Random(7).randbytes(4 * MIB + 11) + b"%d" % seed)
    os.link(volume / "large", volume / f"link{seed}")
    (volume / f"only{seed}").mkdir()
    (volume / f"only{seed}" / "below").write_bytes(b"below")
    (volume / "now").mkdir() if seed % 2 else (volume / "now").symlink_to("elsewhere")
    os.chown(volume / "large", 1000 + seed, 5)
    os.setxattr(volume / "large", "user.seed", b"%d" % seed)
    sealed = volume / "sealed"
    sealed.write_bytes(b"%d" % seed)
    immutable(sealed, 0x10)


def immutable(path: Path, flags: int) -> None:
    with open(path, "rb") as file:
        set_flags(file.fileno(), (get_flags(file.fileno()) & ~0x10) | flags)


def empty(volume: Path) -> None:
    immutable(volume / "sealed", 0)
    for path in volume.iterdir():
        subprocess.run(["rm", "-rf", str(path)], check=True)


@pytest.fixture
def two(rig: Rig) -> tuple[StoredDump, StoredDump]:
    """Two points; copies of them stand beside the volume as ``copy0`` and ``copy1``. The volume is as at the second."""
    fill(rig.path, 0)
    first = rig.dump()
    copying.copy_tree(os.fsencode(rig.path), os.fsencode(rig.path.with_name("copy0")))
    empty(rig.path)
    fill(rig.path, 1)
    time.sleep(0.03)
    second = rig.dump(1)
    copying.copy_tree(os.fsencode(rig.path), os.fsencode(rig.path.with_name("copy1")))
    return first, second


def copy_of(rig: Rig, number: int) -> Path:
    return rig.path.with_name(f"copy{number}")


def assert_is(rig: Rig, number: int) -> None:
    assert compare(copy_of(rig, number), rig.path, ignore={"holes"}) == []
    assert sorted(os.listdir(rig.path.parent / ".voltool")) == [rig.volume.uuid], "staging is left"


# ----------------------------------------------------------------------------------------------------------- kill -9

#: From one moment to the next at which the agent is killed; odd, so that both points and both sides of a change have theirs.
STRIDE = int(os.environ.get("VOLTOOL_STRIDE", "9"))
_CHANGES = ("rename", "link", "unlink", "mkdir", "rmdir", "chown", "chmod", "utime", "setxattr", "fsync", "pwrite")


def killed_at(moment: int) -> Callable[[], None]:
    """For `Rig.hosts.inject`: the agent ends by SIGKILL right before or after its ``moment``-th change of anything."""

    def inject() -> None:
        agent, left = os.getpid(), [moment]

        def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
            def change(*arguments: Any, **named: Any) -> Any:
                if os.getpid() == agent:
                    left[0] -= 1
                    if left[0] == 0 and moment % 2:
                        os.kill(agent, signal.SIGKILL)
                try:
                    return real(*arguments, **named)
                finally:
                    if left[0] == 0 and os.getpid() == agent:
                        os.kill(agent, signal.SIGKILL)

            return change

        for name in _CHANGES:
            setattr(os, name, wrapped(getattr(os, name)))

    return inject


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and ".voltool" not in path.parts
    }


def test_killed_anywhere_it_goes_on(rig: Rig, two: tuple[StoredDump, StoredDump]) -> None:
    known = [contents(copy_of(rig, number)) for number in (0, 1)]
    target, moment, kills, touched = 0, 2, 0, 0
    while True:
        rig.hosts.inject = killed_at(moment)
        done = False
        with contextlib.suppress(VoltoolError, AssertionError):  # the harness, too, notices how the agent ended
            bring_back(rig, two[target], delete=True)
            done = True
        if done:
            break
        kills += 1
        for path, data in contents(rig.path).items():
            assert data in (known[0].get(path), known[1].get(path)), f"moment {moment}: half of {path}"
        touched += bool(compare(copy_of(rig, 1 - target), rig.path, ignore={"holes", "rsync"}))
        rig.hosts.inject = None
        assert bring_back(rig, two[target], delete=True).problems == ()
        assert_is(rig, target)
        target, moment = 1 - target, moment + STRIDE
    assert_is(rig, target)
    assert kills > 8
    assert touched > 3


def test_what_was_written_to_after_the_blow_is_not_taken_for_the_dump_s(rig: Rig) -> None:
    """Killed between two names of one object, staging shares its inode with the tree: a user may change it there."""
    (rig.path / "a").write_bytes(b"dumped")
    os.link(rig.path / "a", rig.path / "b")
    point = rig.dump()
    for name in "ab":
        (rig.path / name).unlink()
        (rig.path / name).write_bytes(b"old")

    def inject() -> None:
        real = Toucher.link_in

        def link_in(*arguments: Any) -> None:
            real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        Toucher.link_in = link_in  # type: ignore[assignment,method-assign]

    rig.hosts.inject = inject
    with contextlib.suppress(VoltoolError, AssertionError):
        bring_back(rig, point)
    (placed,) = [rig.path / name for name in "ab" if (rig.path / name).read_bytes() == b"dumped"]
    placed.write_bytes(b"MINE!!")
    rig.hosts.inject = None
    assert bring_back(rig, point).problems == ()
    assert [(rig.path / name).read_bytes() for name in "ab"] == [b"dumped", b"dumped"]
    assert (rig.path / "a").stat().st_ino == (rig.path / "b").stat().st_ino


def test_called_off_and_cut_off_nothing_has_happened(rig: Rig, two: tuple[StoredDump, StoredDump]) -> None:
    shown: list[PlannedRestore] = []

    def no(plan: PlannedRestore) -> bool:
        shown.append(plan)
        return False

    outcome = bring_back(rig, two[0], no, delete=True)
    assert (outcome.done, outcome.exit_code) == (False, 0)
    assert b"large" in shown[0].names["write"]
    assert b"link1" in shown[0].names["delete"]
    assert_is(rig, 1)
    assert not bring_back(rig, two[0], dry_run=True, delete=True).done
    assert_is(rig, 1)

    def cut(_plan: PlannedRestore) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring_back(rig, two[0], cut)
    assert compare(copy_of(rig, 1), rig.path, ignore={"holes"}) == []
    assert bring_back(rig, two[0], delete=True).exit_code == 0
    assert_is(rig, 0)
    again = bring_back(rig, two[0], lambda _plan: pytest.fail("nothing is to be asked"), delete=True)
    assert (again.planned.anything, again.planned.plan.transfer) == (False, False)


# ------------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("foreseen", [True, False])
def test_without_room_nothing_is_touched(tmp_path: Path, foreseen: bool) -> None:
    """Refused beforehand; and, of a file with holes, of which nobody can tell what it takes, when staging is full."""
    with LoopFilesystem("ext4", 128 * MIB) as small, Rig(tmp_path / "rig", _made(small.path / "v/vol")) as rig:
        with open(rig.path / "data", "wb") as file:
            file.writelines(random.Random(1).randbytes(MIB) for _ in range(24))
            file.seek(0 if foreseen else MIB, os.SEEK_CUR)
            file.write(b"end")
        point = rig.dump()
        (rig.path / "data").write_bytes(b"what a user has now")
        small.fill(leave=16 * MIB)
        with pytest.raises(SpaceError):
            bring_back(rig, point)
        assert (rig.path / "data").read_bytes() == b"what a user has now"
        assert (rig.path.parent / ".voltool").exists()
        (small.path / "filler").unlink(missing_ok=True)
        for path in small.path.iterdir():
            if path.is_file():
                path.unlink()
        assert bring_back(rig, point).problems == ()
        assert (rig.path / "data").stat().st_size >= 24 * MIB


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


# ------------------------------------------------------------------------------------------ users who go on working


def test_what_changes_meanwhile_is_left_and_named(rig: Rig) -> None:
    for name in ("replaced", "written", "gone", "appears", "doomed", "quiet", "attributes"):
        (rig.path / name).write_bytes(b"dumped")
    os.unlink(rig.path / "doomed")
    point = rig.dump()
    for name in ("replaced", "written", "gone", "quiet"):
        (rig.path / name).write_bytes(b"changed")
    (rig.path / "appears").unlink()
    (rig.path / "doomed").write_bytes(b"old")
    (rig.path / "attributes").chmod(0o600)
    (rig.path / "extra").mkdir()

    def meanwhile(_plan: PlannedRestore) -> bool:
        (rig.path / "new").write_bytes(b"precious")
        os.rename(rig.path / "new", rig.path / "replaced")
        (rig.path / "written").write_bytes(b"precious")
        (rig.path / "gone").unlink()
        (rig.path / "appears").write_bytes(b"precious")
        (rig.path / "doomed").write_bytes(b"precious")
        (rig.path / "attributes").write_bytes(b"precious")
        (rig.path / "extra" / "inside").write_bytes(b"precious")
        return True

    outcome = bring_back(rig, point, meanwhile, delete=True)
    assert outcome.exit_code == 3
    left = {problem.path for problem in outcome.problems if problem.problem is Problem.LEFT}
    assert left >= {b"replaced", b"written", b"gone", b"appears", b"doomed", b"attributes", b"extra"}
    for name in ("replaced", "written", "appears", "doomed", "attributes", "extra/inside"):
        assert (rig.path / name).read_bytes() == b"precious", name
    assert (rig.path / "quiet").read_bytes() == b"dumped"


@pytest.fixture
def large(rig: Rig) -> tuple[Path, StoredDump]:
    """A file of 9 MiB with a hole, of which a chain's two dumps have parts each; a few blocks of it are other ones now."""
    path = rig.path / "large"
    path.write_bytes(random.Random(5).randbytes(9 * MIB + 77))
    os.setxattr(path, "user.x", b"x")
    rig.dump()
    with path.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(bytes(MIB))
        file.seek(7 * MIB)
        file.write(b"level 1")
    immutable(path, 0x10)
    time.sleep(0.03)
    point = rig.dump(1)
    immutable(path, 0)
    copying.copy_tree(os.fsencode(rig.path), os.fsencode(rig.path.with_name("copy0")))
    immutable(rig.path.with_name("copy0") / "large", 0x10)
    os.link(path, rig.path / "other")
    with path.open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"changed")
        file.seek(8 * MIB)
        file.write(b"changed")
    return path, point


@pytest.mark.parametrize("length", [None, 6 * MIB, 12 * MIB])
def test_of_a_large_file_only_what_differs_comes(
    rig: Rig, large: tuple[Path, StoredDump], length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, point = large
    if length is not None:
        os.truncate(path, length)
    sent: list[int] = []
    real = inplace._send_chunks

    def counted(agent: Any, chain: Any, number: int, wanted: Bitmap) -> None:
        sent.extend(wanted.numbers(0, 1 << 40))
        real(agent, chain, number, wanted)

    monkeypatch.setattr(inplace, "_send_chunks", counted)
    outcome = bring_back(rig, point, delete=True)
    assert outcome.problems == ()
    assert (outcome.planned.plan.transfer, outcome.planned.plan.patches) == (False, True)
    assert sent == {None: [2, 8], 6 * MIB: [2, 6, 7, 8, 9], 12 * MIB: [2, 8, 9]}[length]
    assert_is(rig, 0)
    immutable(rig.path / "large", 0)


def test_a_large_file_that_changes_while_its_rest_comes_is_left(rig: Rig, large: tuple[Path, StoredDump]) -> None:
    path, point = large

    def meanwhile(_plan: PlannedRestore) -> bool:
        with path.open("r+b") as file:
            file.write(b"precious")
        return True

    outcome = bring_back(rig, point, meanwhile)
    assert {problem.path for problem in outcome.problems} == {b"large"}
    assert path.read_bytes()[:8] == b"precious"
    assert bring_back(rig, point).problems == ()
    immutable(path, 0)
    assert path.read_bytes()[:8] != b"precious"


def test_hard_links_to_the_outside_keep_what_they_have(rig: Rig) -> None:
    (rig.path / "a").write_bytes(b"dumped")
    (rig.path / "b").write_bytes(b"other")
    point = rig.dump()
    outside = rig.path.with_name("outside")
    os.link(rig.path / "a", outside)
    outside.write_bytes(b"changed")
    os.chmod(outside, 0o600)
    (rig.path / "b").unlink()
    os.link(rig.path / "a", rig.path / "b")
    assert bring_back(rig, point).problems == ()
    assert (outside.read_bytes(), outside.stat().st_mode & 0o777, outside.stat().st_nlink) == (b"changed", 0o600, 1)
    assert [(rig.path / name).read_bytes() for name in "ab"] == [b"dumped", b"other"]
    os.link(rig.path / "a", rig.path / "extra")
    os.chmod(rig.path / "a", 0o640)
    assert bring_back(rig, point).problems == ()
    assert (rig.path / "extra").stat().st_mode & 0o777 == 0o640, "a name that is not in the dump was changed"


# ------------------------------------------------------------------------------------------------- what is never left


@pytest.fixture
def mounted(rig: Rig) -> Iterator[Path]:
    """A directory outside, mounted in the volume in a wanted directory and in one that the dump does not have."""
    outside = rig.path.with_name("outside")
    (outside / "deep").mkdir(parents=True)
    (outside / "deep/precious").write_bytes(b"precious")
    points = [rig.path / "wanted/point", rig.path / "extra/sub/point"]
    (rig.path / "wanted/point").mkdir(parents=True)
    yield outside
    for point in points:
        subprocess.run(["umount", "-q", str(point)], check=False)


def test_deleting_never_leaves_the_path(rig: Rig, mounted: Path) -> None:
    (rig.path / "wanted/file").write_bytes(b"x")
    point = rig.dump()
    (rig.path / "extra/sub/point").mkdir(parents=True)
    (rig.path / "extra/sub/goes").write_bytes(b"")
    (rig.path / "extra/.voltool").mkdir()
    for place in ("wanted/point", "extra/sub/point"):
        subprocess.run(["mount", "--bind", str(mounted), str(rig.path / place)], check=True)
    (rig.path / "extra/link").symlink_to(mounted)
    (rig.path / "wanted/link").symlink_to(mounted / "deep")
    outcome = bring_back(rig, point, delete=True)
    assert outcome.problems == (), "mount points that have nothing of the dump's below them are no fault"
    assert (mounted / "deep/precious").read_bytes() == b"precious"
    found = {str(path.relative_to(rig.path)) for path in rig.path.rglob("*") if "point/" not in str(path)}
    assert found == {"wanted", "wanted/point", "wanted/file", "extra", "extra/sub", "extra/sub/point", "extra/.voltool"}
    notices = [notice for notice in rig.reporter.notices() if "left alone" in notice]
    assert {notice.split(" is left")[0] for notice in notices} == {"wanted/point", "extra/sub/point", "extra/.voltool"}
    # A file of the dump below a mount point is not put there, nor anywhere else, and that is said.
    subprocess.run(["umount", str(rig.path / "wanted/point")], check=True)
    (rig.path / "wanted/point/below").write_bytes(b"in the dump")
    point = rig.dump()
    subprocess.run(["mount", "--bind", str(mounted), str(rig.path / "wanted/point")], check=True)
    outcome = bring_back(rig, point, delete=True)
    assert [(problem.path, problem.problem) for problem in outcome.problems] == [(b"wanted/point", Problem.LEFT)]
    assert sorted(os.listdir(mounted)) == ["deep"]


def test_more_directories_than_are_kept_open(rig: Rig) -> None:
    """What is looked at of a directory comes after all that stand in it were opened: it must still be that directory."""
    top = rig.path / "top"
    for number in range(2 * ground.CACHED):
        (top / f"d{number:03d}/below").mkdir(parents=True)
        (top / f"d{number:03d}/file").write_bytes(b"dumped %d" % number)
    (top / "zz").write_bytes(b"dumped")
    known = contents(rig.path)
    point = rig.dump()
    for number in range(0, 2 * ground.CACHED, 3):
        subprocess.run(["rm", "-r", str(top / f"d{number:03d}")], check=True)
        (top / f"d{number + 1:03d}/extra").write_bytes(b"extra")
    (top / "zz").unlink()
    (top / "zzz").write_bytes(b"extra")
    assert bring_back(rig, point, delete=True).problems == ()
    assert contents(rig.path) == known


def test_only_what_is_selected_is_touched(rig: Rig) -> None:
    for path in ("a/in/file", "a/other", "b/file"):
        (rig.path / path).parent.mkdir(parents=True, exist_ok=True)
        (rig.path / path).write_bytes(b"dumped")
    point = rig.dump()
    for path in ("a/in/file", "a/other", "b/file", "a/in/extra", "a/extra", "extra"):
        (rig.path / path).write_bytes(b"changed")
    os.chmod(rig.path / "a", 0o700)
    assert bring_back(rig, point, only=(b"a/in",), delete=True).problems == ()
    assert contents(rig.path) == {
        "a/in/file": b"dumped", "a/other": b"changed", "b/file": b"changed", "a/extra": b"changed", "extra": b"changed",
    }  # fmt: skip
    assert (rig.path / "a").stat().st_mode & 0o777 == 0o700
    subprocess.run(["rm", "-r", str(rig.path / "a")], check=True)
    assert bring_back(rig, point, only=(b"a/in/file",), delete=True).problems == ()
    assert contents(rig.path) == {"a/in/file": b"dumped", "b/file": b"changed", "extra": b"changed"}
    with pytest.raises(NotFoundError):
        bring_back(rig, point, only=(b"a/missing",), delete=True)


def test_what_is_excluded_from_dumps_stays(ext4: Path, make_rig: Making) -> None:
    rig = make_rig(ext4, excludes=(b"*.tmp", b"cache/deep"))
    (rig.path / "kept").write_bytes(b"")
    point = rig.dump()
    for path in ("a.tmp", "cache/deep/x", "cache/goes", "extra/b.tmp", "extra/goes"):
        (rig.path / path).parent.mkdir(parents=True, exist_ok=True)
        (rig.path / path).write_bytes(b"")
    assert bring_back(rig, point, delete=True).problems == ()
    assert set(contents(rig.path)) == {"kept", "a.tmp", "cache/deep/x", "extra/b.tmp"}


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_directory_in_the_way_needs_delete(rig: Rig) -> None:
    (rig.path / "x").write_bytes(b"dumped")
    point = rig.dump()
    (rig.path / "x").unlink()
    (rig.path / "x/y").mkdir(parents=True)
    with pytest.raises(RefusedError, match="as it is"):
        bring_back(rig, point)
    assert (rig.path / "x/y").is_dir()
    assert bring_back(rig, point, delete=True).problems == ()
    assert (rig.path / "x").read_bytes() == b"dumped"


def test_what_is_not_to_be_touched_is_refused(rig: Rig, two: tuple[StoredDump, StoredDump]) -> None:
    state = os.fsencode(rig.directory / "host")
    home = records.open_home(state, rig.volume.uuid, os.fsencode(rig.path))
    with home.lock("somebody"), pytest.raises(BusyError):
        bring_back(rig, two[0])
    outer = [rig.path.parent, rig.path.parent.parent, rig.directory]
    for target in outer:  # the volume inside it, the store and the state of this host
        with pytest.raises(RefusedError):
            restore_in_place(rig.world, two[0], "local", os.fsencode(target), InPlaceWish(), lambda _plan: True)
    book = MoveBook(state)
    area = os.fsencode(rig.area)
    peer = Peer("hostb", "", "", b"/srv/vol")
    move = SourceMove("m", rig.volume.uuid, "vol", os.fsencode(rig.path), peer, "copying", 0)
    for phase, error in (("copying", RefusedError), (MOVED, RefusedError), (RETIRED, MovedError)):
        book.save_source(replace(move, phase=phase), area)
        with pytest.raises(error):
            bring_back(rig, two[0])
    book.remove_source(rig.volume.uuid, area)
    assert_is(rig, 1)


HOSTILE: dict[str, list[tuple[int, bytes, int]]] = {
    "out": [(1, b"..", 2)],
    "slash": [(1, b"a/b", 3)],
    "twice": [(1, b"a", 3), (1, b"a", 4)],
    "circle": [(1, b"a", 2), (2, b"b", 2)],
    "two parents": [(1, b"a", 2), (1, b"b", 2)],
    "ours": [(1, b".voltool", 2)],
    "nobody": [(1, b"a", 77)],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_refused(rig: Rig, entries: list[tuple[int, bytes, int]]) -> None:
    (rig.path / "a").mkdir()
    (rig.path / "a/precious").write_bytes(b"precious")
    point = rig.dump()
    before = contents(rig.path.parent)
    header = point.header
    with contextlib.closing(rig.world.stores.open(point.store).open(point.file)) as source:
        root = next(iter(DumpReader(source, "x").objects()))
    plain = fmt.decode_object(root)
    file = plain._replace(mode=0o100644, size=0)
    objects = [
        fmt.encode_object(one)
        for one in (plain, plain._replace(number=2), file._replace(number=3), file._replace(number=4))
    ]
    encoded = [number.to_bytes(8, "big") + name + b"\0" + child.to_bytes(8, "big") for number, name, child in entries]
    state_id = fmt.state_id(objects, encoded)
    request = messages.StartInPlace(os.fsencode(rig.path), header.volume_uuid, state_id, delete=True, volume_name="vol")
    with rig.hosts.connect("local") as agent:
        agent.send(request)
        for data in manifest_stream(header, objects, encoded, ()):
            agent.send_data(data)
        agent.send(messages.EndOfData())
        with pytest.raises(IntegrityError):
            agent.receive()
    assert contents(rig.path.parent) == before


def test_the_stream_must_be_what_was_asked_for(rig: Rig, two: tuple[StoredDump, StoredDump]) -> None:
    """Data that is cut off, or altered, is refused before anything is touched."""

    def short(plan: PlannedRestore) -> bool:
        assert plan.plan.transfer
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voltool.backup.inplace.send_stream", lambda _agent, _merge: None)
        with pytest.raises(IntegrityError):
            bring_back(rig, two[0], short, delete=True)
    assert compare(copy_of(rig, 1), rig.path, ignore={"holes"}) == []
    assert bring_back(rig, two[0], delete=True).problems == ()
    assert_is(rig, 0)
