"""What does not change is passed on as it lies there, many records at a time: the same records come out as one by one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.dumpfile import format as fmt
from voltool.tree import recordfile, stamps
from voltool.tree.recordfile import Block, RecordFile, RecordFileWriter, joined
from voltool.tree.stamps import FROZEN, SETTLED, HomeStamps, encode_home

NUMBERS = st.integers(1, 40)
TAILS = st.sampled_from([b"", b"a", b"b" * 30, b"c" * 200])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordfile, "_BLOCK", 100)
    monkeypatch.setattr(stamps, "_AT_A_TIME", 3)


@given(
    olds=st.dictionaries(NUMBERS, TAILS),
    changes=st.dictionaries(NUMBERS, TAILS),
    gone=st.frozensets(NUMBERS),
    rounds=st.integers(1, 3),
)
def test_records(olds: dict[int, bytes], changes: dict[int, bytes], gone: frozenset[int], rounds: int) -> None:
    """Objects: one record for each number. What was written out of blocks is read, and written out of blocks, again."""
    expected = {**olds, **changes}
    expected = {number: tail for number, tail in expected.items() if number not in gone or number in changes}
    touched = gone | changes.keys()
    with tempfile.TemporaryDirectory() as place:
        path = os.fsencode(place) + b"/%d"
        _write(path % 0, iter(_record(*each) for each in sorted(olds.items())), fmt.StateHasher())
        for number in range(rounds):
            hasher = fmt.StateHasher()
            file = RecordFile(path % number)
            news = iter([_record(*each) for each in sorted(changes.items())])
            _write(path % (number + 1), _merged(joined(file.around(sorted(touched)), news, 0), touched), hasher)
            near = [record for record in file if int.from_bytes(record[:8], "big") in touched]
            assert [each for each in file.near(sorted(touched)) if int.from_bytes(each[:8], "big") in touched] == near
            file.close()
        result = RecordFile(path % rounds)
        records = [_record(*each) for each in sorted(expected.items())]
        assert (list(result), result.count()) == (records, len(records))
        assert hasher.state_id() == _hashed_one_by_one(records)
        assert hasher.objects == len(records)
        result.close()


def _merged(
    pairs: Iterator[tuple[bytes | Block | None, bytes | None]], touched: frozenset[int]
) -> Iterator[bytes | Block]:
    for old, new in pairs:
        if new is not None:
            yield new
        elif isinstance(old, Block) or (old is not None and int.from_bytes(old[:8], "big") not in touched):
            yield old


def _write(path: bytes, records: Iterator[bytes | Block], hasher: fmt.StateHasher) -> None:
    writer = RecordFileWriter(path, fmt.OBJECTS)
    for record in records:
        if isinstance(record, Block):
            writer.add_block(record)
            hasher.add_objects(record.raw, record.records)
        else:
            writer.add(record)
            hasher.add_object(record)
    writer.close()


def _record(number: int, tail: bytes) -> bytes:
    return number.to_bytes(8, "big") + tail


def _hashed_one_by_one(records: list[bytes]) -> str:
    hasher = fmt.StateHasher()
    for record in records:
        hasher.add_object(record)
    return hasher.state_id()


HOMES = st.dictionaries(
    st.integers(1, 40),
    st.tuples(NUMBERS, st.sampled_from([b"owner--1", b"owner--2"]), st.sampled_from([0, SETTLED, FROZEN])),
)


@given(known=HOMES, fresh=HOMES, touched=st.frozensets(NUMBERS))
def test_stamps(
    known: dict[int, tuple[int, bytes, int]], fresh: dict[int, tuple[int, bytes, int]], touched: frozenset[int]
) -> None:
    kept = {inode: home for inode, home in known.items() if home[0] not in touched}
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(_homes(known)))
        file.flush()
        found = HomeStamps(os.fsencode(file.name))
        assert list(found) == _homes(known)
        assert b"".join(found.replaced(touched, _homes(fresh))) == b"".join(_homes({**kept, **fresh}))
        assert list(found.doubtful()) == [home for home in _homes(known) if not home[64]]
        assert found.owners(without=touched) == {owner for _number, owner, _flags in kept.values()}
        found.close()


def _homes(homes: dict[int, tuple[int, bytes, int]]) -> list[bytes]:
    stamp = b"mode%b" + bytes(36)
    return [encode_home(inode, number, stamp % owner, flags) for inode, (number, owner, flags) in sorted(homes.items())]
