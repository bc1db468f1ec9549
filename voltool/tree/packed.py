"""Records of a manifest as they lie packed in a block (`format.pack_records`), looked at many at a time. Ships to servers.

What is checked is what `format.unpack_records`, `decode_object` and `decode_entry` check of each. Most objects of a tree are
without targets and attributes, so that their records are equally long: those are taken apart by one call.
"""

from __future__ import annotations

import struct
from typing import List, NamedTuple, Sequence

from voltool.dumpfile import format as fmt

_SHORT = 4 + fmt.OBJECT_SIZE
_SHORT_LENGTH = fmt.RECORD_LENGTH.pack(fmt.OBJECT_SIZE)
#: Of a short object record with its length: number, mode, size, mtime nanoseconds, state bits, lengths of target and xattrs.
_SHORT_OBJECT = struct.Struct(">4xQI8xQ8xI8xB32xHI")
_LAST_NS = 999_999_999
#: An entry with its length: that and the directory; then the name; the NUL and the object.
_ENTRY_BEGIN, _ENTRY_END = struct.Struct(">IQ"), struct.Struct(">BQ")
_LEAST_ENTRY = 4 + 18
_NO_NAMES = (b".", b"..")
assert _SHORT_OBJECT.size == _SHORT


class ObjectColumns(NamedTuple):
    """Of each object of a block: its number, mode, size (as in its record), and where the length before it lies."""

    numbers: Sequence[int]
    modes: Sequence[int]
    sizes: Sequence[int]
    starts: Sequence[int]
    has_xattrs: bool


class EntryColumns(NamedTuple):
    """Of each entry of a block: its directory, the object that it names (0: a tombstone), and where the length before it lies."""

    directories: Sequence[int]
    children: Sequence[int]
    starts: Sequence[int]


def objects_in(raw: bytes, count: int, where: str = "") -> ObjectColumns:
    """Raises IntegrityError unless they are ``count`` sound object records, without gaps."""
    if count and len(raw) == count * _SHORT and _all_short(raw, count):
        numbers, modes, sizes, nanoseconds, states, targets, xattrs = zip(*_SHORT_OBJECT.iter_unpack(raw))
        if any(targets) or any(xattrs):
            raise fmt.damaged("an object record has a wrong length", where)
        known = all(not state & ~fmt.KNOWN_STATES for state in set(states))
        if max(nanoseconds) > _LAST_NS or not known or not all(numbers):
            raise fmt.damaged("an object record has a value out of range", where)
        return ObjectColumns(numbers, modes, sizes, range(0, len(raw), _SHORT), has_xattrs=False)
    records = fmt.unpack_records(raw, count, where)
    decoded = [fmt.decode_object(record, where) for record in records]
    return ObjectColumns(
        [each.number for each in decoded],
        [each.mode for each in decoded],
        [each.size for each in decoded],
        _starts(records),
        has_xattrs=any(each.xattrs for each in decoded),
    )


def _all_short(raw: bytes, count: int) -> bool:
    """Whether each length is that of a record without target and xattrs."""
    return all(raw[at::_SHORT] == _SHORT_LENGTH[at : at + 1] * count for at in range(4))


def _starts(records: Sequence[bytes]) -> List[int]:
    starts, at = [], 0
    for record in records:
        starts.append(at)
        at += 4 + len(record)
    return starts


def entries_in(raw: bytes, count: int, where: str = "") -> EntryColumns:
    """Raises IntegrityError unless they are ``count`` sound entry records, without gaps."""
    directories: List[int] = []
    children: List[int] = []
    starts: List[int] = []
    begin, finish, at, end = _ENTRY_BEGIN.unpack_from, _ENTRY_END.unpack_from, 0, len(raw)
    while at + _LEAST_ENTRY <= end:
        length, directory = begin(raw, at)
        stop = at + 4 + length
        if length < _LEAST_ENTRY - 4 or stop > end:
            break
        separator, child = finish(raw, stop - 9)
        name = raw[at + 12 : stop - 9]
        if separator or b"\0" in name or b"/" in name or name in _NO_NAMES or len(name) > 255:
            break
        directories.append(directory)
        children.append(child)
        starts.append(at)
        at = stop
    if at != end or len(starts) != count:
        for record in fmt.unpack_records(raw, count, where):
            fmt.decode_entry(record, where)
        raise fmt.damaged("a frame does not hold the records it claims", where)
    return EntryColumns(directories, children, starts)
