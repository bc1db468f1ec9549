"""Records taken apart many at a time: the same as one by one, and what is no sound record is refused all the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.dumpfile import format as fmt
from voltool.errors import IntegrityError
from voltool.tree.packed import entries_in, objects_in

_LONG = st.sampled_from([b"", b"", b"", b"target"])
_OBJECTS = st.builds(
    fmt.ObjectRecord,
    number=st.integers(0, 1 << 40),
    mode=st.sampled_from([0o100644, 0o40755, 0o120777, 0]),
    uid=st.integers(0, 9),
    gid=st.integers(0, 9),
    size=st.sampled_from([0, 5, 1 << 30]),
    mtime_s=st.integers(-5, 5),
    mtime_ns=st.sampled_from([0, 999_999_999, 1_000_000_000]),
    flags=st.just(0),
    project=st.just(0),
    state=st.sampled_from([0, 2, 0x40]),
    content=st.just(fmt.NO_HASH),
    target=_LONG,
    xattrs=_LONG,
)
_NAMES = st.sampled_from([b"a", b"..", b".", b"b/c", b"\0", b"n" * 255, b"n" * 256, b"...", b""])
_ENTRIES = st.builds(fmt.encode_entry, st.integers(1, 9), _NAMES, st.integers(0, 99))


@given(records=st.lists(_OBJECTS.map(fmt.encode_object), max_size=6), wrong=st.integers(-1, 1), cut=st.integers(0, 3))
def test_objects(records: list[bytes], wrong: int, cut: int) -> None:
    raw = fmt.pack_records(records)
    raw, count = raw[: len(raw) - cut], max(0, len(records) + wrong * (cut % 2))
    try:
        sound = [fmt.decode_object(record) for record in fmt.unpack_records(raw, count)]
    except IntegrityError:
        with pytest.raises(IntegrityError):
            objects_in(raw, count)
        return
    found = objects_in(raw, count)
    assert list(found.numbers) == [each.number for each in sound]
    assert list(found.modes) == [each.mode for each in sound]
    assert list(found.sizes) == [each.size for each in sound]
    assert [raw[at + 4 : at + 12] for at in found.starts] == [record[:8] for record in records]
    assert found.has_xattrs == any(each.xattrs for each in sound)


@given(records=st.lists(_ENTRIES, max_size=6), wrong=st.integers(-1, 1), cut=st.integers(0, 3))
def test_entries(records: list[bytes], wrong: int, cut: int) -> None:
    raw = fmt.pack_records(records)
    raw, count = raw[: len(raw) - cut], max(0, len(records) + wrong * (cut % 2))
    try:
        sound = [fmt.decode_entry(record) for record in fmt.unpack_records(raw, count)]
    except IntegrityError:
        with pytest.raises(IntegrityError):
            entries_in(raw, count)
        return
    found = entries_in(raw, count)
    assert list(zip(found.directories, found.children, strict=True)) == [(each[0], each[2]) for each in sound]
    assert [raw[at + 4 : at + 12] for at in found.starts] == [record[:8] for record in records]


def test_lengths_in_a_record_that_do_not_fit_it() -> None:
    record = fmt.encode_object(fmt.ObjectRecord(1, 0o100644, 0, 0, 0, 0, 0, 0, 0, 0, fmt.NO_HASH, b"", b""))
    for lengths in (b"\0\1\0\0\0\0", b"\0\0\0\0\0\1"):
        with pytest.raises(IntegrityError, match="length"):
            objects_in(fmt.pack_records([record[:-6] + lengths]), 1)
