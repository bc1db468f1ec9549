"""What moved ahead of every round of a walk: names that busy directories have in the end and that no listing has. Ships to
servers.

A name that a directory lacks came after its listing. So once the rounds are given up, what is missing is in a directory that
changed since, or below one: those are looked at again, and what is found only now is added. Nothing is taken away.
"""

from __future__ import annotations

import stat
import struct
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

from voltool.spool import SortedSpool
from voltool.tree.stamps import MODE, STAMP_SIZE, decode_stamp

#: How often each directory is looked at: what moves on between two looks may be missed by one.
LOOKS = 3
#: Where a NAME record (see `tree.walk`) has its kind, its stamp and its directory; the name follows.
_KIND, _STAMP, _DIRECTORY = 8, 9, 9 + STAMP_SIZE
_NAME = 1
_ORDER = struct.Struct(">I")


class _Sight(NamedTuple):
    """A name that was seen, and in which look."""

    order: int
    record: bytes


def latecomers(
    listings: Callable[[], Iterator[bytes]], busy: List[int], look: Callable[[int], Iterator[bytes]], directory: bytes
) -> List[bytes]:
    """NAME records of what the directories ``busy`` have now and no listing has. ``listings`` gives the records of all
    listings that count, ``look`` the NAME records of one directory as it is now; ``directory`` is for temporary files."""
    with SortedSpool(directory) as seen, SortedSpool(directory) as listed:
        for order in range(LOOKS):
            for index in busy:
                for record in look(index):
                    seen.add(record[_DIRECTORY:] + b"\0" + _ORDER.pack(order) + record[:_DIRECTORY])
        among = {_ORDER.pack(index) for index in busy}
        for record in listings():
            if record[_KIND] == _NAME and record[_DIRECTORY : _DIRECTORY + _ORDER.size] in among:
                listed.add(record[_DIRECTORY:])
        return _found_nowhere(listings, _newest(_unlisted(seen, listed)))


def _unlisted(seen: SortedSpool, listed: SortedSpool) -> Iterator[_Sight]:
    """What was seen under a name that the directory's listing does not have."""
    names = iter(listed)
    name = next(names, None)
    for entry in seen:
        split = len(entry) - _DIRECTORY - _ORDER.size
        key = entry[: split - 1]
        while name is not None and name < key:
            name = next(names, None)
        if name != key:
            (order,) = _ORDER.unpack_from(entry, split)
            yield _Sight(order, entry[split + _ORDER.size :] + key)


def _newest(sights: Iterator[_Sight]) -> Dict[bytes, _Sight]:
    """By inode, of hard links also by place: what moved meanwhile is where it was seen last."""
    newest: Dict[bytes, _Sight] = {}
    for sight in sights:
        key = sight.record[:_KIND] + (sight.record[_DIRECTORY:] if _is_linked(sight.record) else b"")
        known = newest.get(key)
        if known is None or known.order <= sight.order:
            newest[key] = sight
    return newest


def _found_nowhere(listings: Callable[[], Iterator[bytes]], newest: Dict[bytes, _Sight]) -> List[bytes]:
    """Those whose inode no listing has; further names of linked files too."""
    if newest:
        for record in listings():
            if record[_KIND] == _NAME:
                newest.pop(record[:_KIND], None)
    places: Dict[bytes, Tuple[int, bytes]] = {}
    for sight in newest.values():  # one name, one object: the one that was seen last
        place = sight.record[_DIRECTORY:]
        if place not in places or places[place][0] <= sight.order:
            places[place] = (sight.order, sight.record)
    return [record for _order, record in places.values()]


def _is_linked(record: bytes) -> bool:
    stamp = record[_STAMP:_DIRECTORY]
    return not stat.S_ISDIR(int.from_bytes(stamp[MODE], "big")) and decode_stamp(stamp).links > 1
