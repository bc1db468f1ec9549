"""The host's records of its volumes: what survives, what is refused, what is found again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.volume import UUID, make_volume, record_for
from voltool.errors import BusyError, HostError, NotFoundError, RefusedError
from voltool.volumes import records

Make = Callable[..., LoopFilesystem]


@pytest.fixture
def state(tmp_path: Path) -> bytes:
    return bytes(tmp_path / "state")


def test_a_record_is_found_again_as_it_was(tmp_path: Path, state: bytes) -> None:
    path = tmp_path / os.fsdecode(b"odd \xff\n name")
    path.mkdir()
    record = replace(record_for(path, "directory"), excludes=(b"*.tmp", b"\xfe"))
    home = records.create(state, record)
    assert home.area == bytes(tmp_path) + b"/.voltool/" + UUID.encode()
    assert os.stat(tmp_path / ".voltool").st_mode & 0o777 == 0o700
    again = records.open_home(state, UUID, bytes(path))
    assert again.record == record
    assert again.area == home.area
    assert [found.record for found in records.list_homes(state)] == [record]


def test_the_area_of_a_mount_point_lies_inside(make_filesystem: Make, state: bytes) -> None:
    filesystem = make_filesystem("ext4")
    home = records.create(state, record_for(filesystem.path, "directory"))
    assert home.area == bytes(filesystem.path) + b"/.voltool/" + UUID.encode()
    filesystem.unmount()
    with pytest.raises(NotFoundError, match="not mounted") as caught:
        records.open_home(state, UUID, bytes(filesystem.path))
    assert "volume set" in caught.value.remedy
    assert records.list_homes(state) == []
    filesystem.mount()
    assert records.open_home(state, UUID, bytes(filesystem.path)).record.uuid == UUID


def test_the_sequence_grows_durably(tmp_path: Path, state: bytes) -> None:
    record = make_volume(tmp_path, "directory", Path(os.fsdecode(state)))
    home = records.open_home(state, UUID, record.path)
    stale = records.open_home(state, UUID, record.path)
    with home.lock("test"):
        assert [home.next_sequence(), home.next_sequence()] == [1, 2]
    with stale.lock("test"):
        assert stale.next_sequence() == 3
    assert records.open_home(state, UUID, record.path).record.sequence == 3


def test_the_lock_names_its_owner_and_ends_with_it(tmp_path: Path, state: bytes) -> None:
    record = make_volume(tmp_path, "directory", Path(os.fsdecode(state)))
    home = records.open_home(state, UUID, record.path)
    script = (
        "import sys,time\nfrom voltool.volumes import records\n"
        f"home = records.open_home({state!r}, {UUID!r}, {record.path!r})\n"
        "with home.lock('dump 42'):\n print('held', flush=True)\n time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="dump 42"), home.lock("test"):
            pass
        other.kill()
    with home.lock("test"):
        pass


def test_a_volume_that_is_not_where_it_was(tmp_path: Path, state: bytes) -> None:
    record = make_volume(tmp_path, "directory", Path(os.fsdecode(state)))
    for uuid, path in ((UUID, b"/elsewhere"), ("f" * 32, record.path)):
        with pytest.raises(NotFoundError) as caught:
            records.open_home(state, uuid, path)
        assert "voltool volume set" in caught.value.remedy
    (tmp_path / "vol").rename(tmp_path / "gone")
    with pytest.raises(NotFoundError, match="moved"):
        records.open_home(state, UUID, record.path)


def test_a_lost_or_damaged_record_is_no_volume(tmp_path: Path, state: bytes) -> None:
    record = make_volume(tmp_path, "directory", Path(os.fsdecode(state)))
    file = Path(os.fsdecode(records.area_of(record.path, UUID))) / "volume.json"
    for damage in (b"", b"{}", b"[1]", b'{"format": 1, "record": {"uuid": 7}}', file.read_bytes()[:-30]):
        file.write_bytes(damage)
        with pytest.raises(NotFoundError, match="lost"):
            records.open_home(state, UUID, record.path)


@pytest.mark.parametrize("trap", ["link", "open", "file", "owner"])
def test_an_area_that_somebody_prepared_for_us_is_refused(tmp_path: Path, state: bytes, trap: str) -> None:
    (tmp_path / "vol").mkdir()
    area = tmp_path / ".voltool"
    if trap == "link":
        (tmp_path / "victim").mkdir()
        area.symlink_to("victim")
    elif trap == "file":
        area.write_bytes(b"")
    else:
        area.mkdir(0o700)
        if trap == "open":
            area.chmod(0o755)
        elif os.geteuid() != 0:
            pytest.skip("needs root to give a directory away")
        else:
            os.chown(area, 12345, 12345)
    with pytest.raises(RefusedError, match="not voltool's alone"):
        records.create(state, record_for(tmp_path / "vol", "directory"))
    assert trap != "link" or not list((tmp_path / "victim").iterdir())


def test_forgetting_keeps_clones_in_mind(tmp_path: Path, state: bytes) -> None:
    record = make_volume(tmp_path, "directory", Path(os.fsdecode(state)))
    area = Path(os.fsdecode(records.area_of(record.path, UUID)))
    (area / "states").mkdir()
    (area / "states" / "s1").mkdir()
    assert records.forget(state, UUID) == [bytes(area / "states" / "s1")]
    assert (area / "states" / "s1").is_dir()
    with pytest.raises(NotFoundError):
        records.open_home(state, UUID, record.path)
    (entry,) = records.list_entries(state)
    assert entry.forgotten
    assert not entry.lives
    assert records.forget(state, UUID) == []
    records.create(state, record)
    (entry,) = records.list_entries(state)
    assert entry.lives


def test_forgetting_a_volume_without_leftovers_leaves_no_entry(tmp_path: Path, state: bytes) -> None:
    make_volume(tmp_path, "directory", Path(os.fsdecode(state)))
    assert records.forget(state, UUID) == []
    assert records.list_entries(state) == []


def test_no_rights_is_an_error_with_a_remedy(make_filesystem: Make, state: bytes) -> None:
    filesystem = make_filesystem("ext4")
    (filesystem.path / "vol").mkdir()
    filesystem.remount("ro")
    with pytest.raises(HostError) as caught:
        records.create(state, record_for(filesystem.path / "vol", "directory"))
    assert "become" in caught.value.remedy
