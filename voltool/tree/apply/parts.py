"""Of an assembled tree only the directories that an increment touches are taken apart, with those above them.

So an increment costs what it touches, and passes over the manifests. The parts are closed: with a directory all above it are
among them, before the increment and after it, so each can be found in its parent's place. They are written down in staging before
the first one is taken out. Ships to servers.
"""

from __future__ import annotations

import json
import os
import stat
from array import array
from bisect import bisect_left
from itertools import chain
from typing import Dict, Iterator, List, Optional, Set, Tuple

from voltool import durable
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.reader import DumpReader
from voltool.frozen import dataclass
from voltool.model import ROOT_OBJECT
from voltool.spool import SortedSpool
from voltool.tree.apply.files import flat_directory, flat_path
from voltool.tree.apply.skeleton import is_directory
from voltool.tree.stamps import SETTLED, HomeStamps, encode_home, encode_stamp, first_of_each
from voltool.tree.state import BaseState

_NAME = b"parts.json"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: The type in an object record's mode, of which byte 10 has the highest bits.
_IS_DIRECTORY = stat.S_IFDIR >> 8
#: What is not known to be as the manifest says.
_DOUBTFUL = fmt.STATE_UNKNOWN | fmt.STATE_UNSETTLED | fmt.STATE_FUZZY


@dataclass(frozen=True)
class Parts:
    """Object numbers: of the ``directories`` that are, or are to be, taken out, and of all that is ``touched``."""

    directories: Set[int]
    touched: Set[int]

    def with_those_of(self, other: Optional[Parts]) -> Parts:
        """Both."""
        if other is None:
            return self
        return Parts(self.directories | other.directories, self.touched | other.touched)


def parts_of(base: BaseState, reader: DumpReader) -> Parts:
    """What the increment touches of a tree that holds ``base``."""
    directories: Set[int] = {ROOT_OBJECT}
    touched: Set[int] = set()
    for record in reader.objects():
        number = int.from_bytes(record[:8], "big")
        touched.add(number)
        if not fmt.is_object_tombstone(record) and is_directory(record):
            directories.add(number)
    names: Dict[int, Set[bytes]] = {}
    for entry in reader.entries():
        names.setdefault(int.from_bytes(entry[:8], "big"), set()).add(entry[:-8])
        touched.add(int.from_bytes(entry[-8:], "big"))
    touched.discard(0)
    directories |= names.keys()
    touched |= _unnamed(base, names)
    known = _directories(base)
    directories |= {number for number in touched if _at(known, number) >= 0}
    _close(base, known, directories, touched)
    return Parts(directories, touched)


def _unnamed(base: BaseState, names: Dict[int, Set[bytes]]) -> Set[int]:
    """What has one of these names, by directory (entry records without the child): it loses it. If it has another one it stays,
    with another link count and ctime, though of the object itself nothing may come."""
    return {
        int.from_bytes(entry[-8:], "big")
        for directory in sorted(names)
        for entry in base.entries.group(directory)
        if entry[:-8] in names[directory]
    }


def _directories(base: BaseState) -> array[int]:
    """The numbers of all directories. What is looked at in each record is picked out of the packed records: they are many."""
    known = array("Q")
    unpack = fmt.RECORD_LENGTH.unpack_from
    for packed in base.objects.packed():
        position = 0
        while position < len(packed):
            (length,) = unpack(packed, position)
            position += 4
            if packed[position + 10] & 0xF0 == _IS_DIRECTORY:
                known.append(int.from_bytes(packed[position : position + 8], "big"))
            position += length
    return known


def _close(base: BaseState, known: array[int], directories: Set[int], touched: Set[int]) -> None:
    """Add the directories that have a name of what is touched, and everything above any."""
    children = Bitmap()
    for number in chain(known, touched):
        children.add(number)
    parents = array("Q", bytes(8 * len(known)))
    unpack = fmt.RECORD_LENGTH.unpack_from
    for packed in base.entries.packed():
        end = 0
        while end < len(packed):
            start = end + 4
            end = start + unpack(packed, end)[0]
            child = int.from_bytes(packed[end - 8 : end], "big")
            if child not in children:
                continue
            directory = int.from_bytes(packed[start : start + 8], "big")
            at = _at(known, child)
            if at >= 0:
                parents[at] = directory
            else:
                directories.add(directory)
    for number in list(directories):
        at = _at(known, number)
        while at >= 0 and parents[at] and parents[at] not in directories:
            directories.add(parents[at])
            at = _at(known, parents[at])


def _at(numbers: array[int], number: int) -> int:
    at = bisect_left(numbers, number)
    return at if at < len(numbers) and numbers[at] == number else -1


def save_parts(staging: bytes, parts: Parts) -> None:
    """Durably."""
    picture = {"directories": sorted(parts.directories), "touched": sorted(parts.touched)}
    durable.write_file(os.path.join(staging, _NAME), json.dumps(picture).encode())


def load_parts(staging: bytes) -> Optional[Parts]:
    """What was saved; None where the whole tree is, or is to be, taken apart. Raises OSError, ValueError."""
    try:
        with open(os.path.join(staging, _NAME), "rb") as file:
            picture = json.load(file)
    except FileNotFoundError:
        return None
    return Parts(set(picture["directories"]), set(picture["touched"]))


def forget_parts(staging: bytes) -> None:
    """The tree is assembled. Idempotent."""
    durable.remove_file(os.path.join(staging, _NAME))


def tree_of_parts(state: BaseState, parts: Parts) -> Iterator[Tuple[int, int, bytes, bytes]]:
    """(depth, parent, name, record) of each part that is a directory of ``state``, the root first."""
    level: List[Tuple[int, bytes, int]] = [(0, b"", ROOT_OBJECT)]
    depth = 0
    while level:
        below: List[Tuple[int, bytes, int]] = []
        for parent, name, number in sorted(level, key=lambda each: each[2]):
            record = state.object(number)
            if record is None or not is_directory(record):
                continue
            yield depth, parent, name, record
            for entry in state.entries.group(number):
                child = int.from_bytes(entry[-8:], "big")
                if child in parts.directories:
                    below.append((number, fmt.decode_entry(entry)[1], child))
        level = below
        depth += 1


def stamps_of_parts(
    staging: int, state: BaseState, parts: Parts, known: HomeStamps, believed_ns: int, spool: SortedSpool
) -> Iterator[bytes]:
    """The home stamps of ``state``, by inode, one or more at a time: those that are ``known`` of what is not touched, and of the
    rest what stands in the flat tree now, settled where its ctime is older than ``believed_ns``."""
    root = os.stat(flat_path(ROOT_OBJECT), dir_fd=staging)
    spool.add(encode_home(root.st_ino, ROOT_OBJECT, encode_stamp(root), 0))
    for number in sorted(parts.directories):
        wanted = [
            (name, child)
            for _directory, name, child in map(fmt.decode_entry, state.entries.group(number))
            if child in parts.touched or child in parts.directories
        ]
        if wanted:
            _stamp_names(staging, number, wanted, state, believed_ns, spool)
    return known.replaced(parts.touched | parts.directories, first_of_each(spool))


def _stamp_names(
    staging: int,
    directory: int,
    wanted: List[Tuple[bytes, int]],
    state: BaseState,
    believed_ns: int,
    spool: SortedSpool,
) -> None:
    descriptor = os.open(flat_directory(directory), _OPEN, dir_fd=staging)
    try:
        for name, number in wanted:
            status = _status(descriptor, name) or _status(staging, flat_path(number))
            if status is None:
                continue  # it could not be held here
            record = state.object(number)
            settled = record is not None and not record[fmt.STATE_OFFSET] & _DOUBTFUL
            settled = settled and not stat.S_ISDIR(status.st_mode) and status.st_ctime_ns < believed_ns
            spool.add(encode_home(status.st_ino, number, encode_stamp(status), SETTLED if settled else 0))
    finally:
        os.close(descriptor)


def _status(directory: int, path: bytes) -> Optional[os.stat_result]:
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
