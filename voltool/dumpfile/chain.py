"""A chain: a level 0 dump and the incrementals laid over it, read as the one complete manifest they lead to.

For each object and each name the newest dump that has a record of it wins; tombstones drop out. Data of an object stands
in the dump that brought its content hash (and, of a patch, in the versions below). Knows nothing of stores or of where
the bytes go. Part of what is shipped to servers.
"""

from __future__ import annotations

import heapq
import stat
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.compose import Layer, checked_content
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError
from voltool.model import ROOT_OBJECT, DumpHeader, DumpTotals

_GONE = b"\0" * 8


class Version(NamedTuple):
    """One dump's record of an object: the dump's place in the chain (0: oldest) and the record."""

    dump: int
    record: bytes


def has_content(record: fmt.ObjectRecord) -> bool:
    """Whether bytes belong to the record: a regular file that is not empty and whose content is known."""
    return stat.S_ISREG(record.mode) and record.size > 0 and record.content != fmt.NO_HASH


class Chain:
    """``readers`` oldest first. Raises IntegrityError unless they are of one volume and each fits the one before."""

    def __init__(self, readers: Sequence[DumpReader]) -> None:
        if not readers:
            raise NotFoundError("a chain needs at least one dump")
        self.readers = tuple(readers)
        self.newest = self.readers[-1]
        for position, reader in enumerate(self.readers):
            self._check_fit(reader, self.readers[position - 1] if position else None)

    @property
    def header(self) -> DumpHeader:
        """The newest dump's header."""
        return self.newest.header

    @property
    def totals(self) -> DumpTotals:
        """The newest dump's totals: its state, and how many objects and entries that has."""
        return self.newest.totals

    @staticmethod
    def _check_fit(reader: DumpReader, base: Optional[DumpReader]) -> None:
        header = reader.header
        if base is None:
            if header.level != 0:
                raise _unfit(reader, "its base is missing", "the store that holds the level 0 dump")
            return
        if header.volume_uuid != base.header.volume_uuid:
            raise _unfit(reader, f"{base.name} is of another volume", "the dumps of one volume")
        if header.base_state_id != base.state_id:
            raise _unfit(reader, f"{base.name} does not hold the state it was made against", "the right base")
        if header.level <= base.header.level:
            raise _unfit(reader, f"its level is not above that of its base {base.name}", "the right base")

    def versions(self) -> Iterator[List[Version]]:
        """For each object of any dump, by number: its records (tombstones too), newest first."""
        if len(self.readers) == 1:
            for record in self.newest.objects():
                yield [Version(0, record)]
            return
        streams = [_tagged(reader.objects(), -dump, 8) for dump, reader in enumerate(self.readers)]
        group: List[Version] = []
        last = b""
        for key, dump, record in heapq.merge(*streams):
            if key != last and group:
                yield group
                group = []
            last = key
            group.append(Version(-dump, record))
        if group:
            yield group

    def objects(self) -> Iterator[bytes]:
        """The final object records of the complete manifest, sorted by number."""
        for versions in self.versions():
            if not fmt.is_object_tombstone(versions[0].record):
                yield versions[0].record

    def entries(self) -> Iterator[bytes]:
        """The entry records of the complete manifest, sorted."""
        if len(self.readers) == 1:
            merged = self.newest.entries()
        else:
            streams = [_tagged(reader.entries(), -dump, -8) for dump, reader in enumerate(self.readers)]
            merged = _newest_of(heapq.merge(*streams))
        return (record for record in merged if record[-8:] != _GONE)

    def object(self, number: int) -> Optional[fmt.ObjectRecord]:
        """The final record of object ``number``; None where there is none (any more)."""
        for reader in reversed(self.readers):
            record = reader.object(number)
            if record is not None:
                if fmt.is_object_tombstone(record):
                    return None
                return fmt.decode_object(record, reader.name)
        return None

    def entries_of(self, directory: int, name: Optional[bytes] = None) -> Iterator[Tuple[bytes, int]]:
        """(name, object number) of the entries of one directory, sorted by name; with ``name`` that one alone."""
        streams = [_tagged(reader.entries_of(directory, name), -dump, -8) for dump, reader in enumerate(self.readers)]
        for record in _newest_of(heapq.merge(*streams)):
            _directory, found, child = fmt.decode_entry(record, self.newest.name)
            if child:
                yield found, child

    def lookup(self, parts: Sequence[bytes]) -> Optional[fmt.ObjectRecord]:
        """The object at a path given as names from the root on; no symlink is followed. None where there is none."""
        number = ROOT_OBJECT
        for part in parts:
            found = next(self.entries_of(number, part), None)
            if found is None:
                return None
            number = found[1]
        return self.object(number)

    def versions_of(self, number: int) -> List[Version]:
        """The records (tombstones too) of one object, newest first."""
        found = [Version(dump, reader.object(number) or b"") for dump, reader in enumerate(self.readers)]
        return [version for version in reversed(found) if version.record]

    def layers(self, versions: Sequence[Version]) -> List[Layer]:
        """Where the content of an object's newest version stands, newest layer first; empty where it has no content.

        IntegrityError where a patch has nothing below it.
        """
        layers: List[Layer] = []
        limit = 1 << 63
        at = 0
        while at < len(versions):
            record = self._decode(versions[at])
            if record is None or not has_content(record):
                break
            while at + 1 < len(versions) and self.inherits(versions[at], versions[at + 1], record):
                at += 1
            limit = min(limit, record.size)
            reader = self.readers[versions[at].dump]
            fresh = record.size <= fmt.CHUNK_SIZE or at + 1 == len(versions) or bool(reader.begins_fresh(record.number))
            layers.append(Layer(versions[at].dump, reader, limit, fresh))
            if fresh:
                return layers
            at += 1
        if layers and not self._ends_empty(versions, at):
            raise fmt.damaged("a change of a file has no base", layers[-1].reader.name)
        return layers

    def inherits(self, version: Version, older: Version, record: fmt.ObjectRecord) -> bool:
        """Whether ``version`` left the content as ``older`` has it: the same bytes, and no data of its own.

        Zeros written over a hole change the layout and no byte: then the newer dump has data, and it counts. Data of a
        file that could not be read to its end counts for nothing.
        """
        if version.record[fmt.STATE_OFFSET] & fmt.STATE_UNKNOWN:
            return same_content(older.record, record)
        return same_content(older.record, record) and self.readers[version.dump].begins_fresh(record.number) is None

    def _decode(self, version: Version) -> Optional[fmt.ObjectRecord]:
        if fmt.is_object_tombstone(version.record):
            return None
        return fmt.decode_object(version.record, self.readers[version.dump].name)

    def _ends_empty(self, versions: Sequence[Version], at: int) -> bool:
        record = self._decode(versions[at]) if at < len(versions) else None
        return record is not None and stat.S_ISREG(record.mode) and record.size == 0

    def content(self, record: fmt.ObjectRecord) -> Iterator[memoryview]:
        """The bytes of a regular file, holes as zeros, checked before they are given out; IntegrityError.

        A piece is valid until the next one is asked for. A file without known content gives nothing.
        """
        layers = self.layers(self.versions_of(record.number)) if has_content(record) else []
        if layers:
            yield from checked_content(layers, record, self.newest.name)

    def path_of(self, number: int) -> bytes:
        """One path of an object, relative to the root (``b""``); slow (reads the entries once a level), for messages."""
        parts: List[bytes] = []
        while number != ROOT_OBJECT and len(parts) < 4096:
            found = self._name_of(number)
            if found is None:
                return b"/".join([b"(object %d)" % number, *reversed(parts)])
            number, name = found
            parts.append(name)
        return b"/".join(reversed(parts))

    def _name_of(self, number: int) -> Optional[Tuple[int, bytes]]:
        wanted = number.to_bytes(8, "big")
        for record in self.entries():
            if record[-8:] == wanted:
                directory, name, _child = fmt.decode_entry(record, self.newest.name)
                return directory, name
        return None

    def owners(self) -> List[bytes]:
        """The owner records of all dumps; of two for one number the newest."""
        owners: Dict[bytes, bytes] = {}
        for reader in self.readers:
            for record in reader.records(fmt.OWNERS):
                owners[record[: fmt.OWNER.size]] = record
        return sorted(owners.values())


def same_content(older: bytes, record: fmt.ObjectRecord) -> bool:
    """Whether an older record of an object is of a file with the very content of ``record``: then it is inherited."""
    if fmt.is_object_tombstone(older):
        return False
    other = fmt.decode_object(older)
    return stat.S_ISREG(other.mode) and (other.content, other.size) == (record.content, record.size)


def _tagged(records: Iterator[bytes], order: int, key_end: int) -> Iterator[Tuple[bytes, int, bytes]]:
    for record in records:
        yield record[:key_end], order, record


def _newest_of(merged: Iterator[Tuple[bytes, int, bytes]]) -> Iterator[bytes]:
    last: Optional[bytes] = None
    for key, _order, record in merged:
        if key != last:
            last = key
            yield record


def _unfit(reader: DumpReader, why: str, remedy: str) -> IntegrityError:
    return IntegrityError("a dump does not fit its base", where=reader.name, why=why, remedy=remedy)
