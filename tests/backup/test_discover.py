"""What lies in a store is found, and what is gone from it noticed, though not all of it is looked at each time."""

from __future__ import annotations

import dataclasses
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import make_volume
from tests.dumpfile.model import VOLUME, State, Thing, header_of, write_dump
from voltool.backup.discover import dumps_meant, known_dumps, learn, volume_dumps
from voltool.backup.ports import World
from voltool.catalog.sqlite import SqliteCatalog
from voltool.events import Event, Notice
from voltool.model import Epoch, StoredDump
from voltool.stores.contract import Store, StoredFile
from voltool.stores.local import LocalStore
from voltool.stores.naming import format_name
from voltool.stores.opening import StoreOpener

EMPTY = State({1: Thing(stat.S_IFDIR | 0o755)}, {})
FILLED = State({1: Thing(stat.S_IFDIR | 0o755), 2: Thing(stat.S_IFREG | 0o644, b"x")}, {(1, b"x"): 2})
OTHER_UUID = "e" * 32


def id_of(number: int) -> str:
    return f"{number:x}".ljust(32, "0")


class Notices:
    def __init__(self) -> None:
        self.all: list[str] = []

    def report(self, event: Event) -> None:
        assert isinstance(event, Notice)
        self.all.append(event.message)


class Place:
    """A catalog, a store, and a shelf with dumps that somebody may put into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notices = Notices()
        self.catalog = SqliteCatalog(str(root / "catalog.sqlite"))
        self.world = World(None, StoreOpener(0.0), self.catalog, self.notices, "test")  # type: ignore[arg-type]
        self.store = LocalStore(str(root / "store"))
        self.urls = [self.store.url]

    def put(
        self, number: int, directory: str = "vol", *, level: int = 0, uuid: str = VOLUME, **header_values: Any
    ) -> str:
        """A dump as a person copies it there, older than the next look; its id. Level 1 rests on dump 1."""
        dump_id = id_of(number)
        base = EMPTY if level else None
        header = dataclasses.replace(header_of(dump_id, level, base), volume_uuid=uuid, sequence=number)
        header = dataclasses.replace(header, **header_values)
        data, _totals = write_dump(FILLED if level else EMPTY, base, header, random.Random(1))
        place = self.root / "store" / format_name(directory, number * 10**9, level, dump_id)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        self.settle()
        return dump_id

    def settle(self) -> None:
        """Time passes: what has just changed, changed long ago."""
        for directory in (self.root / "store").iterdir():
            moment = directory.stat().st_mtime_ns
            if moment > time.time_ns() - 10**11:
                os.utime(directory, ns=(moment - 10**12, moment - 10**12))

    def path_of(self, dump: StoredDump) -> Path:
        return self.root / "store" / dump.file


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.catalog.close()


def ids(dumps: list[StoredDump]) -> list[str]:
    return [dump.header.dump_id for dump in dumps]


def test_a_dump_that_was_copied_there_is_found_by_its_volumes_name(place: Place) -> None:
    first = place.put(1)
    assert ids(known_dumps(place.world, place.urls)) == [first]
    second = place.put(2)
    volume = make_volume("vol", uuid=VOLUME)
    assert ids(volume_dumps(place.world, place.urls, volume)) == [first, second]
    third = place.put(3)
    assert ids(dumps_meant(place.world, place.urls, "vol")) == [first, second, third]
    place.catalog.put_volume(volume)
    fourth = place.put(4)
    assert ids(dumps_meant(place.world, place.urls, "vol")) == [first, second, third, fourth]


def test_one_that_lies_elsewhere_is_found_when_it_is_missed(place: Place) -> None:
    """The volume had another name then, and the catalog was lost since."""
    place.catalog.put_volume(make_volume("new", uuid=VOLUME))
    base = place.put(1, "old")
    above = place.put(2, "new", level=1)
    assert ids(dumps_meant(place.world, place.urls, "new")) == [base, above]


def test_by_its_id_alone(place: Place) -> None:
    known = place.put(1)
    learn(place.world, place.urls)
    new = place.put(2, "other", uuid=OTHER_UUID)
    assert ids(dumps_meant(place.world, place.urls, "2")) == [new]
    assert ids(dumps_meant(place.world, place.urls, "1")) == [known]
    assert dumps_meant(place.world, place.urls, "3") == []


def test_directories_that_did_not_change_are_not_listed_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []

    def noting(store: Store, prefix: str = "") -> Iterator[StoredFile]:
        listed.append(prefix)
        return real(store, prefix)  # type: ignore[arg-type]

    real = LocalStore.list
    monkeypatch.setattr(LocalStore, "list", noting)
    place.put(1)
    place.put(2, "other", uuid=OTHER_UUID)
    (place.root / "store/empty").mkdir()
    learn(place.world, place.urls)
    place.put(3)
    listed.clear()
    assert len(known_dumps(place.world, place.urls)) == 3
    assert "vol/" in listed
    assert "other/" not in listed
    listed.clear()
    assert len(known_dumps(place.world, place.urls)) == 3
    assert listed == ["empty/"]


def test_what_changed_just_now_is_listed_again(place: Place) -> None:
    """Another file may come in the same tick of the file system's clock."""
    place.put(1)
    (place.root / "store/vol").touch()
    learn(place.world, place.urls)
    assert place.catalog.listed(place.store.url) == {}


def test_what_vanished_is_noticed_once(place: Place) -> None:
    for number in (1, 2):
        place.put(number)
    gone, left = known_dumps(place.world, place.urls)
    place.path_of(gone).unlink()
    place.settle()
    assert known_dumps(place.world, place.urls) == [left]
    assert gone.header.dump_id[:12] in place.notices.all[-1]
    place.notices.all.clear()
    assert known_dumps(place.world, place.urls) == [left]
    assert place.notices.all == []


def test_a_whole_directory_that_vanished(place: Place) -> None:
    place.put(1)
    other = place.put(2, "other", uuid=OTHER_UUID)
    learn(place.world, place.urls)
    (dump,) = place.catalog.dumps(VOLUME)
    place.path_of(dump).unlink()
    place.path_of(dump).parent.rmdir()
    assert ids(known_dumps(place.world, place.urls)) == [other]
    assert "forgotten" in place.notices.all[-1]


@pytest.mark.parametrize("note", [False, True])
def test_a_store_that_is_not_mounted_loses_nothing(place: Place, note: bool) -> None:
    place.put(1)
    learn(place.world, place.urls)
    (place.root / "store").rename(place.root / "elsewhere")
    if note:  # as a run may have written it into the empty mount point
        place.store.put_aside("config.toml", b"x")
    looks: list[Callable[[], list[StoredDump]]] = [
        lambda: known_dumps(place.world, place.urls),
        lambda: dumps_meant(place.world, place.urls, "vol"),
        lambda: dumps_meant(place.world, place.urls, id_of(1)),
    ]
    for look in looks:
        assert look() == []
        assert "is it mounted?" in place.notices.all[-1]
    assert len(place.catalog.dumps()) == 1
    if note:
        (place.root / "store/config.toml").unlink()
        (place.root / "store").rmdir()
    (place.root / "elsewhere").rename(place.root / "store")
    assert len(known_dumps(place.world, place.urls)) == 1


def test_a_dump_that_was_moved_within_the_store_stays_known(place: Place) -> None:
    place.put(1)
    place.put(2)
    (moved, left) = known_dumps(place.world, place.urls)
    (place.root / "store/aside").mkdir()
    place.path_of(moved).rename(place.root / "store/aside" / Path(moved.file).name)
    place.settle()
    assert ids(known_dumps(place.world, place.urls)) == ids([moved, left])
    assert place.catalog.dumps()[0].file.startswith("aside/")


def test_what_is_no_dump_is_named_each_time(place: Place) -> None:
    place.put(1)
    learn(place.world, place.urls)
    broken = format_name("vol", 5 * 10**9, 0, "f" * 32)
    (place.root / "store" / broken).write_bytes(b"no dump")
    place.settle()
    for _ in range(2):
        place.notices.all.clear()
        assert len(known_dumps(place.world, place.urls)) == 1
        assert broken in place.notices.all[0]


@pytest.mark.parametrize(
    "hostile",
    [
        {"sequence": 10**30},
        {"clone_time_ns": -(10**30)},
        {"host": "\ud800"},
        {"base_dump_id": ["x"]},
        {"epoch": Epoch(1 << 63, "", "")},
    ],
)
def test_one_absurd_header_hides_no_other_dump(place: Place, hostile: dict[str, Any]) -> None:
    place.put(1)
    place.put(2, **hostile)
    place.put(3, "other", uuid=OTHER_UUID)
    assert len(known_dumps(place.world, place.urls)) == 2
    assert any("absurd" in notice for notice in place.notices.all)
