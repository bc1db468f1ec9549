"""Final object records in order: OBJECTS overlaid by CONTENT, hashed to the state id as they pass.

Also what an object's state says: which files have no content, or not their last. Part of what is shipped to servers.
"""

from __future__ import annotations

import itertools
from typing import Callable, Dict, Iterator, List

from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord, StateHasher
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.assemble import DirectorySpool
from voltool.tree.apply.attributes import SEALS
from voltool.tree.apply.losses import MAX_NAMED, Losses
from voltool.tree.apply.skeleton import MAX_SIZE, Skeleton, is_directory, is_regular

_SIZE, _FLAGS, _STATE, _HASH = 4, 7, 9, 10


class FinalRecords:
    """Fed with CONTENT records; everything of OBJECTS before them is final. Directories go to ``directories``.

    ``make_empty`` is called for files that are final without content.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        hasher: StateHasher,
        directories: DirectorySpool,
        losses: Losses,
        make_empty: Callable[[bytes], None],
    ) -> None:
        self._skeleton = skeleton
        self._hasher = hasher
        self._directories = directories
        self._losses = losses
        self._make_empty = make_empty
        self._objects = self._iterate()
        self._next = b""
        #: Files whose content is older than it should be; that were being written to; sealed names of the root.
        self.old: List[int] = []
        self.unsettled: List[int] = []
        self.sealed: Dict[bytes, int] = {}

    def overlay(self, records: List[bytes]) -> None:
        """The next CONTENT records. Raises IntegrityError where OBJECTS does not have them in this order."""
        objects = self._rest()
        add = self._hasher.add_object
        for record in records:
            key = record[:8]
            for known in objects:
                if known[:8] >= key:
                    break
                self._without_content(known)
                add(known)
            else:
                known = b""
            if known[:8] != key or not is_regular(known):
                raise fmt.damaged("it has content of an object it does not have")
            self._check(record)
            add(record)

    def pending(self, number: int) -> ObjectRecord:
        """What OBJECTS says of a file whose data has begun to come."""
        key = number.to_bytes(8, "big")
        for known in self._rest():
            if known[:8] >= key:
                self._next = known
                break
            self._without_content(known)
            self._hasher.add_object(known)
        if self._next[:8] != key or not is_regular(self._next):
            raise fmt.damaged("it has content of an object it does not have")
        return fmt.decode_object(self._next)

    def finish(self) -> None:
        """No more CONTENT comes."""
        for known in self._rest():
            self._without_content(known)
            self._hasher.add_object(known)

    def _rest(self) -> Iterator[bytes]:
        if not self._next:
            return self._objects
        first, self._next = self._next, b""
        return itertools.chain((first,), self._objects)

    def _iterate(self) -> Iterator[bytes]:
        directories = self._skeleton.directories
        names = self._skeleton.directory_names()
        at = 0
        for record in self._skeleton.objects.records():
            if is_directory(record):
                self._directories.add(directories.depths[at], directories.parents[at], next(names), record)
                at += 1
            yield record

    def _check(self, record: bytes) -> None:
        fields = fmt.OBJECT.unpack_from(record) if len(record) >= fmt.OBJECT_SIZE else None
        if fields is None or not is_regular(record) or fields[_SIZE] > MAX_SIZE or fields[_STATE] & fmt.STATE_PENDING:
            raise fmt.damaged("a content record is not that of a file")
        number, state = fields[0], fields[_STATE]
        if state & fmt.STATE_VANISHED:
            pass  # nobody misses what was deleted
        elif is_omitted(record):
            self._losses.unread(number)
        elif state & fmt.STATE_UNKNOWN:
            self._note(self.old, number)
        elif state & fmt.STATE_UNSETTLED:
            self._note(self.unsettled, number)
        if fields[_FLAGS] & SEALS:
            for name in self._skeleton.names.of(number):
                if name.directory == ROOT_OBJECT:
                    self.sealed[name.name] = fields[_FLAGS]

    def _note(self, numbers: List[int], number: int) -> None:
        if len(numbers) < MAX_NAMED:
            numbers.append(number)
        else:
            self._losses.unnamed += 1

    def _without_content(self, record: bytes) -> None:
        """An object of OBJECTS without a CONTENT record is final as it is; a file among them has no bytes."""
        if not is_regular(record):
            return
        number, state, size = (fmt.OBJECT.unpack_from(record)[at] for at in (0, _STATE, _SIZE))
        if state & fmt.STATE_UNKNOWN:
            if not state & fmt.STATE_VANISHED:
                self._losses.unread(number)
        elif size or state & fmt.STATE_PENDING:
            raise fmt.damaged("the content of an object never came")
        else:
            self._check(record)
            self._make_empty(record)


def is_omitted(record: bytes) -> bool:
    """Whether a file's content was never read: there is nothing to make it of."""
    fields = fmt.OBJECT.unpack_from(record)
    return bool(fields[_STATE] & fmt.STATE_UNKNOWN) and fields[_HASH] == fmt.NO_HASH
