"""A point in time that is looked at is pinned; a while after the last look it is not, however long the mount stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.harness import Rig
from voltool.browse.opened import OpenPoints
from voltool.browse.points import AllPoints, folder_name
from voltool.errors import IntegrityError


def test_pins_last_as_long_as_somebody_looks(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_bytes(b"content")
    now = [1000.0]
    with Rig(tmp_path / "rig", volume) as rig:
        base, top = rig.dump(0), rig.dump(1)
        store = rig.world.stores.open(base.store)
        opened = OpenPoints(rig.world, numeric_owner=True, idle_seconds=300, clock=lambda: now[0])
        assert not store.is_pinned(base.file)
        tree = opened.hold(top)  # an open file
        assert store.is_pinned(base.file)
        assert store.is_pinned(top.file)
        now[0] += 10_000
        opened.sweep()
        assert store.is_pinned(base.file)
        record = tree.lookup([b"file"])
        assert record is not None
        assert tree.content(record).read(0, 100) == b"content"
        opened.release(top)
        now[0] += 299
        opened.sweep()
        assert store.is_pinned(top.file)
        now[0] += 2
        opened.sweep()
        assert not store.is_pinned(base.file)
        assert not store.is_pinned(top.file)
        with opened.use(top) as again:  # it opens again by itself
            assert again.content(record).read(0, 100) == b"content"
            assert store.is_pinned(top.file)
        os.unlink(tmp_path / "rig" / "store" / base.file)
        opened.close()
        assert not store.is_pinned(top.file)
        rig.catalog.remove_dump(base.header.dump_id)
        with pytest.raises(IntegrityError, match="base"):
            opened.hold(top)


def test_the_list_follows_the_store(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    now = [1000.0]
    with Rig(tmp_path / "rig", volume) as rig:
        url = str(tmp_path / "rig" / "store")
        points = AllPoints(rig.world, rig.volume.uuid, "vol", [url], clock=lambda: now[0])
        assert points.folders() == {}
        dumps = [rig.dump(0), rig.dump(1)]
        now[0] += 3
        assert list(points.folders()) == [folder_name(dump) for dump in dumps]
        rig.catalog.remove_dump(dumps[0].header.dump_id)  # what the catalog has lost the store still has
        rig.world.stores.open(url).discard(dumps[1].file)
        now[0] += 3
        assert [dump.header.dump_id for dump in points.folders().values()] == [dumps[0].header.dump_id]
