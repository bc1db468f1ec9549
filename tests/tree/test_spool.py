from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voltool.spool import SortedSpool


@pytest.mark.parametrize("run_bytes", [1, 500, 1 << 20])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=st.lists(st.binary(max_size=40)))
def test_records_come_back_sorted_as_often_as_wanted(tmp_path: Path, run_bytes: int, records: list[bytes]) -> None:
    with SortedSpool(os.fsencode(tmp_path), run_bytes=run_bytes) as spool:
        spool.add_many(records[::2])
        for record in records[1::2]:
            spool.add(record)
        assert spool.count == len(records)
        assert list(spool) == sorted(records)
        assert list(spool) == sorted(records)
        spool.add(b"late")
        assert list(spool) == sorted([*records, b"late"])


def test_nothing_is_left_in_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / "spools"
    directory.mkdir()
    with SortedSpool(os.fsencode(directory), run_bytes=100) as spool:
        for number in range(1000):
            spool.add(b"%d" % (number * 7919 % 1000))
        assert list(spool)
        assert os.listdir(directory) == []
        spool.close()


def test_two_readers_at_once(tmp_path: Path) -> None:
    with SortedSpool(os.fsencode(tmp_path), run_bytes=100) as spool:
        records = [b"%06d" % (number * 7919 % 5000) for number in range(5000)]
        spool.add_many(records)
        assert [pair for pair in zip(spool, spool, strict=True) if pair[0] != pair[1]] == []
