"""What every store must do. A store joins by a subclass of `StoreConformance` with a `store` fixture."""

from __future__ import annotations

import time

import pytest

from voltool.errors import NotFoundError, RefusedError, UsageError
from voltool.stores.contract import Store

DATA = bytes(range(256)) * 40


def put(store: Store, name: str, data: bytes = DATA) -> None:
    writer = store.create(name)
    writer.write(data)
    writer.publish()


def get(store: Store, name: str) -> bytes:
    reader = store.open(name)
    try:
        return reader.read_at(0, reader.size)
    finally:
        reader.close()


class StoreConformance:
    """The contract of `voltool.stores.contract`, as a user of a store would notice it."""

    def test_what_was_published_is_read_back(self, store: Store) -> None:
        writer = store.create("vol/a.voltool")
        writer.write(DATA[:100])
        writer.write(memoryview(DATA)[100:])
        writer.publish()
        assert get(store, "vol/a.voltool") == DATA

    def test_it_appears_only_when_published(self, store: Store) -> None:
        writer = store.create("vol/a.voltool")
        writer.write(DATA)
        assert list(store.list()) == []
        with pytest.raises(NotFoundError):
            store.open("vol/a.voltool")
        writer.publish()
        assert [(file.name, file.size) for file in store.list()] == [("vol/a.voltool", len(DATA))]

    def test_an_abandoned_file_never_was(self, store: Store) -> None:
        writer = store.create("vol/a.voltool")
        writer.write(DATA)
        writer.abandon()
        writer.abandon()
        assert list(store.list()) == []
        assert store.sweep() == ()
        put(store, "vol/a.voltool")

    def test_abandon_after_publish_does_nothing(self, store: Store) -> None:
        writer = store.create("vol/a.voltool")
        writer.write(DATA)
        writer.publish()
        writer.abandon()
        assert get(store, "vol/a.voltool") == DATA

    def test_a_name_is_never_replaced(self, store: Store) -> None:
        first, second = store.create("vol/a.voltool"), store.create("vol/a.voltool")
        first.write(b"first")
        second.write(b"second")
        first.publish()
        with pytest.raises(RefusedError):
            second.publish()
        second.abandon()
        with pytest.raises(RefusedError):
            store.create("vol/a.voltool")
        assert get(store, "vol/a.voltool") == b"first"

    def test_the_listing_is_sorted_and_cut_by_prefix(self, store: Store) -> None:
        for name in ("b/2.voltool", "a/1.voltool", "ab/3.voltool", "a/0.voltool"):
            put(store, name)
        assert [file.name for file in store.list()] == ["a/0.voltool", "a/1.voltool", "ab/3.voltool", "b/2.voltool"]
        assert [file.name for file in store.list("a/")] == ["a/0.voltool", "a/1.voltool"]

    def test_reading_at_any_place(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        reader = store.open("vol/a.voltool")
        assert reader.size == len(DATA)
        assert reader.read_at(1000, 10) == DATA[1000:1010]
        assert reader.read_at(len(DATA) - 3, 10) == DATA[-3:]
        assert reader.read_at(len(DATA) + 5, 10) == b""
        reader.close()
        reader.close()

    def test_removing(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        store.remove("vol/a.voltool")
        store.remove("vol/a.voltool")
        store.remove("never/there.voltool")
        assert list(store.list()) == []

    def test_a_pin_lasts_as_long_as_its_context(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        put(store, "vol/a.voltool-b")
        assert not store.is_pinned("vol/a.voltool")
        with store.pin("vol/a.voltool", "a dump on top"), store.pin("vol/a.voltool", "another"):
            assert store.is_pinned("vol/a.voltool")
            assert not store.is_pinned("vol/a.voltool-b")
            assert [file.name for file in store.list()] == ["vol/a.voltool", "vol/a.voltool-b"]
        assert not store.is_pinned("vol/a.voltool")

    def test_what_is_not_there_cannot_be_pinned(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        with pytest.raises(NotFoundError), store.pin("vol/b.voltool", "x"):
            pytest.fail("pinned")
        assert not store.is_pinned("vol/b.voltool")

    def test_a_living_writer_is_not_swept(self, store: Store) -> None:
        writer = store.create("vol/a.voltool")
        writer.write(DATA)
        assert store.sweep() == ()
        writer.publish()
        assert get(store, "vol/a.voltool") == DATA

    @pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", ".a", "a/.b", "a/", "a\0b"])
    def test_names_that_would_lead_elsewhere(self, store: Store, name: str) -> None:
        for act in (store.create, store.open, store.remove, store.is_pinned):
            with pytest.raises(UsageError):
                act(name)

    def test_a_prefix_is_where_to_look(self, store: Store) -> None:
        for name in ("a/0.voltool", "a/1.voltool", "ab/2.voltool"):
            put(store, name)
        assert [file.name for file in store.list("a/1")] == ["a/1.voltool"]
        assert [file.name for file in store.list("a")] == ["a/0.voltool", "a/1.voltool", "ab/2.voltool"]
        for nothing in ("c/", "a/0.voltool/", "../", "a/../ab/", "//", ".discarded/"):
            assert list(store.list(nothing)) == []

    def test_a_directory_says_that_files_came_and_went(self, store: Store) -> None:
        assert list(store.directories()) == []
        put(store, "b/0.voltool")
        put(store, "a/0.voltool")
        store.put_aside("config.toml", b"x")
        store.discard("b/0.voltool")
        before = list(store.directories())
        assert [directory.name for directory in before] == ["a", "b"]
        assert list(store.directories()) == before
        time.sleep(1.1)  # some stores keep whole seconds
        put(store, "a/1.voltool")
        store.recover("b/0.voltool")
        after = list(store.directories())
        assert all(one.mtime_ns < other.mtime_ns for one, other in zip(before, after, strict=True))

    def test_what_was_discarded_can_be_brought_back(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        put(store, "vol/b.voltool", b"b")
        store.discard("vol/a.voltool")
        store.discard("vol/a.voltool")
        assert [file.name for file in store.list()] == ["vol/b.voltool"]
        assert [(file.name, file.size) for file in store.discarded()] == [("vol/a.voltool", len(DATA))]
        assert [file.name for file in store.discarded("vol/")] == ["vol/a.voltool"]
        assert list(store.discarded("other/")) == []
        with pytest.raises(NotFoundError):
            store.open("vol/a.voltool")
        store.recover("vol/a.voltool")
        assert get(store, "vol/a.voltool") == DATA
        assert list(store.discarded()) == []
        with pytest.raises(NotFoundError):
            store.recover("vol/a.voltool")

    def test_a_discarded_file_says_when_that_was(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        put(store, "vol/b.voltool")
        (before,) = store.list("vol/a")
        time.sleep(1.1)  # some stores keep whole seconds
        store.discard("vol/a.voltool")
        (discarded,) = store.discarded()
        assert discarded.mtime_ns > before.mtime_ns

    def test_what_is_in_use_cannot_be_discarded(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        with store.pin("vol/a.voltool", "a restore"), pytest.raises(RefusedError):
            store.discard("vol/a.voltool")
        assert get(store, "vol/a.voltool") == DATA

    def test_nothing_is_recovered_over_another_file(self, store: Store) -> None:
        put(store, "vol/a.voltool", b"old")
        store.discard("vol/a.voltool")
        put(store, "vol/a.voltool", b"new")
        with pytest.raises(RefusedError):
            store.recover("vol/a.voltool")
        assert get(store, "vol/a.voltool") == b"new"
        assert [file.name for file in store.discarded()] == ["vol/a.voltool"]

    def test_purging(self, store: Store) -> None:
        put(store, "vol/a.voltool")
        store.discard("vol/a.voltool")
        store.purge("vol/a.voltool")
        store.purge("vol/a.voltool")
        assert list(store.discarded()) == []
        assert list(store.list()) == []

    def test_small_files_beside_the_dumps(self, store: Store) -> None:
        assert store.get_aside("config.toml") is None
        store.put_aside("config.toml", b"first")
        store.put_aside("config.toml", b"second")
        assert store.get_aside("config.toml") == b"second"
        assert [file.name for file in store.list()] == ["config.toml"]
        with pytest.raises(UsageError):
            store.put_aside("vol/config.toml", b"x")

    def test_what_is_being_written_can_be_read_back(self, store: Store) -> None:
        writer = store.create("vol/a.voltool")
        writer.write(DATA)
        reader = writer.read_back()
        assert reader.read_at(0, len(DATA) + 1) == DATA
        reader.close()
        writer.abandon()
        assert list(store.list()) == []

    def test_an_empty_store(self, store: Store) -> None:
        assert list(store.list()) == []
        assert store.sweep() == ()

    def test_space_is_known_or_none(self, store: Store) -> None:
        space = store.space()
        assert space is None or 0 <= space.free <= space.total
