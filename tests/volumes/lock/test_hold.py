"""Locking and unlocking: what is seen from where, what a crash leaves, and the rename under the lock."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.lock.places import Place, step
from voltool.errors import BusyError, RefusedError
from voltool.volumes.lock import hold, mounting
from voltool.volumes.lock.book import LOCKING
from voltool.volumes.lock.hold import exchange_under_lock, is_in_force, unlock_tree


def writable(directory: Path) -> bool:
    try:
        (directory / "probe").touch()
    except OSError:
        return False
    (directory / "probe").unlink()
    return True


@pytest.mark.parametrize("kind", ["btrfs", "xfs", "tmpfs"])
def test_lock_and_unlock(kind: str, make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path) -> None:
    with Place(make_filesystem(kind), tmp_path / "host") as place:
        record = place.lock()
        assert is_in_force(record)
        assert not writable(place.volume)
        assert (place.volume / "sub/inner").read_bytes() == b"inner"
        assert place.unlock() == record
        assert writable(place.volume)
        assert place.unlock() is None
        assert mounting.mounts_at(os.fsencode(place.volume)) == []


def test_who_was_in_the_locked_tree_can_write_again_after_it(place: Place) -> None:
    place.lock()
    child = place.holder("", cwd=place.volume / "sub")
    assert step(child, "open('new', 'w')") == "Read-only file system"
    place.unlock()
    assert step(child, "open('new', 'w')") == "done"


def test_a_volume_that_is_a_mount_point_keeps_its_records_writable(
    make_filesystem: Callable[..., LoopFilesystem], tmp_path: Path
) -> None:
    with Place(make_filesystem("ext4"), tmp_path / "host") as place:
        place.volume = place.filesystem.path
        (place.volume / ".voltool").mkdir()
        place.lock()
        assert not writable(place.volume)
        assert not writable(place.volume / "vol/sub")
        assert writable(place.volume / ".voltool")
        place.unlock()
        assert writable(place.volume)
        assert len(mounting.mounts_at(os.fsencode(place.volume))) == 1


def test_a_shared_mount_is_read_only_in_the_namespaces_that_follow_it(place: Place) -> None:
    subprocess.run(["mount", "--make-shared", str(place.filesystem.path)], check=True)
    child = place.holder("", "unshare", "--mount", "--propagation", "slave")
    place.lock()
    assert step(child, "open(volume + '/new', 'w')") == "Read-only file system"
    place.unlock()
    assert step(child, "open(volume + '/new', 'w')") == "done"


def test_a_second_lock_is_refused_with_who_and_since_when(place: Place) -> None:
    first = place.lock()
    with pytest.raises(BusyError, match="by the test since"):
        place.lock()
    assert is_in_force(first)
    assert place.book.read() == first


def test_unlock_with_another_locks_token_does_nothing(place: Place) -> None:
    record = place.lock()
    assert unlock_tree(place.book, "another") is None
    assert is_in_force(record)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_a_crash_left_is_undone_by_the_next(place: Place, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies after each of the three mounts: nothing of its clean-up runs."""
    left = [steps]

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def act(*words: object, **named: object) -> None:
            real(*words, **named)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return act

    with monkeypatch.context() as patch:
        patch.setattr(mounting, "bind", dying(mounting.bind))
        patch.setattr(mounting, "remount", dying(mounting.remount))
        patch.setattr(hold, "unlock_tree", lambda _book, _token: None)
        with pytest.raises(KeyboardInterrupt):
            place.lock()
    record = place.book.read()
    assert record is not None
    assert record.phase == LOCKING
    if steps == 1:
        place.unlock()
    else:
        assert is_in_force(place.lock())  # it takes the dead one's place
        place.unlock()
    assert writable(place.volume)
    assert mounting.mounts_at(os.fsencode(place.volume)) == []


def test_a_record_from_before_a_boot_is_only_removed(place: Place) -> None:
    record = place.lock()
    with place.book.step("the test"):
        hold.undo(record)
        place.book.write(dataclasses.replace(record, boot_id="another"))
    assert not is_in_force(dataclasses.replace(record, boot_id="another"))
    assert place.unlock() is not None
    assert place.book.read() is None


def test_without_root_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RefusedError) as caught:
        hold.check_can_lock()
    assert "become = true" in caught.value.remedy


def test_in_a_container_it_is_refused(place: Place) -> None:
    code = "from voltool.volumes.lock.hold import check_can_lock; check_can_lock()"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert "RefusedError: a lock cannot be made from inside a container" in done.stderr


def test_the_tree_is_renamed_under_its_lock_and_stays_read_only(place: Place) -> None:
    spare = place.spare()
    child = place.holder("seen = None")
    record = place.lock()
    inside = place.holder("", cwd=place.volume / "sub")
    with pytest.raises(OSError, match="busy"):
        os.rename(place.volume, place.filesystem.path / "away")
    moved = exchange_under_lock(place.book, record.token, os.fsencode(spare))
    assert is_in_force(moved)
    assert list(place.volume.iterdir()) == []
    assert (spare / "sub/inner").read_bytes() == b"inner"
    assert not writable(spare)
    assert step(child, f"open({str(spare)!r} + '/file', 'a')") == "Read-only file system"
    assert step(inside, "open('new', 'w')") == "Read-only file system"
    assert step(inside, "open('inner')") == "done"
    place.unlock()
    assert writable(spare)
    assert step(inside, "open('new', 'w')") == "done"
    assert mounting.mounts_at(os.fsencode(spare)) == []


def test_a_rename_that_fails_leaves_the_lock_as_it_was(place: Place) -> None:
    record = place.lock()
    with pytest.raises(Exception, match="cannot be renamed"):
        exchange_under_lock(place.book, record.token, os.fsencode(place.filesystem.path / "missing"))
    assert place.book.read() == record
    assert is_in_force(record)
    assert not writable(place.volume)


def test_nothing_is_renamed_when_the_lock_is_gone(place: Place) -> None:
    spare = place.spare()
    record = place.lock()
    place.unlock()
    with pytest.raises(RefusedError, match="not held any more"):
        exchange_under_lock(place.book, record.token, os.fsencode(spare))
    assert (place.volume / "file").exists()


def test_a_damaged_record_is_named(place: Place, tmp_path: Path) -> None:
    place.lock()
    path = next((tmp_path / "host/locks").glob("*.json"))
    content = path.read_text()
    path.write_text(json.dumps({"format": "strange"}))
    with pytest.raises(Exception, match="does not have the form"):
        place.book.read()
    path.write_text(content)
