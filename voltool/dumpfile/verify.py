"""Checks a chain completely: every byte of every dump, every record, every hash, the state each dump leads to.

Knows nothing of stores. Memory is flat. Part of what is shipped to servers.
"""

from __future__ import annotations

import stat
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain, Version, has_content
from voltool.dumpfile.compose import check_content
from voltool.dumpfile.frames import Frame, FrameDecoder, decode_data, decode_records
from voltool.dumpfile.structure import StructureCheck
from voltool.errors import IntegrityError
from voltool.showing import shown

#: Called with bytes of dumps read so far (of all dumps' lengths together) and files whose content was checked.
Progress = Callable[[int, int], None]


def verify_chain(chain: Chain, progress: Progress = lambda _bytes, _files: None) -> None:
    """Raise IntegrityError, naming dump and file, unless all of the chain is as it was written.

    Oldest first: what a dump inherits has been checked in the dump that holds it.
    """
    done = (0, 0)
    for position in range(len(chain.readers)):
        check = _DumpCheck(Chain(chain.readers[: position + 1]), done, progress)
        done = check.run()


def verify_manifest(
    chain: Chain, each: Callable[[fmt.ObjectRecord, Sequence[Version]], None] = lambda _record, _versions: None
) -> None:
    """Raise IntegrityError unless the chain's records make a tree and lead to the state it states; no content is read.

    ``each`` is called with every object and its versions.
    """
    where = chain.newest.name
    hasher = fmt.StateHasher()
    structure = StructureCheck(where)
    for versions in chain.versions():
        if not fmt.is_object_tombstone(versions[0].record):
            record = fmt.decode_object(versions[0].record, where)
            fmt.decode_xattrs(record.xattrs, where)
            structure.object(record.number, record.mode)
            hasher.add_object(versions[0].record)
            each(record, versions)
    for entry in chain.entries():
        directory, _name, child = fmt.decode_entry(entry, where)
        structure.entry(directory, child)
        hasher.add_entry(entry)
    structure.finish()
    totals = chain.totals
    if (totals.state_id, totals.objects, totals.entries) != (hasher.state_id(), hasher.objects, hasher.entries):
        raise fmt.damaged("its records do not lead to the state its trailer states", where)


class _DumpCheck:
    """Checks the newest dump of a chain whose older ones have been checked."""

    def __init__(self, chain: Chain, done: Tuple[int, int], progress: Progress) -> None:
        self._chain = chain
        self._reader = chain.newest
        self._name = chain.newest.name
        self._bytes, self._files = done
        self._progress = progress
        self._good = Bitmap()
        self._final: Optional[bytes] = None

    def run(self) -> Tuple[int, int]:
        """Check everything; bytes read and files checked since the beginning."""
        self._check_frames()
        self._check_manifest()
        self._progress(self._bytes, self._files)
        return self._bytes, self._files

    # ------------------------------------------------------------------------------------------------------ frames

    def _check_frames(self) -> None:
        decoder = FrameDecoder(self._name)
        finals = self._reader.records(fmt.CONTENT)
        self._final = next(finals, None)
        for data in self._reader.raw():
            for frame in decoder.feed(data):
                if frame.header.type == fmt.DATA:
                    self._check_data(frame, finals)
                elif frame.header.type == fmt.OWNERS:
                    for record in decode_records(frame, self._name):
                        fmt.decode_owner(record, self._name)
            self._bytes += len(data)
            self._progress(self._bytes, self._files)
        decoder.finish()

    def _check_data(self, frame: Frame, finals: Iterator[bytes]) -> None:
        """Check the small files of a DATA frame (its extents and hashes); of a large one only the frame's form."""
        extents, raw = decode_data(frame, self._name)
        files: Dict[int, List[Tuple[fmt.Extent, memoryview]]] = {}
        for extent, data in fmt.iter_extents_with_data(raw, extents):
            files.setdefault(extent.number, []).append((extent, data))
        if list(files) != sorted(files) or (extents and extents[0].number != frame.header.key):
            raise fmt.damaged("the objects in a data frame are not in order", self._name)
        for number, parts in files.items():
            record = self._record_of(number, finals)
            if record.size <= fmt.CHUNK_SIZE:
                self._check_small(record, parts)
            elif len(files) > 1:
                raise fmt.damaged("a large file shares a data frame with others", self._name)

    def _record_of(self, number: int, finals: Iterator[bytes]) -> fmt.ObjectRecord:
        key = number.to_bytes(8, "big")
        while self._final is not None and self._final[:8] < key:
            self._final = next(finals, None)
        if self._final is None or self._final[:8] != key:
            raise fmt.damaged("it has data of a file without a final record", self._name)
        return fmt.decode_object(self._final, self._name)

    def _check_small(self, record: fmt.ObjectRecord, parts: Sequence[Tuple[fmt.Extent, memoryview]]) -> None:
        content = bytearray(record.size)
        end = 0
        for extent, data in parts:
            if extent.offset < end or extent.offset + extent.length > record.size:
                raise self._broken(record.number, "has data beyond its end, or twice")
            end = extent.offset + extent.length
            if extent.kind == fmt.EXTENT_DATA:
                content[extent.offset : end] = data
        if not parts[0][0].flags & fmt.EXTENT_FRESH or fmt.hash_small(bytes(content)) != record.content:
            raise self._broken(record.number, "does not have the content its hash says")
        self._good.add(record.number)
        self._files += 1

    # ---------------------------------------------------------------------------------------------------- manifest

    def _check_manifest(self) -> None:
        def check(record: fmt.ObjectRecord, versions: Sequence[Version]) -> None:
            if versions[0].dump == len(self._chain.readers) - 1:
                self._check_content(record, versions)

        verify_manifest(self._chain, check)

    def _check_content(self, record: fmt.ObjectRecord, versions: Sequence[Version]) -> None:
        if not has_content(record):
            if record.content != fmt.NO_HASH or (stat.S_ISREG(record.mode) and record.size and not _unknown(record)):
                raise self._broken(record.number, "has a size or a hash that does not fit its type")
            return
        # What a dump inherits was checked there; equal hashes alone do not tell, for it may have data of its own.
        if record.number in self._good or (
            len(versions) > 1 and self._chain.inherits(versions[0], versions[1], record)
        ):
            return
        if record.size <= fmt.CHUNK_SIZE:
            raise self._broken(record.number, "has no data")
        try:
            check_content(self._chain.layers(versions), record, self._name)
        except IntegrityError as error:
            raise self._broken(record.number, f"is damaged ({error.why})") from None
        self._files += 1
        self._progress(self._bytes, self._files)

    def _broken(self, number: int, what: str) -> IntegrityError:
        return fmt.damaged(f"{shown(self._chain.path_of(number)) or '/'} {what}", self._name)


def _unknown(record: fmt.ObjectRecord) -> bool:
    return bool(record.state & fmt.STATE_UNKNOWN)
