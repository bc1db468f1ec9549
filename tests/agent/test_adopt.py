"""Adopting, showing, listing and forgetting volumes on their host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.host import OTHER, UUID, Collected, adoption, host_state
from tests.filesystems import LoopFilesystem
from tests.volumes.volume import make_volume
from voltool.agent.adopt import adopt_volume, forget_volume, list_volumes, show_volume
from voltool.agent.host import HostState
from voltool.errors import BusyError, NotFoundError, RefusedError, UsageError
from voltool.volumes import records
from voltool.volumes.registry import driver_named
from voltool.wire.messages import ForgetVolume, ListVolumes, ShowVolume

Make = Callable[..., LoopFilesystem]


@pytest.fixture
def host(tmp_path: Path) -> HostState:
    return host_state(tmp_path / "state")


@pytest.fixture
def talk() -> Collected:
    return Collected()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "srv" / "vol"
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x")
    return path


def test_adopting_again_with_the_same_values_changes_nothing(tree: Path, host: HostState, talk: Collected) -> None:
    first = adopt_volume(adoption(tree, excludes=(b"a", b"b")), talk, host)
    assert first.record.path == bytes(tree)
    assert first.record.driver == "directory"
    assert first.record.epoch.number == 1
    assert first.record.epoch.host == "testhost"
    assert first.states == ()
    assert adopt_volume(adoption(tree, excludes=(b"b", b"a")), talk, host) == first
    assert sorted(os.listdir(tree)) == ["file"]


def test_other_values_need_volume_set(tree: Path, host: HostState, talk: Collected) -> None:
    first = adopt_volume(adoption(tree), talk, host).record
    with pytest.raises(RefusedError) as caught:
        adopt_volume(adoption(tree, name="other"), talk, host)
    assert "voltool volume set" in caught.value.remedy
    changed = adopt_volume(adoption(tree, name="other", replace=True, sequence=9), talk, host).record
    assert (changed.name, changed.sequence) == ("other", 9)
    assert (changed.epoch, changed.created_ns) == (first.epoch, first.created_ns)


def test_a_host_that_was_set_up_anew_takes_the_record_beside_the_tree(
    tree: Path, host: HostState, talk: Collected
) -> None:
    before = adopt_volume(adoption(tree, sequence=5), talk, host).record
    (tmp,) = (Path(os.fsdecode(host.directory)) / "volumes").iterdir()
    tmp.unlink()
    after = adopt_volume(adoption(tree, replace=True, sequence=3), talk, host).record
    assert after == before


def test_links_on_the_way_are_resolved_and_told(tree: Path, host: HostState, talk: Collected, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("srv")
    record = adopt_volume(adoption(tmp_path / "link" / "vol"), talk, host).record
    assert record.path == bytes(tree)
    assert "that path is recorded" in talk.notices
    assert show_volume(ShowVolume(UUID, bytes(tmp_path / "link" / "vol")), talk, host).record == record


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"relative", UsageError),
        (b"/no/such/place", NotFoundError),
        (b"/etc/passwd", RefusedError),
        (b"/proc", RefusedError),
        (b"/proc/sys", RefusedError),
        (b"/sys/kernel", RefusedError),
        (b"/dev", RefusedError),
        (b"/run", RefusedError),
    ],
)
def test_paths_that_can_be_no_volume(path: bytes, error: type[Exception], host: HostState, talk: Collected) -> None:
    with pytest.raises(error):
        adopt_volume(adoption(path), talk, host)
    assert records.list_entries(host.directory) == []


def test_volumes_do_not_contain_each_other(tree: Path, host: HostState, talk: Collected) -> None:
    (tree / "inner").mkdir()
    (tree.parent / "vol2").mkdir()
    adopt_volume(adoption(tree), talk, host)
    for path in (tree / "inner", tree.parent, tree):
        with pytest.raises(RefusedError, match="volume"):
            adopt_volume(adoption(path, OTHER, name="other"), talk, host)
    adopt_volume(adoption(tree.parent / "vol2", OTHER, name="other"), talk, host)  # a common prefix is no containment
    assert len(list_volumes(ListVolumes(), talk, host).records) == 2


def test_stores_and_states_inside_are_refused(tree: Path, host: HostState, talk: Collected, tmp_path: Path) -> None:
    (tree / "store").mkdir()
    (tmp_path / "alias").symlink_to(tree / "store")
    for place in (tree / "store", tmp_path / "alias", tree):
        with pytest.raises(RefusedError, match="store or state"):
            adopt_volume(adoption(tree, forbidden=(bytes(place),)), talk, host)
    with pytest.raises(RefusedError, match="store or state"):
        adopt_volume(adoption(tree), talk, host_state(tree / "not yet" / "there"))
    adopt_volume(adoption(tree, forbidden=(bytes(tmp_path),)), talk, host)
    with pytest.raises(RefusedError, match=r"own directory"):
        adopt_volume(adoption(tree.parent / ".voltool" / UUID, OTHER), talk, host)


def test_what_is_mounted_inside_is_named(make_filesystem: Make, host: HostState, talk: Collected) -> None:
    filesystem = make_filesystem("ext4")
    inner = filesystem.path / "vol" / "inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
    adopt_volume(adoption(filesystem.path / "vol"), talk, host)
    assert f"not part of the volume, since other file systems are mounted there: {inner}" in talk.notices


def test_a_subvolume_gets_snapshots_and_its_clones_follow_it(
    make_filesystem: Make, host: HostState, talk: Collected, tmp_path: Path
) -> None:
    filesystem = make_filesystem("btrfs")
    path = Path(os.fsdecode(make_volume(filesystem.path, "btrfs", tmp_path / "other state").path))
    record = adopt_volume(adoption(path), talk, host).record
    assert record.driver == "btrfs"
    clone = driver_named("btrfs").clone(record, "dump1")
    (filesystem.path / "deeper").mkdir()
    path.rename(filesystem.path / "deeper" / "vol")
    with pytest.raises(NotFoundError):
        show_volume(ShowVolume(UUID, bytes(path)), talk, host)
    moved = adopt_volume(adoption(filesystem.path / "deeper" / "vol", replace=True), talk, host).record
    assert moved.epoch == record.epoch
    (found,) = driver_named("btrfs").clones(moved)
    assert (found.uuid, found.time_ns) == (clone.uuid, clone.time_ns)
    assert not (filesystem.path / ".voltool").exists()


def test_clones_on_another_file_system_are_named_and_stay(
    make_filesystem: Make, tree: Path, host: HostState, talk: Collected
) -> None:
    adopt_volume(adoption(tree), talk, host)
    other = make_filesystem("ext4").path / "vol"
    other.mkdir()
    adopt_volume(adoption(other, replace=True), talk, host)
    old = tree.parent / ".voltool" / UUID
    assert str(old) in talk.notices
    assert records.remembered_areas(host.directory) == [bytes(old)]
    forget_volume(ForgetVolume(UUID, bytes(other)), talk, host)
    assert records.remembered_areas(host.directory) == [bytes(old)]
    adopt_volume(adoption(other), talk, host)
    shutil.rmtree(old)
    forget_volume(ForgetVolume(UUID, bytes(other)), talk, host)
    assert records.remembered_areas(host.directory) == []


def test_states_with_home_stamps_are_shown(tree: Path, host: HostState, talk: Collected) -> None:
    record = adopt_volume(adoption(tree), talk, host).record
    states = Path(os.fsdecode(records.area_of(record.path, UUID))) / "states"
    for name, stamps in (("a" * 64, True), ("b" * 64, False), ("blocks", True)):
        (states / name).mkdir(parents=True)
        if stamps:
            (states / name / "stamps").touch()
    assert show_volume(ShowVolume(UUID, record.path), talk, host).states == ("a" * 64,)


def test_a_volume_in_use_is_not_changed(tree: Path, host: HostState, talk: Collected) -> None:
    record = adopt_volume(adoption(tree), talk, host).record
    home = records.open_home(host.directory, UUID, record.path)
    with home.lock("dump 7"):
        with pytest.raises(BusyError, match="dump 7"):
            adopt_volume(adoption(tree, name="other", replace=True), talk, host)
        with pytest.raises(BusyError, match="dump 7"):
            forget_volume(ForgetVolume(UUID, record.path), talk, host)
    assert show_volume(ShowVolume(UUID, record.path), talk, host).record == record


def test_forgetting_names_what_is_left_and_deletes_no_data(tree: Path, host: HostState, talk: Collected) -> None:
    record = adopt_volume(adoption(tree), talk, host).record
    left = Path(os.fsdecode(records.area_of(record.path, UUID))) / "clones" / "dump1"
    left.mkdir(parents=True)
    assert forget_volume(ForgetVolume(UUID, record.path), talk, host).left == (bytes(left),)
    assert left.is_dir()
    assert (tree / "file").read_bytes() == b"x"
    with pytest.raises(NotFoundError):
        forget_volume(ForgetVolume(UUID, record.path), talk, host)
    assert list_volumes(ListVolumes(), talk, host).records == ()


def test_a_volume_that_is_not_mounted_is_told_of(make_filesystem: Make, host: HostState, talk: Collected) -> None:
    filesystem = make_filesystem("ext4")
    adopt_volume(adoption(filesystem.path), talk, host)
    filesystem.unmount()
    assert list_volumes(ListVolumes(), talk, host).records == ()
    assert f"the records of the volume at {filesystem.path} cannot be read" in talk.notices
