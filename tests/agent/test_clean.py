"""`host clean`: everything of voltool goes, nothing else, and not while a volume lives there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.host import UUID, Collected, adoption, host_state
from tests.filesystems import LoopFilesystem
from tests.volumes.volume import make_volume
from voltool import durable
from voltool.agent.adopt import adopt_volume, forget_volume
from voltool.agent.clean import clean_host
from voltool.agent.host import HostState
from voltool.errors import BusyError, HostError, RefusedError
from voltool.volumes import records
from voltool.volumes.registry import driver_named
from voltool.volumes.removal import remove_tree
from voltool.wire.messages import CleanHost, ForgetVolume

Make = Callable[..., LoopFilesystem]


@pytest.fixture
def host(tmp_path: Path) -> HostState:
    return host_state(tmp_path / "state")


@pytest.fixture
def talk() -> Collected:
    return Collected()


def picture(*roots: Path) -> list[Path]:
    return sorted(path for root in roots for path in root.rglob("*"))


def test_a_host_with_a_volume_is_left_alone(tmp_path: Path, host: HostState, talk: Collected) -> None:
    (tmp_path / "vol").mkdir()
    adopt_volume(adoption(tmp_path / "vol"), talk, host)
    before = picture(tmp_path)
    for dry_run in (True, False):
        with pytest.raises(RefusedError, match="lives on this host") as caught:
            clean_host(CleanHost(dry_run), talk, host)
        assert "volume remove" in caught.value.remedy
    assert picture(tmp_path) == before


def test_after_forgetting_all_goes_and_nothing_else(
    make_filesystem: Make, tmp_path: Path, host: HostState, talk: Collected
) -> None:
    filesystem = make_filesystem("btrfs")
    volume = make_volume(filesystem.path, "btrfs", tmp_path / "unused")
    record = adopt_volume(adoption(volume.path), talk, host).record
    (filesystem.path / "vol/precious").write_bytes(b"data")
    driver_named("btrfs").clone(record, "dump1")
    area = filesystem.path / ".voltool"
    (area / UUID / "states" / "s").mkdir(parents=True)
    (area / "staging-abc" / "dirs").mkdir(parents=True)
    (area / "staging-abc" / "link").symlink_to(filesystem.path / "vol")
    state = Path(os.fsdecode(host.directory))
    (state / "agent").mkdir()
    (state / "agent" / "voltool-abc.pyz").touch()
    (state / "log").touch()
    (state / "catalog.sqlite").write_bytes(b"the command line's own")
    forget_volume(ForgetVolume(UUID, record.path), talk, host)

    before = picture(filesystem.path, state)
    would = clean_host(CleanHost(dry_run=True), talk, host).paths
    assert picture(filesystem.path, state) == before
    assert set(would) >= {bytes(area / UUID), bytes(area / "staging-abc"), bytes(state / "agent"), bytes(state / "log")}
    assert clean_host(CleanHost(dry_run=False), talk, host).paths == would
    assert set(picture(filesystem.path, state)) == {
        filesystem.path / "vol",
        filesystem.path / "vol/precious",
        state / "catalog.sqlite",
    }
    listed = subprocess.run(["btrfs", "subvolume", "list", filesystem.path], check=True, capture_output=True, text=True)
    assert listed.stdout.count("path ") == 1
    assert clean_host(CleanHost(dry_run=False), talk, host).paths == ()


def test_staging_of_a_restore_is_found_by_its_note(tmp_path: Path, host: HostState, talk: Collected) -> None:
    staging = tmp_path / "target" / ".voltool" / "staging-1"
    staging.mkdir(parents=True)
    staging.parent.chmod(0o700)
    (staging / "lock").touch()
    records.remember_area(host.directory, bytes(staging))
    running = durable.FileLock(bytes(staging / "lock"), what="the restore", owner="voltool restore")
    with running, pytest.raises(BusyError, match="voltool restore"):
        clean_host(CleanHost(dry_run=False), talk, host)
    assert staging.is_dir()
    clean_host(CleanHost(dry_run=False), talk, host)
    assert picture(tmp_path / "target") == []
    assert not os.path.exists(host.directory)


def test_a_directory_of_that_name_that_is_not_ours_stays(tmp_path: Path, host: HostState, talk: Collected) -> None:
    staging = tmp_path / ".voltool" / "staging-1"
    staging.mkdir(parents=True)
    staging.parent.chmod(0o777)
    records.remember_area(host.directory, bytes(staging))
    clean_host(CleanHost(dry_run=False), talk, host)
    assert staging.is_dir()


def test_removing_a_tree_follows_no_link_and_knows_no_length(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"x")
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    (doomed / "link").symlink_to(victim)
    os.mkfifo(doomed / "fifo")
    current = os.open(doomed, os.O_RDONLY)
    for _level in range(40):
        os.mkdir(b"n" * 200, dir_fd=current)
        below = os.open(b"n" * 200, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    remove_tree(bytes(doomed))
    remove_tree(bytes(doomed))
    assert picture(tmp_path) == sorted({*picture(tmp_path / "home"), tmp_path / "home", victim, victim / "file"})


def test_immutable_files_are_removed_too(make_filesystem: Make) -> None:
    doomed = make_filesystem("ext4").path / "doomed"
    (doomed / "dir").mkdir(parents=True)
    (doomed / "dir/file").touch()
    subprocess.run(["chattr", "+i", doomed / "dir/file"], check=True)
    subprocess.run(["chattr", "+a", doomed / "dir"], check=True)
    remove_tree(bytes(doomed))
    assert not doomed.exists()


def test_what_is_mounted_inside_is_not_emptied(make_filesystem: Make) -> None:
    doomed = make_filesystem("ext4").path / "doomed"
    (doomed / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", doomed / "inner"], check=True)
    (doomed / "inner/precious").write_bytes(b"x")
    with pytest.raises(HostError, match="mounted there"):
        remove_tree(bytes(doomed))
    assert (doomed / "inner/precious").read_bytes() == b"x"
